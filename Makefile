# Two commands matter: `make demo` and `make test`. Both make their own virtual environment from exact pins.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH := $(shell grep '^torch==' constraints.txt)
# Arguments for pip when it installs torch, such as the index of a CPU or a CUDA build; see docs/cluster.md, GPU nodes.
TORCH_ARGS ?=
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# One thread a process: the parallel work is in jobs and test workers; the network sets its own number.
export OMP_NUM_THREADS ?= 1

# $(call step,NAME,COMMAND): says what begins, and names the step if it fails.
define step
@printf '\n==> %s\n' '$(1)'; { $(2); } || { printf '\n==> FAILED: %s\n' '$(1)' >&2; exit 1; }
endef

.PHONY: demo test viewer test-faults test-slurm test-wheel check docs config train-default clean
.DEFAULT_GOAL := demo

$(VENV)/.core: pyproject.toml constraints.txt
	$(call step,set-up 1/3: virtual environment in $(VENV),$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else "Python 3.11 or newer is needed; this is %d.%d: run make PYTHON=python3.11" % v[:2])' && $(PYTHON) -m venv $(VENV))
	$(call step,set-up 2/3: $(TORCH),$(BIN)/pip install $(TORCH_ARGS) '$(TORCH)')
	$(call step,set-up 3/3: Plateflow and what it needs,$(BIN)/pip install -c constraints.txt -e .)
	@touch $@

# CUDA builds of torch bring the Triton that fits them, so it has no line in constraints.txt; of CPU builds, which have
# none, tests need its interpreter and compiler. There are builds for Linux alone.
TRITON := triton==3.6.0
# Cellpose asks for other versions of torch than ours, so it comes without its dependencies (the extra `peers` has the few
# that it lacks), and torchvision, built for another torch, is left its pure Python part: the peer needs no more.
TORCHVISION := $(shell sed -n 's/^torchvision==//p' constraints.txt)
$(VENV)/.dev: $(VENV)/.core
	$(call step,set-up for tests 1/3: tools and peers,$(BIN)/pip install -c constraints.txt -e '.[dev$(comma)peers$(comma)docs$(comma)anndata]')
	$(call step,set-up for tests 2/3: Cellpose,$(BIN)/pip install -c constraints.txt --no-deps cellpose segment-anything torchvision)
	@echo "__version__ = '$(TORCHVISION)'" > "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')/torchvision/__init__.py"
	$(call step,set-up for tests 3/3: Triton,[ "$$(uname)" != Linux ] || $(BIN)/python -c 'import triton' 2>/dev/null || $(BIN)/pip install '$(TRITON)')
	@touch $@

comma := ,

demo: $(VENV)/.core
	$(call step,demo: simulate a plate$(comma) run the pipeline on it$(comma) compare with the truth,$(BIN)/plateflow demo)

test: $(VENV)/.dev check
	$(call step,tests,$(BIN)/python -m pytest -n 2)

test-faults: $(VENV)/.dev
	$(call step,every operation on a file fails once,PLATEFLOW_FAULTS_ALL=1 $(BIN)/python -m pytest -n 2 tests/workflow/test_operations.py tests/workflow/test_every_kind.py)

# SLURM's packages, and a daemon's rights to start by hand alone. Needs root and apt, and says so.
SLURM_PACKAGES := munge slurmctld slurmd slurm-client slurmdbd mariadb-server
$(VENV)/.slurm: $(VENV)/.dev
	$(call step,set-up of SLURM 1/2: its packages,dpkg -s $(SLURM_PACKAGES) >/dev/null 2>&1 || (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(SLURM_PACKAGES) >/dev/null))
	$(call step,set-up of SLURM 2/2: the plugin,$(BIN)/pip install -c constraints.txt -e '.[slurm]')
	@touch $@

# Debian's Chromium, for tests/browser. Needs root and apt, and says so.
$(VENV)/.browser: $(VENV)/.dev
	$(call step,set-up of the browser,dpkg -s chromium >/dev/null 2>&1 || (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null))
	@touch $@

test-slurm: $(VENV)/.slurm
	$(call step,tests on a real SLURM,$(BIN)/python -m pytest tests/slurm)

# The wheel of this checkout in an environment of its own; TORCH_ARGS as above.
test-wheel: $(VENV)/.dev
	$(call step,a plate from a wheel,TORCH_ARGS="$(TORCH_ARGS)" $(BIN)/python -m pytest tests/wheel)

check: $(VENV)/.dev docs
	$(call step,lint: ruff,$(BIN)/ruff check . && $(BIN)/ruff format --check .)
	$(call step,lint: snakefmt,$(BIN)/snakefmt --check Snakefile rules)
	$(call step,lint: imports run downwards,$(BIN)/lint-imports)
	$(call step,lint: types,$(BIN)/mypy)

# What `plateflow view` shows tiles with, from npm; a wheel that is built where npm is has it.
viewer:
	$(call step,OpenSeadragon for `plateflow view`,$(PYTHON) src/plateflow/viewer/fetch.py)

# The documentation as a site, in build/site; a link that leads nowhere is an error. The theme's notice of its own future is not ours.
docs: $(VENV)/.dev
	$(call step,docs: as a site$(comma) every link checked,NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet)

config: $(VENV)/.core
	$(call step,write the default configuration and its schema,$(BIN)/python -m plateflow.cli.defaults)

# Both models that ship. DEVICE=cpu sees far fewer crops in the same time.
DEVICE ?= cuda
SECONDS_OF_TRAINING ?= 420
train-default: $(VENV)/.core
	$(call step,train the models that ship,$(BIN)/python -m plateflow.train.default --device $(DEVICE) --seconds $(SECONDS_OF_TRAINING))

clean:
	rm -rf $(VENV) demo .snakemake

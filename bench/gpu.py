"""All that is measured on a GPU, in four minutes at most: the table of docs/performance.md, and what may be chosen.

    python bench/gpu.py [--sections NAME ...] [--seconds 240]
    python bench/gpu.py --small                                 # small shapes on the CPU: that the script itself works

Prints one JSON line per measurement. Needs torch, Triton, numba-cuda, numpy, scipy, safetensors and the checkout; what
lacks a module (the peer, or zarr for a job of `infer`) is left out with a line. A section that fails prints its error,
one that takes too long is stopped, and the rest goes on. Kernels that aren't cached yet are compiled in the first
section that uses them, and their seconds told there.

    network     ViT-L with random weights, and the default model: tiles per second with kernels, without, and of the
                peer; the fraction of the ceiling of matrix products in the same run; peak memory
    block       microseconds of each part of a block of ViT-L, and of the choices: shapes of blocks, pieces of the MLP
    float32     ||a - b|| / ||b|| of float32 on the GPU to that of the CPU, and of bfloat16 with and without kernels
    fields      8 fields of 1080 px: network and blending, and with labels
    job         `infer` over 96 fields: ViT-L, the default model, and a network that does nothing
    flows       bench/flows.py
    tests       the tests that need a GPU
    compiled    registers, spills, shared memory of the kernels, compiled for compute capability 9.0; without a GPU
"""

import argparse
import importlib.util
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/peers"))
sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import torch
from kernel_cases import SHAPES, all_compiled
from torch import Tensor, nn

from plateflow.model import fast, load_model
from plateflow.model.vit import PATCH, VIT_L, FlowViT, FlowViTConfig, init_weights
from plateflow.segment.engine import CanvasJob, FlowEngine

ROOT = Path(__file__).parents[1]
SECONDS = {"network": 40, "block": 30, "float32": 20, "fields": 30, "job": 60, "flows": 45, "tests": 60, "compiled": 20}
"""The most that each section may take."""


def emit(section: str, **line: Any) -> None:
    rounded = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in line.items()}
    print(json.dumps({"section": section, **rounded}), flush=True)


class Sizes:
    """What is measured, at full size on a GPU or small on the CPU."""

    def __init__(self, small: bool) -> None:
        self.small = small
        self.device = torch.device("cpu" if small else "cuda")
        few = {"width": 64, "depth": 2, "heads": 2, "neck_width": 16}
        self.vit_l = FlowViTConfig(**{**vars(VIT_L), **(few if small else {})})
        self.peer = not small and importlib.util.find_spec("cellpose") is not None
        self.batch, self.batches = (2, (1,)) if small else (32, (8, 64))
        self.fields, self.job_fields, self.edge = (1, 2, 300) if small else (8, 96, 1080)
        self.repeat = 1 if small else 5
        self.ceiling = (256,) if small else (4096, 8192)

    def network(self, config: FlowViTConfig | None = None, dtype: torch.dtype = torch.bfloat16) -> FlowViT:
        """Random weights, biases and tables among them."""
        model = init_weights(FlowViT(config or self.vit_l), 0)
        random = torch.Generator().manual_seed(1)
        for name, weights in model.named_parameters():
            if name.endswith("bias") or "rel_pos" in name:
                nn.init.normal_(weights, std=0.1, generator=random)
        return model.eval().requires_grad_(False).to(self.device, dtype)

    def models(self) -> dict[str, FlowViT]:
        tiny = FlowViTConfig(width=32, depth=1, heads=1, neck_width=8)
        default = self.network(tiny) if self.small else load_model("default", device=self.device, dtype=torch.bfloat16)
        return {"vit_l": self.network(), "default": default}

    def tiles(self, count: int | None = None) -> Tensor:
        random = torch.Generator().manual_seed(0)
        return torch.rand(count or self.batch, 3, 256, 256, generator=random).to(self.device)

    def seconds(self, work: Callable[[], Any]) -> float:
        """Median wall seconds, synchronised, after a first call."""
        runs = []
        for turn in range(self.repeat + 1):
            start = time.perf_counter()
            work()
            self.wait()
            if turn or self.small:
                runs.append(time.perf_counter() - start)
        return statistics.median(runs)

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


@contextmanager
def without_kernels() -> Iterator[None]:
    with patch.object(fast, "DEVICES", set()):
        yield


def operations(config: FlowViTConfig) -> float:
    """Floating-point operations per tile in the blocks (a multiplication and an addition are two)."""
    n, width = (256 // PATCH) ** 2, config.width
    return 2.0 * config.depth * (12 * width * width * n + 2 * n * n * width)


def distance(a: Tensor, b: Tensor) -> float:
    a, b = a.double().cpu(), b.double().cpu()
    return float((a - b).norm() / b.norm())


def compiled(sizes: Sizes) -> None:
    for name, figures in all_compiled(chosen=sizes.small).items():
        emit("compiled", kernel=name, **figures)


@torch.inference_mode()
def network(sizes: Sizes) -> None:
    top = 0.0
    for n in sizes.ceiling:
        a = torch.randn(n, n, device=sizes.device).bfloat16()
        top = max(top, 2 * n**3 / sizes.seconds(lambda a=a: a @ a))
    for name, model in sizes.models().items():
        start, x = time.perf_counter(), sizes.tiles().bfloat16()
        model(x)
        sizes.wait()
        line: dict[str, Any] = {"model": name, "batch": sizes.batch, "first_call_s": time.perf_counter() - start}
        if sizes.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        line["tiles_per_s"] = rate = sizes.batch / sizes.seconds(lambda m=model, x=x: m(x))
        if sizes.device.type == "cuda":
            line |= {"kernels": fast.in_use(), "peak_mb": torch.cuda.max_memory_allocated() / 1e6}
        line |= {"ceiling_tflops": top / 1e12, "fraction": rate * operations(model.config) / top}
        for count in sizes.batches:
            more = sizes.tiles(count).bfloat16()
            line[f"tiles_per_s_{count}"] = count / sizes.seconds(lambda m=model, x=more: m(x))
        with without_kernels():
            line["plain_tiles_per_s"] = sizes.batch / sizes.seconds(lambda m=model, x=x: m(x))
        emit("network", **line)
    if not sizes.peer:
        emit("network", left_out="the peer")
        return
    with tempfile.TemporaryDirectory() as folder:
        from inference_cases import cellpose_network

        peer = cellpose_network(Path(folder, "w"), size="small" if sizes.small else "vit_l").to(sizes.device)
        peer.to(torch.bfloat16).dtype = torch.bfloat16
        x = sizes.tiles().bfloat16()
        emit("network", model="cellpose", tiles_per_s=sizes.batch / sizes.seconds(lambda: peer(x)))


@torch.inference_mode()
def block(sizes: Sizes) -> None:
    """Each part by itself, many times between two clocks: what a stream takes, not a launch."""
    times = 1 if sizes.small else 20

    def us(work: Callable[[], Any]) -> float:
        return 1e6 / times * sizes.seconds(lambda: [work() for _ in range(times)])

    model = sizes.network()
    part, width, heads = model.blocks[0], model.config.width, model.config.heads
    x = torch.randn(sizes.batch, 32, 32, width, device=sizes.device).bfloat16()
    flat, wide = x.flatten(1, 2), torch.randn(sizes.batch, 1024, 4 * width, device=sizes.device).bfloat16()
    qkv, tables = part.attn.qkv(flat), (part.attn.rel_pos_h, part.attn.rel_pos_w)

    tokens, total = flat.flatten(0, 1), flat.flatten(0, 1).clone()

    def ends_with_gelu(x: Tensor) -> Tensor:
        bias, weight = part.lin1.bias.to(x.dtype), part.lin1.weight.to(x.dtype)
        return torch._addmm_activation(bias, x, weight.t(), use_gelu=True)

    def mlp(pieces: int) -> None:
        for piece in flat.chunk(pieces):
            part.lin2(nn.functional.gelu(part.lin1(piece)))

    parts: dict[str, Callable[[], Any]] = {
        "block": lambda: part(x),
        "qkv": lambda: part.attn.qkv(flat),
        "proj": lambda: part.attn.proj(flat),
        "lin1": lambda: part.lin1(flat),
        "gelu": lambda: nn.functional.gelu(wide),
        "lin2": lambda: part.lin2(wide),
        "lin1 with torch's gelu at its end": lambda: ends_with_gelu(tokens),
        "lin2 onto the sum": lambda: total.addmm_(wide.flatten(0, 1), part.lin2.weight.t()),
        "norm": lambda: part.norm1(x),
    }
    parts |= {f"mlp in {n} pieces": lambda n=n: mlp(n) for n in (1, 2, 4, 8) if n <= sizes.batch}
    if sizes.device.type == "cuda":
        from plateflow.model import kernels

        parts |= {
            "attention": lambda: kernels.attention(qkv, heads, (32, 32), tables),
            "relative positions": lambda: kernels.relative_positions(qkv, heads, (32, 32), tables),
            "sum and norm": lambda: kernels.add_norm(x, x, part.norm2, part.lin2.bias),
        }
    line = {name: us(work) for name, work in parts.items()}
    with without_kernels():
        line["block without kernels"] = us(lambda: part(x))
    emit("block", us=line | {"batch": sizes.batch})
    some = tokens[:4096].float()
    for kind in ("none", "tanh"):
        linear = nn.functional.linear(some, part.lin1.weight.float(), part.lin1.bias.float())
        exact = nn.functional.gelu(linear, approximate=kind)
        emit("block", gelu_at_the_end_of_lin1_from=kind, distance=distance(ends_with_gelu(some), exact))
    if sizes.device.type != "cuda":
        emit("block", left_out="shapes of attention's blocks: no CUDA")
        return
    small = torch.randn(sizes.batch, 1024, 3 * 192, device=sizes.device).bfloat16()
    for dim, given in ((64, (qkv, heads, (32, 32), tables)), (32, (small, 6, (32, 32), None))):
        line = {}
        for shape in SHAPES[dim]:
            with patch.dict(kernels.BLOCKS, {dim: shape}):
                try:
                    line[str(shape)] = us(lambda given=given: kernels.attention(*given))
                except Exception as error:
                    line[str(shape)] = f"{type(error).__name__}: {error}"[:200]
        emit("block", attention_us=line, dim=dim, chosen=str(kernels.BLOCKS[dim]))


@torch.inference_mode()
def float32(sizes: Sizes) -> None:
    config = FlowViTConfig(**{**vars(sizes.vit_l), "depth": min(6, sizes.vit_l.depth)})
    shapes = {"vit_l": config} | ({} if sizes.small else {"default": FlowViTConfig()})
    for name, shape in shapes.items():
        with tempfile.TemporaryDirectory() as folder:
            from plateflow.model import save_model

            path = Path(folder, "a.safetensors")
            save_model(sizes.network(shape, torch.float32), path, name="a", dtype=torch.float32)
            x = sizes.tiles(2)
            exact = load_model(path)(x.cpu())
            ours = distance(load_model(path, device=sizes.device)(x), exact)
            half = load_model(path, device=sizes.device, dtype=torch.bfloat16)
        quick = distance(half(x.bfloat16()), exact)
        with without_kernels():
            plain = distance(half(x.bfloat16()), exact)
        emit("float32", model=name, depth=shape.depth, float32=ours, bfloat16=quick, bfloat16_plain=plain)


def run(engine: FlowEngine, pixels: list[Any]) -> list[Any]:
    flows: list[Any] = []
    for _ in engine.run([CanvasJob(read=lambda f=field: f, write=flows.append) for field in pixels]):
        pass
    return flows


def engine_of(model: Any, sizes: Sizes) -> FlowEngine:
    return FlowEngine(model, device=sizes.device, dtype=torch.bfloat16, batch_size=sizes.batch)


def fields(sizes: Sizes) -> None:
    from plateflow.flows import labels_from_flows

    random = np.random.default_rng(0)
    pixels = [random.random((1, sizes.edge, sizes.edge), np.float32) for _ in range(sizes.fields)]
    for name, model in sizes.models().items():
        engine = engine_of(model, sizes)
        both = {"model": name, "fields": sizes.fields, "edge": sizes.edge}
        emit("fields", **both, seconds=sizes.seconds(lambda engine=engine: run(engine, pixels)))

        def labels(engine: FlowEngine = engine) -> None:
            for flow in run(engine, pixels):
                labels_from_flows(flow[:2], flow[2], device=sizes.device.type)

        if not sizes.small:
            emit("fields", **both, seconds_with_labels=sizes.seconds(labels))
    if not sizes.peer:
        emit("fields", left_out="the peer")
        return
    from inference import Networks, peer_model

    with tempfile.TemporaryDirectory() as folder:
        given = argparse.Namespace(
            model="small" if sizes.small else "vit_l", device=sizes.device.type, kind=torch.bfloat16
        )
        networks = Networks(given, folder)
        from cellpose.core import run_net

        images = [field.transpose(1, 2, 0).repeat(3, axis=2)[None] for field in pixels]
        peer = {"model": "cellpose", "fields": sizes.fields, "edge": sizes.edge}
        alone = lambda: [run_net(networks.peer, each, bsize=256, batch_size=sizes.batch) for each in images]  # noqa: E731
        emit("fields", **peer, seconds=sizes.seconds(alone))
        whole = peer_model(given, networks)
        raw = [(field[0] * 4095).astype(np.uint16) for field in pixels]
        emit("fields", **peer, seconds_with_labels=sizes.seconds(lambda: whole.eval(raw, batch_size=sizes.batch)))


def job(sizes: Sizes) -> None:
    """Three networks, in turn, over one plate; the second of two runs, as the first fills caches.

    Before that the engine alone, from memory into files, which needs none of what a plate does.
    """
    models: dict[str, Any] = {"nothing": lambda x: x, **sizes.models()}
    field = np.random.default_rng(0).random((1, sizes.edge, sizes.edge), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        write = lambda flow: np.save(Path(folder, "flow.npy"), flow)  # noqa: E731
        for name, model in models.items():
            engine, start = engine_of(model, sizes), time.perf_counter()
            done = list(engine.run([CanvasJob(read=field.copy, write=write) for _ in range(sizes.job_fields)]))
            took = time.perf_counter() - start
            tiles = sum(each.tiles for each in done)
            emit("job", engine_with=name, fields=len(done), seconds=took, tiles_per_s=tiles / took)

    from inference_cases import plate_of_fields

    from plateflow.project import Plate
    from plateflow.stages import infer
    from plateflow.stages.job import Job

    with redirect_stdout(sys.stderr), plate_of_fields(sizes.job_fields, sizes.edge) as (config, entry):
        for turn in range(1 if sizes.small else 2):
            for name, model in models.items():
                context = Job.of(Plate(config=config, spec=entry), "infer", "0")
                for path in context.paths.journals("infer"):  # else all is done
                    path.unlink()
                engine, tiles = engine_of(model, sizes), [0]

                def counted(x: Tensor, model: Any = model, tiles: list[int] = tiles) -> Tensor:
                    tiles[0] += len(x)
                    return model(x)

                engine.network = counted
                if sizes.device.type == "cuda":
                    torch.cuda.empty_cache()
                    torch.cuda.reset_peak_memory_stats()
                start = time.perf_counter()
                with patch.object(FlowEngine, "load", lambda *_, engine=engine, **__: engine):
                    infer.run(context)
                took = time.perf_counter() - start
                line = {"network": name, "turn": turn, "fields": sizes.job_fields, "edge": sizes.edge, "seconds": took}
                if sizes.device.type == "cuda":
                    line |= {"allocated_mb": torch.cuda.max_memory_allocated() / 1e6, **engine.info}
                with redirect_stdout(sys.__stdout__):
                    emit("job", **line, tiles_per_s=tiles[0] / took)


def flows(sizes: Sizes) -> None:
    """The bench of flows and labels, which is a script of its own."""
    if sizes.small:
        emit("flows", left_out="bench/flows.py has sizes of its own")
        return
    script([sys.executable, "bench/flows.py", "--device", "cuda"], "flows")


def tests(sizes: Sizes) -> None:
    """Files whose name has cuda in it; elsewhere they are skipped. They need pytest, and none of its plugins."""
    files = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*cuda*.py"))
    if sizes.small:
        emit("tests", left_out=f"no CUDA for {', '.join(files)}")
        return
    bare = ["-p", "no:cacheprovider", "--noconftest", "--continue-on-collection-errors", "-k", "not simulator"]
    script([sys.executable, "-m", "pytest", "-q", *bare, *files], "tests")


def script(command: list[str], section: str) -> None:
    """Run a script to its end, or to the section's, and let it speak."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, cwd=ROOT, env=environment, timeout=SECONDS[section], check=False)
    emit(section, command=" ".join(command[1:]), status=done.returncode)


SECTIONS = {each.__name__: each for each in (network, block, float32, fields, job, flows, tests, compiled)}


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise `TimeoutError` after so many seconds: between two of Python's steps."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"stopped after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--seconds", type=float, default=240, help="for all sections together")
    args = parser.parse_args()
    sizes, end = Sizes(args.small), time.perf_counter() + args.seconds
    warnings.filterwarnings("error", "labels are made on the CPU")  # else its times would stand for the GPU's
    device = "cpu" if args.small else torch.cuda.get_device_name()
    emit("machine", device=device, torch=torch.__version__, peer=sizes.peer, python=sys.version.split()[0])
    for name in args.sections:
        start = time.perf_counter()
        try:
            with at_most(max(1.0, min(SECONDS[name], end - start))):
                SECTIONS[name](sizes)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            traceback.print_exc()
            emit(name, error=f"{type(error).__name__}: {error}"[:500])
        emit(name, took_s=time.perf_counter() - start)


if __name__ == "__main__":
    main()

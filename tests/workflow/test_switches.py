"""Snakemake's own switches do what they say, or a sentence says what they don't and which command does it."""

# The module takes about a minute, besides the project that it shares with others: each row is a start of Snakemake,
# which takes 2 s, and those that run jobs start a process for each. So most rows run none, or end at an early stage.

from pathlib import Path

import pytest
from workflow_project import Project

from plateflow.state.lease import DRIVER_LEASE, Lease

AGAIN = "`plateflow retry PLATE --stage STAGE`, then `snakemake`"
FORCED = f"jobs look at their work again, and compute only what isn't done as it is asked. {AGAIN}"
NOTHING = "nothing was computed: all work was done."
TOUCHED = ["--touch computes nothing and makes nothing up to date"] * 2


def parameter(project: Project) -> None:
    """Make seven jobs stale."""
    project.configure(lambda config: config["segmentation"]["cells"].update(min_size_px=700))


def plate_map(project: Project) -> None:
    """Make three jobs stale, which take little time: aggregate, report, screen."""
    path = project.folder / "raw" / "platemap.csv"
    path.write_text(path.read_text().replace("compound-1", "compound-2"))


def same(project: Project) -> None:
    """Leave the project as it is: complete."""


def state(project: Project) -> dict[str, bytes]:
    """The bytes of the plate's results, journals and receipts."""
    root = project.path().root
    return project.results() | {
        str(file.relative_to(root)): file.read_bytes()
        for folder in ("journal", "receipts")
        for file in (root / folder).rglob("*.json*")
    }


def notices(output: str) -> list[str]:
    """What Plateflow said of the switches."""
    return [line.removeprefix("plateflow: ") for line in output.splitlines() if line.startswith("plateflow: ")]


def is_closed(project: Project) -> bool:
    """Whether no lease and no file of a run are left in the screen's folder."""
    screen = project.path("screen")
    return not any(path for folder in ("leases", "asked") for path in (screen.root / folder).iterdir())


LACKS = "--until follow: this configuration has no rule follow (follow_slices: 1): with one slice `stitch` follows"
NOT_DONE = [
    (parameter, ["--touch"], 4, [*TOUCHED, "7 of 12 jobs are still to do (--touch): `snakemake` does them."]),
    (same, ["--touch"], 0, ["--touch computes nothing"]),
    (parameter, ["--touch", "--forceall"], 4, [*TOUCHED, "7 of 12 jobs are still to do (--touch): `snakemake`"]),
    (same, ["--forceall", "--until", "infer"], 0, [*[f"--forceall: {FORCED}"] * 2, NOTHING]),
    (same, ["--force"], 0, [*[f"--force: {FORCED}"] * 2, NOTHING]),
    (same, ["--force", "RECEIPT"], 0, [*[f"--force: {FORCED}"] * 2, NOTHING]),
    (same, ["--force", "results/micro/wells.csv"], 1, [f"--force: {FORCED}"]),
    (same, ["--forcerun", "stitch", "--dry-run"], 0, [f"--forcerun: {FORCED}"]),
    (same, ["--rerun-triggers", "code", "mtime", "--dry-run"], 0, [f"--rerun-triggers: {FORCED}"]),
    (parameter, ["--cleanup-metadata", "RECEIPT"], 0, ["--cleanup-metadata changes no result and no decision"]),
    (parameter, ["--cleanup-metadata", "results/micro/wells.csv"], 1, ["--cleanup-metadata changes no result"]),
    (same, ["--delete-all-output", "--dry-run"], 0, ["--delete-all-output deletes receipts alone"]),
    (same, ["--delete-temp-output"], 0, ["--delete-temp-output deletes nothing"]),
    (parameter, ["--until", "tile"], 0, ["7 of 12 jobs are still to do (--until): `snakemake` does them."]),
    (parameter, ["--omit-from", "stitch"], 0, ["7 of 12 jobs are still to do (--omit-from): `snakemake` does them."]),
    (same, ["--until", "follow"], 1, [LACKS]),
    (parameter, ["--batch", "all=5/12"], 0, ["7 of 12 jobs are still to do (--batch): `snakemake` does them."]),
    (parameter, ["--allowed-rules", "stitch"], 1, ["7 of 12 jobs are still to do (--allowed-rules): `snakemake`"]),
    (same, ["--config", "threads=2"], 0, ["--config: `plateflow status`, `plateflow retry` and"]),
    (same, ["--configfile", "config/other.yaml"], 0, ["--configfile config/other.yaml: give it to `plateflow status`"]),
    (same, ["--configfile", "config/config.yaml"], 0, []),
    (same, ["--summary"], 0, ["--summary lists receipts, not results. `plateflow status`"]),
    (same, ["--archive", "workflow.tar"], 0, ["--archive packs the workflow and its configuration at most"]),
    (same, ["--unlock"], 0, ["--unlock removes Snakemake's lock alone, whoever holds it. `plateflow retry`"]),
]


@pytest.mark.parametrize(
    ("change", "switches", "status", "said"),
    NOT_DONE,
    ids=[f"{' '.join(switches)}-{change.__name__}" for change, switches, _, _ in NOT_DONE],
)
def test_a_switch_that_computes_nothing_says_so_and_nothing_passes_for_new(project, change, switches, status, said):
    receipt = project.receipt("micro", "aggregate", "plate")
    (project.folder / "config" / "other.yaml").write_bytes((project.folder / "config" / "config.yaml").read_bytes())
    change(project)
    before = state(project)
    output = project.snakemake(*(receipt if word == "RECEIPT" else word for word in switches), status=status)
    found = notices(output)
    assert len(found) == len(said), found
    assert [line for line, begin in zip(found, said, strict=True) if not line.startswith(begin)] == []
    assert output.splitlines()[-1:] == [f"plateflow: {line}" for line in found[-1:]] or not found
    assert state(project) == before
    project.plateflow("status", status=0 if change is same else 4)
    assert is_closed(project)


def test_after_all_output_was_deleted_all_work_is_found_done(project):
    before = state(project)
    deleted = {name for name in before if name.startswith("receipts/")}
    output = project.snakemake("--delete-all-output")
    assert [line[:80] for line in notices(output)] == [
        "--delete-all-output deletes receipts alone; results and journals stay. The next "[:80]
    ]
    assert "`plateflow clean PLATE --results` removes results" in output
    assert state(project) == {name: content for name, content in before.items() if name not in deleted}
    project.snakemake("--until", "tile")
    assert {name: content for name, content in state(project).items() if not name.startswith("receipts/")} == {
        name: content for name, content in before.items() if name not in deleted
    }
    project.plateflow("status", "micro")


def test_what_a_forced_job_finds_to_do_is_done_to_the_end(project):
    """Its receipt goes, and those of all that builds on it: they have to be made in the same run."""
    before = state(project)
    page = project.path().table("report.html")
    page.unlink()
    output = project.snakemake("--forcerun", "report")
    assert notices(output)[-1] == "jobs that had something to compute: 1."
    assert page.exists()
    journal = "journal/report-plate.jsonl"
    assert {name for name, content in state(project).items() if before.pop(name) != content} == {journal}
    assert not before, "no receipt is missing"


def test_what_was_made_with_config_is_stale_to_all_that_read_the_file(project):
    output = project.snakemake("--config", "stats={by_field: true}", "--until", "aggregate")
    (first, last, rest) = notices(output)
    assert first == last
    assert "is stale to them. Change the file, or give all of them `--configfile FILE`." in first
    assert rest == "2 of 12 jobs are still to do (--until): `snakemake` does them."
    assert "aggregate: 1 job to do: stale: parameters changed: `snakemake`" in project.plateflow("status", status=4)
    other = project.folder / "config" / "other.yaml"
    (project.folder / "config" / "config.yaml").rename(other)
    other.write_text(other.read_text().replace("by_field: false", "by_field: true"))
    assert "aggregate: 1" not in project.plateflow("status", "--configfile", str(other), status=4)


def test_a_run_in_another_directory_is_as_one_that_was_started_there(project, tmp_path):
    plate_map(project)
    output = Project(tmp_path).snakemake("--directory", str(project.folder), "--until", "aggregate")
    there = f"--directory: relative paths in configuration and plate sheet count from {project.folder}. Run `plateflow"
    assert [line[: len(there)] for line in notices(output)][:2] == [there] * 2
    assert list(tmp_path.iterdir()) == []
    assert Path(project.folder / project.receipt("micro", "aggregate", "plate")).exists()
    assert is_closed(project), "though Snakemake had left the directory by then"


def test_a_directory_without_a_project_is_named(project, tmp_path):
    config = str(project.folder / "config" / "config.yaml")
    output = Project(tmp_path).snakemake("--directory", "elsewhere", "--configfile", config, status=1)
    assert "there is no plate sheet\n  where: config/plates.tsv" in output
    assert f"count from {tmp_path / 'elsewhere'}. Run" in output
    both = f"count from {tmp_path / 'elsewhere'} in this run, but from {project.folder} for `plateflow`"
    assert f"plateflow: --configfile: relative paths in it {both}" in output


def test_switches_that_change_how_jobs_run_change_no_result(project):
    plate_map(project)
    switches = (
        "--rerun-incomplete",
        "--ignore-incomplete",
        "--keep-incomplete",
        "--notemp",
        "--nolock",
        "--retries",
        "0",
    )
    output = project.snakemake(*switches, "--until", "aggregate")
    assert notices(output) == ["2 of 12 jobs are still to do (--until): `snakemake` does them."]
    assert (project.folder / project.receipt("micro", "aggregate", "plate")).exists()
    assert "compound-2" in project.path().table("wells.csv").read_text()
    assert "aggregate: 1" not in project.plateflow("status", status=4)


def test_nolock_lets_no_second_run_in(project):
    plate_map(project)
    before = state(project)
    with Lease(project.path("screen").lease(*DRIVER_LEASE), holder="a run", patient=False):
        output = project.snakemake("--nolock", status=1)
    assert "snakemake on these results is already running" in output
    assert state(project) == before

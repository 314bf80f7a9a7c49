"""What runs again after a change, and what doesn't: at the level of the well."""

# What is asked decides, in Snakemake and in `Project.run` alike; a run of Snakemake has a process per job, which
# imports its libraries anew, and takes 25 s. So it runs where its own part in it is what is tested: the jobs that it
# starts for one well and for a correction, its messages, an exchanged plate map. Those tests take over 20 s.

import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from workflow_project import MICRO, REPOSITORY, all_of, touch_pixels

from plateflow.simulate.plate import WellPlan, simulate_plate

NOTHING = "Nothing to be done"


def test_a_second_run_does_nothing(project):
    times = {file: file.stat().st_mtime_ns for file in project.path().root.rglob("*") if file.is_file()}
    assert NOTHING in project.snakemake()
    assert times == {file: file.stat().st_mtime_ns for file in project.path().root.rglob("*") if file.is_file()}


def test_a_changed_raw_file_redoes_its_well_alone(project):
    before = project.sequences()
    touch_pixels(project.raw("B03"))
    assert NOTHING in project.snakemake(), "parsing never looks at raw files"
    assert "changed" in project.plateflow("check", status=None)
    project.run()
    redone = project.redone(before)
    assert {well for _, well, _ in redone} == {"", "B03"}
    assert all_of("B03", "tile", "infer", "stitch", "features") <= redone
    assert ("normalise", "", "") not in redone, "the window is frozen"
    assert NOTHING in project.snakemake()


def test_raw_data_that_moved_or_were_copied_again_redo_nothing(project):
    before, results = project.sequences(), project.results()
    (raw,) = project.folder.glob("raw/micro__*")
    sheet = project.folder / "config" / "plates.tsv"
    sheet.write_text(sheet.read_text().replace(str(raw), str(raw.rename(project.folder / "moved"))))
    project.run()
    assert project.redone(before) == set()
    assert project.results() == results
    assert project.run() == set()
    for file in project.folder.glob("moved/Images/*.tiff"):
        os.utime(file)
    assert "changed" in project.plateflow("check", status=None)
    project.run()
    assert project.redone(before) == {("ingest", "", "")}, "which writes the new times into the manifest"
    assert {name for name, data in project.results().items() if data != results[name]} == {"manifest/planes.parquet"}
    project.plateflow("status", status=0)
    assert NOTHING in project.snakemake()


def test_a_new_well_adds_only_itself(project):
    before = project.sequences()
    window = (project.path().root / "manifest" / "window.json").read_text()
    wells = [*MICRO["wells"], WellPlan(well="C02", role="negative", treatment="DMSO", dose=0.0)]
    kept = {file: file.stat() for file in project.folder.glob("raw/micro__*/Images/*.tiff")}
    simulate_plate(project.folder / "raw", plate="micro", **MICRO | {"wells": wells})
    for file, stat in kept.items():  # the same pixels were written again: lay their times back
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    project.plateflow("check", status=None)
    project.run()
    redone = project.redone(before)
    assert {well for _, well, _ in redone} == {"", "C02"}
    assert {stage for stage, well, _ in redone if not well} <= {"ingest", "normalise", "aggregate", "report"}
    assert (project.path().root / "manifest" / "window.json").read_text() == window, "it says how C02 is shown"
    assert "C02" in (project.path().root / "wells.csv").read_text()


def test_a_new_plate_adds_only_itself(project):
    before = project.sequences()
    made = simulate_plate(project.folder / "more", plate="second", **MICRO | {"wells": MICRO["wells"][:1]}, seed=5)
    project.plateflow("init", str(made.raw), "--plate", "second")
    project.run()
    assert project.redone(before) == set()
    assert ("features", "B02", "") in project.redone({}, "second")


@pytest.mark.parametrize(
    ("key", "value"),
    [("cell_threshold", 0.5), ("flow_threshold", 0.3), ("min_size_px", 40)],
)
def test_a_segmentation_parameter_redoes_its_label_set_from_its_stage(project, key, value):
    before = project.sequences()
    project.configure(lambda config: config["segmentation"]["cells"].update({key: value}))
    project.run()
    redone = project.redone(before)
    expected = {("stitch", well, "cells") for well in ("B02", "B03")}
    expected |= all_of("B02", "features") | all_of("B03", "features") | {("aggregate", "", ""), ("report", "", "")}
    assert redone == expected


def test_an_inference_parameter_redoes_inference_of_its_label_set(project):
    before = project.sequences()
    project.configure(lambda config: config["segmentation"]["nuclei"].update({"channels": ["AGP"]}))
    project.run()
    redone = project.redone(before)
    assert {(stage, label_set) for stage, _, label_set in redone} == {
        ("infer", "nuclei"),
        ("stitch", "nuclei"),
        ("features", ""),
        ("aggregate", ""),
        ("report", ""),
    }


def test_without_kept_flows_infer_makes_labels_and_says_what_a_change_costs(project):
    """Of flow fields nothing is left; labels are those that stitch had made."""
    before, results = project.sequences(), project.results()
    project.configure(lambda config: config.update(keep_flows=False))
    output = project.plateflow("plan")
    assert "Flow fields aren't kept (keep_flows: false), so the network runs again" in output
    assert "nuclei: keep_flows changed: 2 results, in micro" in output
    assert "with `keep_flows: true`, as before, these results stand" in output
    output = project.snakemake("--dry-run")
    assert "rule follow" not in output
    assert "rule stitch" not in output
    output = project.snakemake()
    assert "labels of all label sets (stale: keep_flows changed; flow fields aren't kept" in output
    redone = project.redone(before)
    assert {stage for stage, _, _ in redone} == {"infer", "features", "aggregate", "report"}
    assert project.results() == results
    assert not [path for path in project.path().scratch.rglob("*") if path.is_file()]
    project.plateflow("status", status=0)
    project.plateflow("verify")
    assert NOTHING in project.snakemake()
    assert "no stage stitch" in project.plateflow("retry", "micro", "--stage", "stitch", status=1)

    project.configure(lambda config: config["segmentation"]["cells"].update(flow_threshold=0.3))
    output = project.plateflow("plan")
    assert "cells: flow_threshold changed: 2 results, in micro" in output
    assert "nuclei" not in output.partition("as if nothing")[0]
    said = "stale: flow_threshold changed; flow fields aren't kept (keep_flows: false), so the network runs again"
    assert f"({said}; about " in project.snakemake("--dry-run")
    assert said in project.plateflow("status", status=4)
    before = project.sequences()
    project.run()
    assert {key for key in project.redone(before) if key[0] == "infer"} == {
        ("infer", well, "cells") for well in ("B02", "B03")
    }
    project.plateflow("clean", "micro", "--yes")
    assert not list(project.path().root.glob("receipts/stitch/*"))
    project.plateflow("status", status=0)


def test_a_correction_redoes_its_well_alone_outlives_a_parameter_and_is_taken_out(project):
    before, results, path = project.sequences(), project.results(), project.path()
    said = project.plateflow("export", "micro", "--to", "cellpose", "--wells", "B02", "-o", "exported")
    assert "without flow fields" not in said
    (file,) = project.folder.glob("exported/*_seg.npy")
    seg = np.load(file, allow_pickle=True).item()
    seg["masks"][seg["masks"] == seg["masks"].max()] = 0
    np.save(file, seg)
    project.plateflow("import", "exported", "--by", "ada")
    assert "corrected cells changed" in project.snakemake()
    own = {("features", "B02", ""), ("aggregate", "", ""), ("report", "", "")}
    assert project.redone(before) == own
    wells = pd.read_csv(path.table("wells.csv")).set_index("Metadata_Well")["Metadata_Corrected"]
    assert wells.fillna("").to_dict() == {"B02": "cells", "B03": ""}
    corrected = path.cells("B02").read_bytes()
    assert corrected != results["cells/B02.parquet"]
    assert NOTHING in project.snakemake()

    before = project.sequences()
    project.configure(lambda config: config["segmentation"]["cells"].update(min_size_px=10_000))
    project.run()
    assert ("stitch", "B02", "cells") in project.redone(before)
    assert path.cells("B02").read_bytes() == corrected
    stand = "by hand stand, though they were made from an earlier segmentation: B02"
    assert stand in project.plateflow("status", status=None)

    project.configure(lambda config: config["segmentation"]["cells"].pop("min_size_px"))
    assert "discarded: cells corrected by ada" in project.plateflow("retry", "micro", "--discard-corrections")
    project.run()
    assert project.results() == results
    assert NOTHING in project.snakemake()


def test_a_changed_plate_map_redoes_aggregation_and_report_alone(project):
    before = project.sequences()
    plate_map = project.folder / "raw" / "platemap.csv"
    plate_map.write_text(plate_map.read_text().replace("compound-1", "compound-2"))
    project.run()
    assert project.redone(before) == {("aggregate", "", ""), ("report", "", "")}
    assert "compound-2" in (project.path().root / "wells.csv").read_text()


def test_what_is_measured_and_counted_is_asked_of_no_network(project):
    """Objects from objects and spots need the stages that measure, filters and populations aggregation alone.

    Spots are the window's, so jobs of later stages are asked, and find that nothing is to be done.
    """
    import pandas as pd

    ends = {("aggregate", "", ""), ("report", "", "")}
    measured = all_of("B02", "features") | all_of("B03", "features") | ends
    first = project.results()
    before = project.sequences()

    def measure(config):
        config["segmentation"]["halo"] = {"ring": {"from": "nuclei", "inner_um": 0.0, "outer_um": 3.0}}
        config["spots"] = {"foci": {"channel": "AGP", "within": "nuclei", "diameter_px": 3.0}}

    project.configure(measure)
    project.run()
    assert project.redone(before) == measured | {("normalise", "", "")}
    assert (project.path().image("B02") / "labels/halo/0").is_dir()
    assert project.path().spots("foci", "B03").is_file()

    before = project.sequences()

    def count(config):
        config["segmentation"]["nuclei"]["filter"] = {"area_um2": "> 20", "border": False}
        config["populations"] = {"wide": {"where": "Halo_AreaShape_Area > otsu"}}
        config["stats"]["group_by"] = ["treatment_kind"]

    plate_map = project.folder / "raw" / "platemap.csv"
    table = pd.read_csv(plate_map).assign(treatment_kind="small molecule")
    table.to_csv(plate_map, index=False)
    project.configure(count)
    project.run()
    assert project.redone(before) == ends
    wells = pd.read_csv(project.path().table("wells.csv"))
    assert {"Share_Wide", "Count_Halo", "Nuclei_Children_Foci_Count", "Metadata_treatment_kind"} <= set(wells)
    assert project.path().gates("B02").is_file()

    def as_before(config):
        del config["segmentation"]["halo"], config["segmentation"]["nuclei"]["filter"]
        del config["spots"], config["populations"], config["stats"]["group_by"]

    before = project.sequences()
    project.configure(as_before)
    project.run()
    assert ("infer", "B02", "nuclei") not in project.redone(before)
    assert not project.path().spots("foci", "B03").exists()
    tables = {name: data for name, data in project.results().items() if name.startswith("cells/")}
    assert tables == {name: data for name, data in first.items() if name.startswith("cells/")}


def test_parts_and_slices_redo_no_well(project):
    """Nor does `follow` make endpoints of labels that stand."""
    before, results = project.sequences(), project.results()
    project.configure(lambda config: config.update({"parts": {"cpu": 6, "gpu": 3}, "follow_slices": 3}))
    project.run()
    assert project.redone(before) == set()
    assert project.results() == results


def test_a_touched_script_redoes_nothing(project, tmp_path):
    """Comments, docstrings and times of the code are no reason; only a stage's version is."""
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for name in ("Snakefile", "rules", "scripts", "profiles"):
        source = REPOSITORY / name
        shutil.copytree(source, checkout / name) if source.is_dir() else shutil.copy2(source, checkout / name)
    for script in (checkout / "scripts").glob("*.py"):
        script.write_text(f"# a comment\n{script.read_text()}")
    result = subprocess.run(
        [sys.executable, "-m", "snakemake", "--snakefile", str(checkout / "Snakefile")],
        cwd=project.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert NOTHING in result.stdout + result.stderr


def test_a_lost_snakemake_folder_recomputes_nothing_and_status_says_what_is_stale(project):
    before = project.sequences()
    shutil.rmtree(project.folder / ".snakemake")
    project.snakemake()
    assert project.redone(before) == set()
    assert "to do" not in project.plateflow("status")
    project.configure(lambda config: config["segmentation"]["cells"].update({"min_size_px": 33}))
    shutil.rmtree(project.folder / ".snakemake", ignore_errors=True)
    explained = project.plateflow("status", "micro/B02", status=4)
    assert "stale: parameters changed" in explained
    assert "stitch cells" in explained


def test_raising_freeze_computes_the_window_anew(project):
    before = project.sequences()
    project.configure(lambda config: config["normalise"].update({"freeze": 2, "percentiles": [2.0, 98.0]}))
    project.run()
    redone = project.redone(before)
    assert ("normalise", "", "") in redone
    assert all_of("B02", "infer", "stitch") <= redone
    assert not {key for key in redone if key[0] == "tile"}


def test_retry_of_a_well_redoes_it_from_the_stage(project):
    before, results = project.sequences(), project.results()
    project.plateflow("retry", "micro/B02", "--stage", "stitch")
    project.run()
    assert project.redone(before) == all_of("B02", "stitch", "features") | {("aggregate", "", ""), ("report", "", "")}
    assert project.results() == results
    assert NOTHING in project.snakemake()


def test_an_exchanged_plate_map_is_noticed_though_its_file_is_old(project):
    before = project.sequences()
    plate_map = project.folder / "raw" / "platemap.csv"
    old = project.folder / "old.csv"
    old.write_text(plate_map.read_text().replace("compound-1", "compound-3"))
    os.utime(old, (1, 1))
    old.replace(plate_map)
    project.snakemake()
    assert project.redone(before) == {("aggregate", "", ""), ("report", "", "")}
    assert "compound-3" in (project.path().root / "wells.csv").read_text()
    plate_map.unlink()
    output = project.snakemake("--retries", "0", status=1)
    assert "micro: aggregate plate:" in output
    assert "platemap.csv" in output
    sheet = project.folder / "config" / "plates.tsv"
    sheet.write_text(sheet.read_text().replace(str(plate_map), ""))
    project.snakemake()
    assert "compound" not in (project.path().root / "wells.csv").read_text()


def test_another_config_file_stands_for_the_default_one(project):
    other = project.folder / "other.yaml"
    other.write_text((project.folder / "config" / "config.yaml").read_text())
    broken = project.folder / "config" / "config.yaml"
    broken.write_text("plates: nowhere.tsv\n")
    assert NOTHING in project.snakemake("--configfile", str(other))
    assert "no plate sheet" in project.snakemake(status=1)


def test_a_cell_table_that_is_gone_is_made_again(project):
    results = project.results()
    project.path().cells("B02").unlink()
    for receipt in project.path().root.glob("receipts/features/*.json"):
        receipt.unlink()
    project.run()
    assert project.results() == results

"""The stage on a small plate whose objects are the simulated truth."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import zarr
from planted_plate import Planted, plant

from plateflow.config import Config, PlateSpec, load_config
from plateflow.errors import PlateflowError, ResultsError
from plateflow.features.columns import cell_columns, with_pixels
from plateflow.images.layout import FieldBox
from plateflow.images.well import WellImage
from plateflow.images.window import load_window
from plateflow.simulate.harmony import HarmonyLayout
from plateflow.simulate.layout import PlateDescription, Record
from plateflow.simulate.plate import Fault, WellPlan
from plateflow.stages.features import nearest_field
from plateflow.state.journal import Entry, append_outcome


@pytest.fixture(scope="module")
def run(planted: Planted) -> Planted:
    planted.run("features")
    return planted


def test_each_well_has_a_table_and_the_broken_one_none(run: Planted) -> None:
    assert run.journal("features") == ["C02", "B02", "B03", "B04", "B05", "B06", "C03"]  # left out ones come first
    written = {path.stem for path in run.paths.cells("B02").parent.iterdir()}
    assert written == {"B02", "B03", "B04", "B05", "B06", "C03"}
    entry = run.plate.outcomes("features").required("C02")
    assert (entry.state, entry.reason) == ("quarantined", "truncated")


def test_columns_are_the_same_in_every_well_the_empty_one_included(run: Planted) -> None:
    import pyarrow.parquet as pq

    schemas = {well: pq.read_schema(run.paths.cells(well)) for well in ("B02", "B05", "B06")}
    assert schemas["B02"].equals(schemas["B06"])
    assert schemas["B02"].equals(schemas["B05"])
    assert len(run.cells("B06")) == 0
    names = schemas["B02"].names
    assert names[:10] == [
        "Metadata_Plate",
        "Metadata_Well",
        "Metadata_Row",
        "Metadata_Site",
        "Metadata_ObjectID",
        "Metadata_Column",
        "Metadata_Time",
        "Metadata_Z",
        "Metadata_Match_Nuclei",
        "ObjectNumber",
    ]
    assert "Nuclei_Intensity_MeanIntensity_DNA" in names
    assert "Cells_Quality_FlowError" in names


def test_values_are_those_of_the_labels_and_of_the_corrected_image(run: Planted) -> None:
    table = run.cells("B02")
    image = zarr.open_group(run.paths.image("B02"), mode="r")
    labels = image["labels/cells/0"][0, 0]
    layout = WellImage.open(run.paths, "B02").layout
    np.testing.assert_array_equal(table["ObjectNumber"], np.unique(labels)[1:])
    row = table.iloc[len(table) // 2]
    mask = labels == row["ObjectNumber"]
    assert row["Cells_AreaShape_Area"] == mask.sum()
    assert row["Cells_AreaShape_Area_um2"] == pytest.approx(mask.sum() * 0.36)
    y, _ = np.nonzero(mask)
    assert row["Cells_AreaShape_Center_Y"] == pytest.approx(y.mean(), abs=1e-3)
    raw = image["0"][0, 2, 0].astype(float)
    light = load_window(run.paths).lights["Marker"]
    for box in layout.fields:
        raw[box.slices] = light.dark + (raw[box.slices] - light.dark) / light.profile(256, 256)
    assert row["Cells_Intensity_MeanIntensity_Marker"] == pytest.approx(raw[mask].mean() / 65535, rel=1e-5)
    assert row["Cells_Quality_FlowError"] == pytest.approx(row["ObjectNumber"] / 1000)
    assert row["Metadata_ObjectID"] == f"demo/B02/{row['Metadata_Site']}/{row['ObjectNumber']}"
    assert (row["Metadata_Row"], row["Metadata_Column"]) == ("B", 2)
    # the simulated cells have their nucleus inside; the cytoplasm is what is left
    nuclei = image["labels/nuclei/0"][0, 0]
    assert row["Cytoplasm_AreaShape_Area"] == (mask & (nuclei == 0)).sum()
    at_border = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    expected = np.isin(table["ObjectNumber"], at_border)
    np.testing.assert_array_equal(table["Cells_Quality_TouchesBorder"], expected)
    nucleus = row["Nuclei_Number_Object_Number"]
    assert (image["labels/nuclei/0"][0, 0][mask] == nucleus).any()
    assert row["Nuclei_Quality_CellProbability"] == pytest.approx(5 - nucleus / 1000)


def test_the_site_is_the_field_that_holds_the_centroid(run: Planted) -> None:
    table = run.cells("B02")
    second = table["Cells_AreaShape_Center_X"] > 255.5
    assert set(table["Metadata_Site"]) == {"1", "2"}
    assert (table["Metadata_Site"] == np.where(second, "2", "1")).all()
    assert set(run.cells("B05")["Metadata_Site"]) == {"2"}  # field 1 is broken


def test_a_point_outside_of_all_fields_gets_the_nearest() -> None:
    boxes = (FieldBox(name="a", y=0, x=0, height=10, width=10), FieldBox(name="b", y=10, x=8, height=10, width=10))
    y, x = np.array([9.4, 9.6, 2.0, 16.0, 9.0]), np.array([9.4, 9.4, 15.0, 2.0, 11.0])
    assert nearest_field(boxes, y, x).tolist() == ["a", "b", "a", "b", "b"]


def test_equal_work_gives_equal_bytes_and_nothing_is_done_twice(run: Planted) -> None:
    path = run.paths.cells("B03")
    before, stamp = path.read_bytes(), path.stat().st_mtime_ns
    done = len(run.journal("features"))
    run.run("features")
    assert (len(run.journal("features")), path.stat().st_mtime_ns) == (done, stamp)
    run.paths.journal("features", "0").unlink()
    run.run("features")
    assert path.stat().st_mtime_ns > stamp
    assert path.read_bytes() == before


def test_new_labels_redo_their_well_alone(run: Planted) -> None:
    done = len(run.journal("features"))
    run.label(["B04"], version="2")
    run.run("features")
    assert run.journal("features")[done:] == ["B04"]


def test_a_well_that_is_now_left_out_loses_its_table(planted: Planted, tmp_path) -> None:
    plate = planted.copy(tmp_path)
    plate.run("features")
    from plateflow.state.journal import Entry, append_outcome

    entry = Entry(well="B02", fingerprint="new", state="quarantined", reason="nan", sequence=9)
    append_outcome(plate.paths.journal("tile", "0"), entry)
    plate.run("features")
    assert not plate.paths.cells("B02").exists()
    assert plate.plate.outcomes("features").required("B02").reason == "nan"


def test_the_nuclei_can_make_the_rows(planted: Planted, tmp_path) -> None:
    plate = planted.copy(tmp_path, features={"rows": "nuclei"})
    plate.run("features")
    table = plate.cells("B02")
    image = zarr.open_group(plate.paths.image("B02"), mode="r")
    nuclei, cells = (image[f"labels/{name}/0"][0, 0] for name in ("nuclei", "cells"))
    assert len(table) == len(np.unique(nuclei)) - 1
    within = [(cells[nuclei == number] > 0).any() for number in table["ObjectNumber"]]
    assert table["Cells_Number_Object_Number"].notna().tolist() == within
    assert sum(within) > 50
    assert pd.api.types.is_integer_dtype(table["ObjectNumber"])


def test_an_object_inside_the_box_of_another_canvas_is_measured_once(tmp_path) -> None:
    broken = [Fault(kind="truncated", well="B02", field=field) for field in (1, 4, 5)]
    plan = WellPlan(well="B02", role="negative", treatment="DMSO", dose=0.0)
    plate = plant(tmp_path, [plan], faults=broken, fields=9)
    corner, bend = sorted(plate.plate.canvases("B02"), key=lambda canvas: len(canvas.fields))
    assert ([box.name for box in corner.fields], len(bend.fields)) == (["3"], 5)
    assert bend.slices[1].stop == corner.slices[1].stop  # the bend's box covers the corner
    plate.run("features")
    table = plate.cells("B02")
    labels = WellImage.open(plate.paths, "B02").array("labels/cells/0")[0, 0]
    np.testing.assert_array_equal(table["ObjectNumber"], np.unique(labels)[1:])
    in_corner = np.isin(table["ObjectNumber"], np.unique(labels[corner.slices]))
    assert in_corner.sum() > 3
    assert (in_corner == (table["Metadata_Site"] == "3")).all()
    assert (table["Cells_Intensity_MeanIntensity_AGP"] > 0).all()
    assert (table["Cells_AreaShape_Area"] == np.bincount(labels.ravel())[table["ObjectNumber"]]).all()


def test_families_and_scales_are_chosen_and_the_location_is_always_there(planted: Planted, tmp_path) -> None:
    plate = planted.copy(tmp_path, features={"families": ["texture", "colocalisation"], "texture_scales": [2, 5]})
    plate.run("features")
    columns = plate.cells("B02").columns
    families = {name.split("_")[1] for name in columns if not name.startswith("Metadata") and "_" in name}
    assert families == {"Number", "Children", "Match", "Parent", "Location", "Texture", "Correlation"}
    assert {name.split("_")[-3] for name in columns if "Texture" in name} == {"2", "5"}
    assert set(plate.cells("B02")["Metadata_Site"]) == {"1", "2"}
    pd.testing.assert_index_equal(columns, plate.cells("B06").columns)


def test_another_family_or_scale_redoes_the_wells(run: Planted, tmp_path) -> None:
    plate = run.copy(tmp_path, features={"families": "minimal"})
    done = len(plate.journal("features"))
    plate.run("features")
    assert set(plate.journal("features")[done:]) == set(plate.plate.wells)
    assert len(plate.cells("B02").columns) < len(run.cells("B02").columns) / 3


def test_pycytominer_reads_and_works_on_the_tables_as_they_are(run: Planted) -> None:
    from pycytominer import aggregate, feature_select, normalize
    from pycytominer.cyto_utils import infer_cp_features, load_profiles

    cells = pd.concat([load_profiles(run.paths.cells(well)) for well in ("B02", "B03", "B04", "B05", "C03")])
    features = infer_cp_features(cells)
    assert len(features) > 1000
    assert set(infer_cp_features(cells, metadata=True)) == {c for c in cells.columns if c.startswith("Metadata_")}
    wells = aggregate(cells.rename(columns={"ObjectNumber": "Metadata_ObjectNumber"}), compute_object_count=True)
    assert len(wells) == 5
    never = cells.columns[cells.isna().all()].tolist()
    assert never == ["Cells_Parent_Nuclei"], "no cell lies in a nucleus"
    expected = run.cells("B02")["Cells_Intensity_MeanIntensity_Marker"].median()
    b02 = wells[wells["Metadata_Well"] == "B02"].iloc[0]
    assert b02["Cells_Intensity_MeanIntensity_Marker"] == pytest.approx(expected)
    assert b02["Metadata_Object_Count"] == len(run.cells("B02"))
    scaled = normalize(wells, samples="Metadata_Well in ['B02', 'B03']", method="standardize")
    assert scaled.loc[scaled["Metadata_Well"] == "B02", "Cells_AreaShape_Area"].abs().iloc[0] == pytest.approx(1)
    chosen = feature_select(scaled, operation=["drop_na_columns", "variance_threshold", "correlation_threshold"])
    kept = infer_cp_features(chosen)
    assert 3 < len(kept) < len(features)


def test_a_label_set_that_goes_through_the_stack_is_measured_as_volumes(tmp_path) -> None:
    depth, shape = 3, (40, 48)
    writer = HarmonyLayout(tmp_path / "raw", PlateDescription(name="p", field_shape=shape, pixel_size_um=0.5))
    noise = np.random.default_rng(0).integers(100, 4000, (depth, *shape)).astype(np.uint16)
    noise[0, 5:15, 5:9] = 4095  # a camera of 12 bits: saturated there
    for z, plane in enumerate(noise):
        place = Record(row=1, column=1, field=0, channel=0, channel_name="DNA", y_um=0, x_um=0, z=z, z_um=2.0 * z)
        writer.write(place, plane)
    writer.finish()
    settings = {
        "results": str(tmp_path / "results"),
        "parts": {"cpu": 1, "gpu": 1},
        "z": "keep",
        "normalise": {"illumination": False},
        "segmentation": {"nuclei": {"channels": ["DNA"], "dimensions": 3}},
    }
    entry = PlateSpec(plate="p", path=str(writer.raw))
    plate = Planted(root=tmp_path, config=Config.model_validate(settings), entry=entry, truth=tmp_path)
    plate.run("ingest", "tile", "normalise")
    labels = np.zeros(noise.shape, np.uint32)
    labels[:, 5:15, 5:15], labels[1, 20:30, 20:40] = 1, 2
    (canvas,) = plate.plate.canvases("B02", "nuclei")
    for z, plane in enumerate(canvas.planes()):
        WellImage.open(plate.paths, "B02").write_labels("nuclei", 0, z, [(plane, labels[z])])
    objects = pd.DataFrame({"label": [1, 2], "flow_error": [0.1, 0.2], "cell_probability": [1.0, 2.0]})
    plate.paths.objects("nuclei", "B02").parent.mkdir(parents=True)
    objects.to_parquet(plate.paths.objects("nuclei", "B02"))
    append_outcome(plate.paths.journal("stitch", "0"), Entry(well="B02", label_set="nuclei", fingerprint="1"))
    plate.run("features")
    table = plate.cells("B02")
    assert table["Nuclei_AreaShape_Volume"].tolist() == [300, 200]
    assert table["Nuclei_AreaShape_Volume_um3"].tolist() == [300 * 0.5, 200 * 0.5]
    assert table["Nuclei_Location_Center_Z"].tolist() == [1, 1]
    mean = noise[labels == 1].mean() / 65535
    assert table["Nuclei_Intensity_MeanIntensity_DNA"].iloc[0] == pytest.approx(mean, rel=1e-6)
    assert table["Nuclei_Quality_FlowError"].tolist() == pytest.approx([0.1, 0.2])
    assert table["Nuclei_Quality_ClippedFraction"].tolist() == pytest.approx([40 / 300, 0])


@pytest.mark.parametrize(("stage", "before"), [("features", "tile"), ("features", "stitch"), ("aggregate", "features")])
def test_a_missing_line_of_an_earlier_journal_is_told_with_its_remedy(
    run: Planted, tmp_path: Path, stage: str, before: str
) -> None:
    plate = run.copy(tmp_path)
    for journal in plate.paths.journals(before):
        journal.write_text("".join(line for line in journal.open() if '"B03"' not in line))
    with pytest.raises(
        ResultsError, match=rf"{before} has not done this well[\s\S]*`plateflow retry demo/B03 --stage {before}`"
    ):
        plate.run(stage)


def test_an_unknown_family_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(PlateflowError, match="no feature family 'zernikes'; did you mean 'zernike'"):
        load_config({"features": {"families": ["intensity", "zernikes"]}})
    with pytest.raises(PlateflowError, match="choose from minimal, standard, full, location"):
        load_config({"features": {"families": "everything"}})
    assert load_config({"features": {"families": "texture"}}).features.families == ["texture"]


def test_the_dictionary_says_by_which_profiles_intensities_were_divided() -> None:
    columns = cell_columns(Config.model_validate({"features": {"families": "standard"}}), ["DNA", "AGP", "A_B"])
    described = with_pixels(columns, {"DNA": True, "AGP": False, "A_B": True})
    said = {name: feature.pixels.partition(";")[0] for name, feature in described.items()}
    divided = "raw values, divided by the illumination profile of {}, above the dark level"
    assert said["Nuclei_Intensity_MeanIntensity_DNA"] == divided.format("DNA")
    assert said["Nuclei_Texture_Contrast_AGP_3_00_256"] == "raw values, not corrected for light"
    assert said["Nuclei_Correlation_Correlation_DNA_A_B"] == divided.format("A_B and DNA")
    assert said["Nuclei_AreaShape_Area"] == ""
    assert all("(65535 or 255)" in feature.pixels for feature in described.values() if feature.channel)


def test_the_documented_counts_of_columns_are_true() -> None:
    text = (Path(__file__).parents[2] / "docs" / "features.md").read_text()
    for names, label in ((["nuclei"], "nuclei"), (["nuclei", "cells"], "nuclei, cells, cytoplasm")):
        for channels in (3, 5):
            counts = []
            for preset in ("minimal", "standard", "full"):
                sets = {name: {"channels": ["DNA"]} for name in names}
                config = Config.model_validate({"segmentation": sets, "features": {"families": preset}})
                counts.append(str(len(cell_columns(config, [f"C{k}" for k in range(channels)]))))
            assert f"| {label} | {channels} | {' | '.join(counts)} |" in text

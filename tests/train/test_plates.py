"""Wells of a plate as training data: seen as `infer` sees them, with the labels that people have corrected."""

from pathlib import Path

import numpy as np
import pytest
import zarr

from plateflow.config import Config, PlateSpec
from plateflow.errors import PlateflowError, ResultsError
from plateflow.files import checksum, write_atomic
from plateflow.images.corrected import packed
from plateflow.images.well import WellImage
from plateflow.project import Project
from plateflow.simulate.plate import micro_wells, simulate_plate
from plateflow.stages import run_stage
from plateflow.stages.infer import _read
from plateflow.stages.job import Job
from plateflow.state.corrections import Correction, record
from plateflow.train.plates import plate_samples

SETS = {"cells": {"channels": ["AGP", "DNA"]}, "nuclei": {"channels": ["DNA"]}}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A plate of three overlapping fields a well, up to its window; a corner of the image holds no field."""
    folder = tmp_path_factory.mktemp("plate")
    made = simulate_plate(folder / "raw", wells=micro_wells(), fields=3, field_shape=(64, 80), overlap_px=8)
    config = Config(results=str(folder / "results"), parts={"cpu": 1, "gpu": 1}, segmentation=SETS)
    project = Project.of(config, {"p": PlateSpec(plate="p", path=str(made.raw))})
    for stage in ("ingest", "tile", "normalise"):
        run_stage(project.plate("p"), stage)
    return project


def correct(project: Project, well: str) -> np.ndarray:
    """Draw labels with another tool: all over the image, also where no field lies; returns them, YX."""
    array = zarr.open_array(project.plate("p").paths.image(well) / "labels/cells/0", mode="r+")
    labels = np.zeros(array.shape, np.uint32)
    for number, y in enumerate(range(0, labels.shape[-2] - 12, 16)):
        labels[..., y : y + 12, 3:] = 1 + number
    array[...] = labels
    return labels[0, 0]


def test_a_well_gives_what_infer_sees_and_the_labels_as_they_are_now(project: Project) -> None:
    plate = project.plate("p")
    drawn = correct(project, "B02")
    samples = plate_samples(plate.paths.root, ["b2"], "cells", project)
    (canvas,) = plate.canvases("B02", "cells")
    image, job = WellImage.open(plate.paths, "B02"), Job.of(plate, "infer", "0")
    seen = _read(job, image, canvas, plate.channels_of("cells"))
    assert len(samples) == 3, "fields apart, as one corner of the canvas is fill"
    for sample, box in zip(samples, canvas.fields, strict=True):
        np.testing.assert_array_equal(sample.image, seen[:, *box.slices])
        np.testing.assert_array_equal(sample.labels, drawn[box.slices])
    assert {(sample.source, sample.light) for sample in samples} == {("p", "fluorescence")}
    assert samples[0].diameter == pytest.approx(2 * np.sqrt(77 * 12 / np.pi), rel=0.01)
    drawn[:] = 0
    drawn[5:15, 5:15] = 7
    zarr.open_array(plate.paths.image("B02") / "labels/cells/0", mode="r+")[0, 0] = drawn
    assert plate_samples(plate.paths.root, ["B02"], "cells", project)[0].labels.sum() == 700


def test_a_canvas_without_fill_is_one_sample(project: Project, tmp_path: Path) -> None:
    made = simulate_plate(tmp_path / "raw", wells=micro_wells(), fields=2, field_shape=(64, 80))
    config = project.config.model_copy(update={"results": str(tmp_path / "results")})
    two = Project.of(config, {"p": PlateSpec(plate="p", path=str(made.raw))})
    for stage in ("ingest", "tile", "normalise"):
        run_stage(two.plate("p"), stage)
    correct(two, "B02")
    samples = plate_samples(two.plate("p").paths.root, ["B02"], "cells", two)
    assert [sample.labels.shape for sample in samples] == [canvas.shape for canvas in two.plate("p").canvases("B02")]


@pytest.mark.parametrize(
    ("plate", "well", "label_set", "error", "words"),
    [
        ("q", "B02", "cells", PlateflowError, r"no results of a plate of this project[\s\S]*results/q[\s\S]*results/p"),
        ("p", "H12", "cells", PlateflowError, r"the plate has no well H12"),
        ("p", "B2x", "cells", PlateflowError, r"B2x"),
        ("p", "B02", "cell", PlateflowError, r"no label set 'cell'[\s\S]*did you mean 'cells'"),
        ("p", "B02", "nuclei", ResultsError, r"the well has no labels\n  where: p/B02, label set nuclei"),
    ],
)
def test_what_is_not_there_is_one_error(
    project: Project, plate: str, well: str, label_set: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        plate_samples(Path(project.config.results) / plate, [well], label_set, project)


def test_without_names_the_wells_that_were_corrected_are_learnt_from(project: Project) -> None:
    plate = project.plate("p")
    with pytest.raises(ResultsError, match=r"no well has corrected labels\n  where: p, label set nuclei"):
        plate_samples(plate.paths.root, None, "nuclei", project)
    labels = [(canvas.index, np.full(canvas.shape, 0, np.uint32)) for canvas in plate.canvases("B03", "nuclei")]
    labels[0][1][5:15, 5:15] = 7
    data = packed(labels, b"")
    correction = Correction(
        well="B03",
        label_set="nuclei",
        name="x",
        stamp=(len(data), checksum(data)),
        images=plate.labelled_image("B03", "nuclei"),
        made_from="",
        by="ada",
        at="",
        sources={},
        counts={},
        n_columns=plate.n_columns,
    )
    write_atomic(correction.file(plate.paths), data)
    record(plate.paths, [correction])
    samples = plate_samples(plate.paths.root, None, "nuclei", project)
    assert {sample.name[:3] for sample in samples} == {"B03"}
    assert samples[0].labels.sum() == 700, "as people have left them, not as the store has them"

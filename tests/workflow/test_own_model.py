"""Segment, correct, `snakemake train`, name the model, segment again."""

from pathlib import Path

import pytest
import tifffile
import yaml
from workflow_project import TINY

from plateflow.errors import ConfigError
from plateflow.model.registry import hash_of, read_metadata
from plateflow.project import Project
from plateflow.state.journal import outcomes
from plateflow.train.plates import plate_samples
from plateflow.train.provenance import data_digest
from plateflow.workflow import Workflow


def test_a_model_is_trained_on_corrected_labels_named_and_used(project, monkeypatch):
    project.plateflow("export", "micro", "--to", "napari", "--wells", "B02", "-o", "exported")
    (file,) = (project.folder / "exported").glob("*labels*.tif")
    labels = tifffile.imread(file)
    labels[..., :40] = 0  # what a user takes away
    tifffile.imwrite(file, labels)
    project.plateflow("import", "exported", "--split")
    options = f"--name mine --from {TINY} --plate results/micro --label-set cells --steps 3"
    project.configure(lambda config: config.update(train=f"{options} --licence CC-BY-NC-4.0 --device cpu"))
    done = project.sequences()
    project.snakemake("train")
    assert project.sequences() == done, "no stage of a plate ran"
    model = project.folder / "models/mine.safetensors"
    said = read_metadata(model)
    monkeypatch.chdir(project.folder)
    samples = plate_samples(Path("results/micro"), ["B02"], "cells", Project.load(Path("config/config.yaml")))
    assert samples and not any(sample.labels[:, :40].any() for sample in samples)
    assert said["data"] == data_digest(samples), "the well that was corrected, and no other"
    assert said["parent"] == f"tiny, sha256 {hash_of(TINY)}"
    assert (said["licence"], said["recipe"]["steps"]) == ("CC-BY-NC-4.0", 3)

    project.configure(lambda config: config["segmentation"]["cells"].update(model="mine"))
    assert "rule train" not in project.snakemake("--until", "stitch")
    used = {key[1]: entry.info["sha256"] for key, entry in outcomes(project.path().journals("infer")).items()}
    assert used == {"nuclei": hash_of(TINY), "cells": hash_of(model)}


def test_without_options_there_is_nothing_to_train(project, monkeypatch):
    monkeypatch.chdir(project.folder)
    workflow = Workflow(yaml.safe_load(Path("config/config.yaml").read_text()))
    with pytest.raises(ConfigError, match="doesn't say what to train"):
        workflow.training_options()
    assert not any("models" in target for target in workflow.targets())

"""Segment, correct, `snakemake train`, name the model, segment again."""

import json

import numpy as np
import zarr
from workflow_project import TINY

from plateflow.config import Config
from plateflow.model.registry import hash_of, read_metadata
from plateflow.project import Project
from plateflow.state.journal import outcomes
from plateflow.train.plates import plate_samples
from plateflow.train.provenance import data_digest


def test_a_model_is_trained_on_corrected_labels_named_and_used(project):
    assert "train" not in project.snakemake("--dry-run", "--forceall").split("Job stats:")[1].split("total")[0]
    assert "the configuration doesn't say what to train" in project.snakemake("train", status=1)
    labels = zarr.open_array(project.path().image("B02") / "labels/cells/0", mode="r+")
    labels[..., :40] = 0  # what a user takes away
    options = f"--name mine --from {TINY} --plate results/micro --label-set cells --steps 3"
    project.configure(lambda config: config.update(train=f"{options} --licence CC-BY-NC-4.0 --device cpu"))
    done = project.sequences()
    project.snakemake("train")
    assert project.sequences() == done, "no stage of a plate ran"
    model = project.folder / "models/mine.safetensors"
    said = read_metadata(model)
    config = json.loads(Config.model_validate(_config(project)).model_dump_json())
    whole = Project.load(config | {key: str(project.folder / config[key]) for key in ("plates", "results")})
    samples = plate_samples(project.path().root, ["B02"], "cells", whole)
    assert not any(sample.labels[:, :40].any() for sample in samples[:1])
    assert said["data"] == data_digest(samples)
    assert hash_of(TINY)[:8] in said["parent"] and said["licence"] == "CC-BY-NC-4.0" and said["recipe"]["steps"] == 3
    assert "Nothing to be done" in project.snakemake("train"), "a name is trained once"

    project.configure(lambda config: config["segmentation"]["cells"].update(model="mine"))
    project.snakemake("--until", "stitch")
    used = {key[1]: entry.info["sha256"] for key, entry in outcomes(project.path().journals("infer")).items()}
    assert used == {"nuclei": hash_of(TINY), "cells": hash_of(model)}
    assert "models/mine.safetensors" in project.plateflow("weights", "list")
    assert not np.array_equal(labels[...], np.zeros(1))


def _config(project):
    import yaml

    return yaml.safe_load((project.folder / "config/config.yaml").read_text())

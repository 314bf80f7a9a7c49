"""Trains the model that `train` of the configuration describes."""

from pathlib import Path

from plateflow.cli import run_typed
from plateflow.stages.script import logged

with logged(Path(snakemake.log[0]), "train"):
    run_typed(["train", *snakemake.params.options])

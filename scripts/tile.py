"""The tile stage of one job."""

from plateflow.images.tile import run
from plateflow.state.script import run_stage

run_stage(snakemake, "tile", run)

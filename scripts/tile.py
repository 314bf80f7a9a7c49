"""The tile stage of one job."""

from plateflow.stages.script import run_stage
from plateflow.stages.tile import run

run_stage(snakemake, "tile", run)

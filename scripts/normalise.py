"""The normalise stage of one job."""

from plateflow.images.normalise import run
from plateflow.state.script import run_stage

run_stage(snakemake, "normalise", run)

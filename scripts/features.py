"""The features stage of one job."""

from plateflow.features.stage import run
from plateflow.state.script import run_stage

run_stage(snakemake, "features", run)

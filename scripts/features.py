"""The features stage of one job."""

from plateflow.stages.features import run
from plateflow.stages.script import run_stage

run_stage(snakemake, "features", run)

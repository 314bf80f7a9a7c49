"""The infer stage of one job."""

from plateflow.stages.infer import run
from plateflow.stages.script import run_stage

run_stage(snakemake, "infer", run)

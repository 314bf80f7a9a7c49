"""The infer stage of one job."""

from plateflow.segment.infer import run
from plateflow.state.script import run_stage

run_stage(snakemake, "infer", run)

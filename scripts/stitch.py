"""The stitch stage of one job."""

from plateflow.segment.stitch import run
from plateflow.state.script import run_stage

run_stage(snakemake, "stitch", run)

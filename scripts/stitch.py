"""The stitch stage of one job."""

from plateflow.stages.script import run_stage
from plateflow.stages.stitch import run

run_stage(snakemake, "stitch", run)

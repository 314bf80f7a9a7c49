"""The aggregate stage of one job."""

from plateflow.stages.aggregate import run
from plateflow.stages.script import run_stage

run_stage(snakemake, "aggregate", run)

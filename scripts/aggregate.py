"""The aggregate stage of one job."""

from plateflow.state.script import run_stage
from plateflow.stats.aggregate import run

run_stage(snakemake, "aggregate", run)

"""The aggregate stage of one job."""

from plateflow.stats.aggregate import run

from plateflow.state.script import run_stage

run_stage(snakemake, "aggregate", run)

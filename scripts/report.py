"""The report stage of one job."""

from plateflow.report.stage import run
from plateflow.state.script import run_stage

run_stage(snakemake, "report", run)

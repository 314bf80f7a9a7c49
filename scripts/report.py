"""The report stage of one job."""

from plateflow.stages.report import run
from plateflow.stages.script import run_stage

run_stage(snakemake, "report", run)

"""The ingest stage of one job."""

from plateflow.stages.ingest import run
from plateflow.stages.script import run_stage

run_stage(snakemake, "ingest", run)

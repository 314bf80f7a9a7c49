"""The ingest stage of one job."""

from plateflow.images.ingest import run
from plateflow.state.script import run_stage

run_stage(snakemake, "ingest", run)

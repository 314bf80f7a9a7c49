"""The follow stage of one job."""

from plateflow.segment.follow import run
from plateflow.state.script import run_stage

run_stage(snakemake, "follow", run)

"""The follow stage of one job."""

from plateflow.stages.follow import run
from plateflow.stages.script import run_stage

run_stage(snakemake, "follow", run)

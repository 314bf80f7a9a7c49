"""The normalise stage of one job."""

from plateflow.stages.normalise import run
from plateflow.stages.script import run_stage

run_stage(snakemake, "normalise", run)

"""Makes endpoints of the paths, in the scratch."""

from plateflow.stages.script import run_rule

run_rule(snakemake, "follow")

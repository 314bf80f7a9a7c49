"""Makes flow fields, in the scratch."""

from plateflow.stages.script import run_rule

run_rule(snakemake, "infer")

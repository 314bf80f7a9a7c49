"""Makes screen/index.html and the tables over all plates."""

from plateflow.stages.script import run_rule

run_rule(snakemake, "screen")

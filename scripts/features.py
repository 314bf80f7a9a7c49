"""Makes cells/<well>.parquet."""

from plateflow.stages.script import run_rule

run_rule(snakemake, "features")

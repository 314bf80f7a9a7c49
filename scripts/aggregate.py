"""Makes wells.parquet, controls.csv, hits.csv and the other tables of a plate."""

from plateflow.stages.script import run_rule

run_rule(snakemake, "aggregate")

"""Makes report.html and ledger.parquet."""

from plateflow.stages.script import run_rule

run_rule(snakemake, "report")

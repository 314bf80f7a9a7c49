"""Makes labels in plate.zarr, and objects/<label set>/<well>.parquet."""

from plateflow.stages.script import run_rule

run_rule(snakemake, "stitch")

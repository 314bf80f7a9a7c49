"""Makes the manifest, and the groups and empty arrays of plate.zarr."""

from plateflow.stages.script import run_rule

run_rule(snakemake, "ingest")

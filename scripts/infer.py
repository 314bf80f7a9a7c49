"""Makes flow fields, in the scratch; where they aren't kept, labels in plate.zarr."""

from plateflow.stages.script import run_rule

run_rule(snakemake, "infer")

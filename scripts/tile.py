"""Makes level 0 and pyramids of the images in plate.zarr, and histograms/<well>.npz."""

from plateflow.stages.script import run_rule

run_rule(snakemake, "tile")

"""Makes manifest/window.json and manifest/illumination.npz."""

from plateflow.stages.script import run_rule

run_rule(snakemake, "normalise")

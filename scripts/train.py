"""Trains the model that `train` of the configuration describes."""

from plateflow.cli.train import run_rule

run_rule(snakemake)

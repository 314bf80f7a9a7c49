"""The page over all plates."""

from plateflow.report.screen import run_screen

run_screen(snakemake)

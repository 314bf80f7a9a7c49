"""The page over all plates."""

from pathlib import Path

from plateflow.config import load_config, load_plates
from plateflow.report.screen import write_screen
from plateflow.state.journal import write_atomic
from plateflow.state.script import logged
from plateflow.state.stages import digest

with logged(Path(snakemake.log[0]), "the page over all plates"):
    config = load_config(snakemake.config)
    write_screen(config, load_plates(Path(config.plates)))
    work = digest([Path(receipt).read_text() for receipt in snakemake.input])
    write_atomic(Path(snakemake.output[0]), f'{{"plate": "screen", "stage": "report", "work": "{work}"}}\n'.encode())

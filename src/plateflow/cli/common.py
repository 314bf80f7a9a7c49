"""What several commands share: the options that name the configuration and the folder of weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigOption = Annotated[
    Path, typer.Option("--configfile", help="the configuration, as given to snakemake", show_default=True)
]
WeightsOption = Annotated[
    Path | None, typer.Option("--weights-dir", help="folder of weights, searched before the others")
]
DEFAULT_CONFIG = Path("config/config.yaml")

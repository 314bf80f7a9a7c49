"""What several commands share: the option that names the configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigOption = Annotated[
    Path, typer.Option("--configfile", help="the configuration, as given to snakemake", show_default=True)
]
DEFAULT_CONFIG = Path("config/config.yaml")

"""What several commands need: the project's configuration, its plates, and a target such as PLATE/WELL."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from plateflow.config import Config, PlateEntry, load_config, load_plates
from plateflow.errors import PlateflowError
from plateflow.paths import PlatePaths, parse_well, well_name

ConfigOption = Annotated[
    Path, typer.Option("--configfile", help="the configuration, as given to snakemake", show_default=True)
]
DEFAULT_CONFIG = Path("config/config.yaml")


@dataclass(frozen=True, kw_only=True)
class Project:
    """A configuration and its plates."""

    config: Config
    plates: dict[str, PlateEntry]

    @classmethod
    def load(cls, configfile: Path) -> Project:
        """Read both; errors as in `load_config` and `load_plates`."""
        config = load_config(configfile)
        return cls(config=config, plates=load_plates(Path(config.plates)))

    def paths(self, plate: str) -> PlatePaths:
        """The files of a plate."""
        return PlatePaths.of(plate, results=self.config.results, scratch=self.config.scratch)

    def target(self, text: str) -> tuple[PlateEntry, str]:
        """A plate and a well (empty: the whole plate) from PLATE or PLATE/WELL.

        Raises:
            PlateflowError: no such plate, or no well name.
        """
        plate, _, well = text.partition("/")
        if plate not in self.plates:
            raise PlateflowError(
                f"there is no plate {plate!r}",
                where=self.config.plates,
                remedy=f"the plates are {', '.join(list(self.plates)[:20])}",
            )
        if well:
            try:
                well = well_name(*parse_well(well))
            except ValueError as error:
                raise PlateflowError(str(error), where=text) from None
        return self.plates[plate], well

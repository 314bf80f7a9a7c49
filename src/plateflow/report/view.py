"""What the sections of a plate's page look at."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from plateflow.chain import STAGES
from plateflow.features.measure import compartment
from plateflow.project import Plate
from plateflow.state.journal import Entry, LeftOut
from plateflow.stats.wells import NOT_ACQUIRED
from plateflow.tables import read_table

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class View:
    """A plate as its page shows it.

    Attributes:
        plate: of the project.
        wells: the well table, without the wells that were not acquired.
        not_acquired: names of those wells.
        qc: the quality table.
        aggregate: the outcome of the stage that made these tables.
    """

    plate: Plate
    wells: pd.DataFrame
    not_acquired: list[str]
    qc: pd.DataFrame
    aggregate: Entry

    @classmethod
    def read(cls, plate: Plate) -> View:
        """The view of a plate whose tables are made."""
        wells = read_table(plate.paths.table("wells.parquet"))
        absent = wells["Metadata_State"] == NOT_ACQUIRED
        return cls(
            plate=plate,
            wells=wells[~absent].reset_index(drop=True),
            not_acquired=wells.loc[absent, "Metadata_Well"].tolist(),
            qc=read_table(plate.paths.table("qc.parquet")),
            aggregate=plate.outcomes("aggregate").required(),
        )

    @cached_property
    def rows(self) -> str:
        """The compartment whose objects are the rows of the cell tables."""
        return compartment(self.plate.config.row_label_set)

    @cached_property
    def counts(self) -> list[str]:
        """The columns that count objects, that of the rows first."""
        names = [str(name) for name in self.wells if str(name).startswith("Count_")]
        return sorted(names, key=lambda name: name != f"Count_{self.rows}")

    @cached_property
    def metrics(self) -> dict[str, str]:
        """What the plate's charts can show: column of the well table -> title."""
        names = {name: f"{name.removeprefix('Count_')} (count)" for name in self.counts}
        names[f"{self.rows}_AreaShape_Area_um2"] = f"{self.rows}: median area (µm²)"
        for channel in self.plate.channels:
            names[f"{self.rows}_Intensity_MeanIntensity_{channel}"] = f"{self.rows}: median of mean {channel}"
        wells = self.wells
        return {column: name for column, name in names.items() if column in wells and wells[column].notna().any()}

    @cached_property
    def left_out(self) -> list[LeftOut]:
        """Wells, and fields of wells that went on without them, each at the stage at which it was left out."""
        return self.plate.left_out()


def accepted_results(plate: Plate) -> list[dict[str, Any]]:
    """Results of earlier versions of the stages before the page that a user has let stand.

    Returns:
        dicts with `stage`, `made_by` and `version`: those that made them (None: not known) and they stand for, `by`,
        `at`, and `n`, how many there are.
    """
    found: Counter[tuple[Any, ...]] = Counter()
    for stage in [name for name in STAGES if name != "report"]:
        for entry in plate.outcomes(stage).values():
            wanted = entry.label_set in ("", *plate.config.segmentation) and entry.well in ("", *plate.wells)
            if entry.accepted and wanted:
                accepted = entry.accepted
                found[stage, entry.made_by, accepted["version"], accepted["by"], accepted["at"]] += 1
    names = ("stage", "made_by", "version", "by", "at", "n")
    return [dict(zip(names, (*key, n), strict=True)) for key, n in found.items()]

"""What the sections of a plate's page look at."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from plateflow.chain import stages_of
from plateflow.features.measure import compartment
from plateflow.project import Plate
from plateflow.state.journal import Entry, LeftOut
from plateflow.stats.groups import group_columns
from plateflow.stats.over_time import compared
from plateflow.stats.reference import Cut, by_frame, frame_title, group_of, well_values
from plateflow.stats.segmentation import columns_of
from plateflow.stats.statistics import has_statistics, summaries_of
from plateflow.stats.wells import NOT_ACQUIRED
from plateflow.tables import read_table

if TYPE_CHECKING:
    import pandas as pd


CORRECTED = "Metadata_Corrected"
"""Label sets that were corrected by hand."""


@dataclass(frozen=True, kw_only=True)
class View:
    """A plate as its page shows it.

    Attributes:
        plate: of the project.
        wells: the well table, without the wells and frames that were not acquired.
        not_acquired: names of the wells of which nothing was acquired.
        qc: the quality table.
        aggregate: the outcome of the stage that made these tables.
        frame: where one frame of the plate is shown, or a group of its wells, the columns that tell it apart.
        tables: those that were read, of all frames.
    """

    plate: Plate
    wells: pd.DataFrame
    not_acquired: list[str]
    qc: pd.DataFrame
    aggregate: Entry
    frame: Cut = field(default_factory=dict)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)

    @classmethod
    def read(cls, plate: Plate) -> View:
        """The view of a plate whose tables are made."""
        wells = read_table(plate.paths.table("wells.parquet"))
        absent = wells["Metadata_State"] == NOT_ACQUIRED
        acquired = wells[~absent].reset_index(drop=True)
        absent &= ~wells["Metadata_Well"].isin(acquired["Metadata_Well"])
        return cls(
            plate=plate,
            wells=acquired,
            not_acquired=wells.loc[absent, "Metadata_Well"].unique().tolist(),
            qc=read_table(plate.paths.table("qc.parquet")),
            aggregate=plate.outcomes("aggregate").required(),
        )

    @cached_property
    def frames(self) -> list[View]:
        """Each frame of the plate by itself."""
        return [replace(self, wells=rows.reset_index(drop=True), frame=frame) for frame, rows in by_frame(self.wells)]

    @cached_property
    def cuts(self) -> list[View]:
        """What statistics take by itself: each frame, group by group (`stats.statistics`)."""
        stats = self.plate.config.stats
        groups = group_columns(stats)
        cuts = by_frame(compared(self.wells, stats.time), groups)
        return [
            replace(self, wells=rows.reset_index(drop=True), frame=cut)
            for cut, rows in cuts
            if has_statistics(rows, groups)
        ]

    @cached_property
    def shown_together(self) -> list[list[View]]:
        """The `cuts` of each frame, of which the page shows one; all of them where no time point is by itself."""
        if self.plate.config.stats.time != "each":
            return [self.cuts]
        return [[cut for cut in self.cuts if frame.frame.items() <= cut.frame.items()] for frame in self.frames]

    @property
    def title(self) -> str:
        """The frame's name."""
        return frame_title(self.frame)

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Of a frame, what its statistics found; see `write_statistics`."""
        found = summaries_of(self.aggregate.info)
        return next(each for each in found if all(each.get(name, 0) == value for name, value in self.frame.items()))

    @property
    def group(self) -> str:
        """The name of the group, and what of a time series is compared; empty for a frame as a whole."""
        stats = self.plate.config.stats
        return frame_title(group_of(self.frame) if stats.time == "each" else self.frame)

    def table(self, name: str) -> pd.DataFrame:
        """The rows of a table of the plate that are of this frame."""
        if name not in self.tables:
            self.tables[name] = read_table(self.plate.paths.table(name), group_columns(self.plate.config.stats))
        table = self.tables[name]
        for column, value in self.frame.items():
            if column in table:
                table = table[table[column] == value]
        return table.reset_index(drop=True)

    @cached_property
    def by_well(self) -> pd.DataFrame:
        """A row of each well: state, flags and fields are the same in all its frames."""
        return self.wells.drop_duplicates("Metadata_Well").reset_index(drop=True)

    @cached_property
    def charted(self) -> pd.DataFrame:
        """What charts and pictures show of each well and frame: metadata and `metrics`, counts per field in use."""
        metadata = self.wells[[name for name in self.wells if str(name).startswith("Metadata_")]]
        return metadata.join(well_values(self.wells, list(self.metrics)))

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
        names = {name: f"{name.removeprefix('Count_')} (count per field)" for name in self.counts}
        names[f"{self.rows}_AreaShape_Area_um2"] = f"{self.rows}: median area (µm²)"
        for channel in self.plate.channels:
            names[f"{self.rows}_Intensity_MeanIntensity_{channel}"] = f"{self.rows}: median of mean {channel}"
        wells = self.wells
        return {column: name for column, name in names.items() if column in wells and wells[column].notna().any()}

    @cached_property
    def corrected(self) -> int:
        """Of how many wells labels were corrected by hand."""
        return int((self.by_well[CORRECTED].fillna("") != "").sum()) if CORRECTED in self.by_well else 0

    @cached_property
    def judged(self) -> dict[str, str]:
        """The columns with numbers of the segmentation, and their flags."""
        return columns_of(self.wells)

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
    for stage in [name for name in stages_of(plate.config) if name != "report"]:
        for entry in plate.outcomes(stage).values():
            wanted = entry.label_set in ("", *plate.config.segmented) and entry.well in ("", *plate.wells)
            if entry.accepted and wanted:
                accepted = entry.accepted
                found[stage, entry.made_by, accepted["version"], accepted["by"], accepted["at"]] += 1
    names = ("stage", "made_by", "version", "by", "at", "n")
    return [dict(zip(names, (*key, n), strict=True)) for key, n in found.items()]

"""The rules of a configuration for a plate: filters of label sets, the default at the border, and populations."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace

from plateflow.config import Config
from plateflow.config.rules import BORDER, SHORT, Condition, conditions_of, filter_conditions
from plateflow.errors import ConfigError
from plateflow.features.columns import cell_columns
from plateflow.features.feature import Feature
from plateflow.features.measure import CYTOPLASM, NUMBER, compartment
from plateflow.stats.cell_cycle import PHASES
from plateflow.stats.reference import HIGH, JUDGED, LOW, SHARE


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What an object of a label set must meet.

    Attributes:
        label_set: whose objects it judges.
        key: of the label set's filter.
        conditions: all of them.
        counted: whether objects that fail are counted all the same: those at the border, where no filter says so.
    """

    label_set: str
    key: str
    conditions: tuple[Condition, ...]
    counted: bool = False

    @property
    def name(self) -> str:
        """The rule as tables name it."""
        return f"{self.label_set} {self.key}"


@dataclass(frozen=True, kw_only=True)
class Gates:
    """The rules of a configuration for a plate.

    Attributes:
        rules: in the order of label sets and of their filters.
        populations: by title (`Positive`), its conditions; of a cell cycle the column of the integrated DNA.
        columns: the features of the cell table, by column.
        rows: the label set that makes the rows.
        unknown_border: label sets of which no column tells which objects touch the border.
    """

    rules: list[Rule]
    populations: dict[str, list[Condition] | str]
    columns: Mapping[str, Feature]
    rows: str
    unknown_border: list[str]

    @property
    def needed(self) -> list[str]:
        """The columns of the cell table that decide."""
        names = [condition.column for rule in self.rules for condition in rule.conditions]
        for population in self.populations.values():
            names += [population] if isinstance(population, str) else [each.column for each in population]
        return list(dict.fromkeys([*names, *self.numbers.values()]))

    @property
    def numbers(self) -> dict[str, str]:
        """By label set that isn't the rows' and whose filter leaves objects out, the column with their numbers."""
        sets = dict.fromkeys(rule.label_set for rule in self.rules if not rule.counted and rule.label_set != self.rows)
        return {name: f"{compartment(name)}_{NUMBER.column}" for name in sets}

    @property
    def of_plate(self) -> bool:
        """Whether some number has to be computed from the plate's cells."""
        conditions = [condition for rule in self.rules for condition in rule.conditions]
        for population in self.populations.values():
            if isinstance(population, str):
                return True
            conditions += population
        return any(condition.source != "number" for condition in conditions)

    @property
    def names(self) -> list[str]:
        """The populations as columns name them: `Positive`, `Cycle_G1`."""
        return [
            name
            for title, population in self.populations.items()
            for name in ([f"{title}_{phase}" for phase in PHASES] if isinstance(population, str) else [title])
        ]

    @property
    def shares(self) -> list[str]:
        """The columns of the well table."""
        return [f"{SHARE}{name}{end}" for name in self.names for end in ("", LOW, HIGH, JUDGED)]

    def logarithms(self, column: str) -> bool:
        """Whether logarithms of a column are compared: intensities differ by factors."""
        return self.columns[column].family == "intensity"


def gates_of(config: Config, channels: list[str]) -> Gates:
    """The rules that a configuration has for a plate with these channels.

    Raises:
        ConfigError: a rule names a column that the cell table doesn't have, or one of another label set.
    """
    columns = cell_columns(config, channels)
    rules, unknown = list[Rule](), list[str]()
    for name, settings in config.segmentation.items():
        where, prefix = f"segmentation.{name}.filter", compartment(name)
        own = (prefix, CYTOPLASM) if prefix == "Cells" else (prefix,)
        border = f"{prefix}_Quality_TouchesBorder"
        asked = settings.filter.get(BORDER)
        if border not in columns:
            if asked:
                remedy = "add quality to features.families"
                raise ConfigError(f"which {name} touch the border isn't measured", where=where, remedy=remedy)
            unknown += [name] * (asked is None and settings.dimensions == 2)
        elif asked or (asked is None and settings.dimensions == 2):
            inside = Condition(column=border, comparison="<", source="number", value=0.5)
            rules.append(Rule(label_set=name, key=BORDER, conditions=(inside,), counted=not asked))
        for key, conditions in filter_conditions(settings.filter).items():
            column = f"{prefix}_{SHORT[key]}" if key in SHORT else key
            _check_column(column, columns, f"{where}.{key}")
            if column.partition("_")[0] not in own:
                raise ConfigError(
                    f"{column} isn't measured on {name}",
                    where=f"{where}.{key}",
                    why="a filter says which objects of its own label set stay",
                    remedy="put it into the filter of its label set",
                )
            rules.append(
                Rule(label_set=name, key=key, conditions=tuple(replace(each, column=column) for each in conditions))
            )
    populations = dict[str, list[Condition] | str]()
    for name, population in config.populations.items():
        if population.cell_cycle is not None:
            of = next((name for name in config.segmentation if compartment(name) == "Nuclei"), config.row_label_set)
            column = f"{compartment(of)}_Intensity_IntegratedIntensity_{population.cell_cycle}"
            _check_column(column, columns, f"populations.{name}.cell_cycle")
            populations[compartment(name)] = column
            continue
        conditions = conditions_of(population.where)
        for condition in conditions:
            _check_column(condition.column, columns, f"populations.{name}.where")
        populations[compartment(name)] = conditions
    return Gates(
        rules=rules, populations=populations, columns=columns, rows=config.row_label_set, unknown_border=unknown
    )


def _check_column(column: str, columns: Mapping[str, Feature], where: str) -> None:
    known = [name for name, feature in columns.items() if feature.kind != "number"]
    if column not in known:
        near = difflib.get_close_matches(column, known, n=1)
        remedy = f"did you mean {near[0]}?" if near else "docs/features.md and features.json have the columns"
        raise ConfigError(f"the cell tables have no column {column!r} to compare", where=where, remedy=remedy)

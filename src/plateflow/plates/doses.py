"""The doses of a plate map: the column that holds them, their unit, and which of them are the same."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from plateflow.errors import RawDataError

ROUNDING = 0.01
"""Doses of a treatment that differ by no more than this fraction are one, written with other digits; of more than two
spellings (3.3, 3.33, 3.333) this holds for each and the next, and twice as much for the first and the last."""
_ABSENT = ("", "NA", "N/A", "NAN")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_MOLAR = re.compile(
    r"(milli|micro|nano|pico|femto|[munpf])?(m|molar|mol(es?)?(/|_?per_?|_)(l|liter|litre)s?)", re.IGNORECASE
)
_POWERS = {"": 0, "m": -3, "u": -6, "n": -9, "p": -12, "f": -15}
_OTHER = re.compile(
    r"([munpk]?g|[munp]l|[munp]mol|iu|u|pfu)((/|_?per_?|_)([mundk]?l|[km]?g|liter|litre|well|cell)s?)?"
    r"|%|percent|pct|ppm|ppb|moi|m?gy|fold|x",
    re.IGNORECASE,
)
_CAPITALS = re.compile(r"\b(iu|u|pfu|moi)\b|gy")
_DOSE = re.compile(r"(.*[^a-z])?(doses?|dosages?|dosis|concentrations?|konzentration|concs?)(.*)", re.IGNORECASE)
_ELSE = re.compile(
    r"(^|[^a-z])(log|(stock|dmso|solvent|vehicle|serum|fbs|cell|seeding|time|hour|hr|day|min|minute|post|after)s?"
    r"($|[^a-z]))",
    re.IGNORECASE,
)
"""Words in a column's name that say that it isn't the dose of the treatment: of what else, when, or a logarithm."""
_BARE = re.compile(r"[munpf]M|[munpf]?mol(es?)?(/|_per_)(l|L|liter|litre)")
"""Names of columns that are nothing but a unit of concentration."""
_UNIT_COLUMN = re.compile(r"(.*?)[ ._]*(units?|uom|einheit)")
_VOLUME = re.compile(r"(milli|micro|nano|pico|[munp])?l(it(er|re)s?)?", re.IGNORECASE)
Row = tuple[str, dict[str, str]]


@dataclass(frozen=True)
class _Column:
    """A column that could be the dose: its name, its unit ("" where none is said), and whether it is called dose."""

    name: str
    unit: str
    own: bool


def plain(name: str) -> str:
    """The name of a column for comparison: `Metadata_Well Position` is well_position."""
    return name.lower().replace(" ", "_").removeprefix("metadata_")


def is_unit_column(name: str) -> bool:
    """Whether a column of this name holds the units of doses."""
    return _has_unit(name) is not None


def _has_unit(name: str) -> str | None:
    """The column whose units a column of this name holds: drug_conc of `drug_conc_units`, "" of `unit`."""
    match = _UNIT_COLUMN.fullmatch(plain(name))
    return match[1] if match and (not match[1] or column_of_dose(match[1])) else None


def column_of_dose(name: str) -> _Column | None:
    """What a column of this name is if it could hold doses, else None.

    `dose`, `concentration` and the like, with something before it (`drug_dose`) and a unit behind it (`dose_uM`,
    `Concentration (µg/ml)`) or before it (`uM_dose`); or a unit of concentration alone (`mmoles_per_liter`). What is
    of something else (`_ELSE`) is no dose.
    """
    bare = name.strip().removeprefix("Metadata_").replace("µ", "u").replace("μ", "u")
    if _BARE.fullmatch(bare):
        return _Column(name, unit_of(bare), own=False)
    match = _DOSE.fullmatch(re.sub(r"\s+", "_", bare))
    if match is None:
        return None
    before, word, behind = match.groups(default="")
    stated = re.fullmatch(r"[_.]*[(\[](.*)[)\]]_*", behind)
    unit = stated[1] if stated else re.sub(r"^[_.,:]*(in_)?", "", behind, flags=re.IGNORECASE)
    known = _MOLAR.fullmatch(unit) or _OTHER.fullmatch(unit)
    if _ELSE.search(before) or (unit and not known and (not stated or _ELSE.search(unit))):
        return None  # serum_dose, dose_rank, dose (log10 M)
    first = before.strip("_.-")
    if not unit and len(first) > 1 and (_MOLAR.fullmatch(first) or _OTHER.fullmatch(first)):
        before, unit = "", first
    return _Column(name, unit_of(unit), own=not before and word.lower() in ("dose", "doses"))


def unit_of(text: str) -> str:
    """A unit in one spelling, so that plates compare: uM for µM, micromolar and umoles_per_liter, ug/ml for µg per mL.

    One that isn't known is as it is written.
    """
    clean = re.sub(r"\s+", "_", text.strip().replace("µ", "u").replace("μ", "u"))
    if match := _MOLAR.fullmatch(clean):
        prefix = {"milli": "m", "micro": "u"}.get(match[1].lower(), match[1][0].lower()) if match[1] else ""
        return f"{prefix}M"
    if _OTHER.fullmatch(clean.lower()):
        sign = re.sub("percent|pct", "%", clean.lower())
        return _CAPITALS.sub(lambda word: {"gy": "Gy"}.get(word[0], word[0].upper()), re.sub(r"_?per_?|_", "/", sign))
    return text.strip().replace("_", " ")


def _power(unit: str) -> int | None:
    """The power of ten by which a molar unit differs from M; None of another unit."""
    return _POWERS.get(unit[:-1]) if unit.endswith("M") else None


def _converted(value: float, unit: str, into: str) -> float:
    """A dose in another molar unit; by one multiplication or division, so that 100 nM are 0.1 uM to the last bit."""
    power = (_power(unit) or 0) - (_power(into) or 0)
    return float(value * 10**power if power >= 0 else value / 10**-power)


def in_one_unit(doses: Sequence[float], units: Sequence[str]) -> tuple[list[float], list[str]]:
    """Doses of several plates with their units: those that are molar in the first molar unit, others as they are."""
    first = next((unit for unit in units if _power(unit) is not None), "")
    pairs = [
        (_converted(dose, unit, first), first) if _power(unit) is not None else (dose, unit)
        for dose, unit in zip(doses, units, strict=True)
    ]
    return [dose for dose, _ in pairs], [unit for _, unit in pairs]


def doses_of(rows: Sequence[Row]) -> tuple[list[float], str, set[str]]:
    """The doses of a plate map.

    Args:
        rows: file and line of each, for messages, and its cells by column.

    Returns:
        one dose a row, NaN where there is none, the unit of all of them ("" where none is said), and the columns that
        hold the units of a column `dose` as written, which aren't those of the doses returned.

    Raises:
        RawDataError: two columns could be the dose or its unit, a dose is no number, or units can't be converted.
    """
    columns = [column for name in rows[0][1] if (column := column_of_dose(name)) is not None]
    columns = [column for column in columns if any(cells[column.name].upper() not in _ABSENT for _, cells in rows)]
    if len(own := [column for column in columns if column.own]) == 1 and all(_before(c) for c in columns if not c.own):
        columns = own
    if not columns:
        return [math.nan] * len(rows), "", set()
    stated = [_stated(rows, column) for column in columns]
    read = [_in_one_unit(rows, column, units) for column, (units, _) in zip(columns, stated, strict=True)]
    for column, (doses, unit) in zip(columns[1:], read[1:], strict=True):
        if not _same(read[0], (doses, unit)):
            raise RawDataError(
                f"two columns of the plate map could be the dose: {columns[0].name} and {column.name}",
                where=rows[0][0],
                why="they differ",
                remedy="call the right one dose, with its unit as in dose_uM, and the other by a name without dose and "
                "concentration, such as stock",
            )
    doses, unit = next((found for found in read if found[1]), read[0])
    overwritten = (names for column, (_, names) in zip(columns, stated, strict=True) if column.name == "dose")
    return doses, unit, {name for names in overwritten for name in names}


def _before(column: _Column) -> bool:
    """Whether the name says whose dose or concentration it is, as `drug_concentration` does."""
    match = _DOSE.fullmatch(plain(column.name))
    return match is None or bool(match[1])


def _same(first: tuple[list[float], str], second: tuple[list[float], str]) -> bool:
    """Whether two columns hold the same doses, within rounding."""
    (values, unit), (others, other) = first, second
    if unit and other and unit != other:
        if _power(unit) is None or _power(other) is None:
            return False
        others = [_converted(value, other, unit) for value in others]
    pairs = zip(values, others, strict=True)
    return all(math.isclose(a, b, rel_tol=ROUNDING) or (math.isnan(a) and math.isnan(b)) for a, b in pairs)


def _stated(rows: Sequence[Row], column: _Column) -> tuple[list[str], list[str]]:
    """The unit of each dose of a column as columns of units give it, "" for none, and these columns.

    They are those named after it, else those named after a dose, but not after another column of the map, else `unit`.
    The last may be that of something else, such as a volume.
    """
    names = {plain(name).rstrip("._"): name for name in rows[0][1]}
    of = {name: whose for name in rows[0][1] if (whose := _has_unit(name)) is not None}
    units = {name: [unit_of("" if (c := cells[name]).upper() in _ABSENT else c) for _, cells in rows] for name in of}
    of = {name: whose for name, whose in of.items() if any(units[name])}
    chosen = [name for name, whose in of.items() if names.get(whose) == column.name]
    chosen = chosen or [name for name, whose in of.items() if whose and whose not in names]
    if not chosen:
        other = column.unit or any("vol" in name for name in names)
        chosen = [n for n, whose in of.items() if not (whose or (other and all(_of_else(u, column) for u in units[n])))]
    for name in chosen[1:]:
        if units[name] != units[chosen[0]]:
            raise RawDataError(
                f"two columns of the plate map could be the unit of {column.name}: {chosen[0]} and {name}",
                where=rows[0][0],
                why="they differ",
                remedy=f"call the right one {column.name}_unit, and the other after what it is the unit of",
            )
    return units[chosen[0]] if chosen else [""] * len(rows), chosen


def _of_else(unit: str, column: _Column) -> bool:
    """Whether a unit isn't that of a dose: a volume, or one that isn't known where the dose has another."""
    unknown = _power(unit) is None and not _OTHER.fullmatch(unit)
    return not unit or _VOLUME.fullmatch(unit) is not None or (unknown and _power(column.unit) is not None)


def _in_one_unit(rows: Sequence[Row], column: _Column, stated: Sequence[str]) -> tuple[list[float], str]:
    sign = "%" if column.unit.startswith("%") else ""
    doses = [_dose(cells[column.name].removesuffix(sign).rstrip(), where) for where, cells in rows]
    units = [unit or column.unit for unit in stated]
    told = [(unit, where) for unit, dose, (where, _) in zip(units, doses, rows, strict=True) if dose > 0]
    first = told[0][0] if told else column.unit
    for unit, where in told:
        if column.unit and unit != column.unit:
            raise RawDataError(
                f"the plate map says two units of a dose: {column.unit} and {unit}",
                where=where,
                why=f"one is in the name of the column {column.name}, the other in a column of units",
                remedy="keep the right one: delete the other from the name, or the column of units",
            )
        if unit != first and None in (_power(unit), _power(first)):
            raise RawDataError(
                f"the plate map has doses in units that can't be converted into each other: {first or 'none'} and "
                f"{unit or 'none'}",
                where=where,
                remedy="give all doses in one unit, or in units of concentration from M to fM",
            )
    converted = [_converted(dose, unit, first) if dose > 0 else dose for dose, unit in zip(doses, units, strict=True)]
    return converted, first


def value_of(text: str) -> float | None:
    """A number as people write it, NaN for none; None for anything else, such as 1_000."""
    if text.upper() in _ABSENT:
        return math.nan
    value = float(text) if _NUMBER.fullmatch(text) else math.inf
    return None if math.isinf(value) else value


def amount_of(text: str) -> float | None:
    """A number as `value_of` reads it, or one with a unit of doses, such as 10 nM: in M if that is molar."""
    match = _NUMBER.match(text)
    unit = unit_of(text[match.end() :]) if match else ""
    power = _power(unit)
    if match is None or (power is None and not _OTHER.fullmatch(unit)):
        return value_of(text)
    return float(match[0]) * 10.0 ** (power or 0)


def _dose(text: str, where: str) -> float:
    value = value_of(text)
    if value is None:
        raise RawDataError(
            f"the plate map has a dose that is not a number: {text!r}",
            where=where,
            remedy="write numbers with a decimal point, and the unit in the column's name or a column of its own: "
            "dose_uM, or dose and dose_unit; where there is no dose, leave it empty, or write NA",
        )
    return value


def _near(low: tuple[object, float], high: tuple[object, float], times: int) -> bool:
    return high[1] <= low[1] * (1 + times * ROUNDING) * (1 + 1e-9)  # 3.333 is 1 % above 3.3


def same_doses(treatments: Iterable[object], doses: Iterable[float]) -> list[float]:
    """Doses of which those of a treatment that differ by rounding are one: the one most often written so.

    Args:
        treatments: what is dosed; only doses of the same are compared.
        doses: of the same length; those that are NaN or not above 0 stay.
    """
    pairs = list(zip(treatments, doses, strict=True))
    counts = Counter(pair for pair in pairs if pair[1] > 0)
    chosen: dict[tuple[object, float], float] = {}
    group: list[tuple[object, float]] = []
    for pair in [*sorted(counts, key=lambda pair: (str(pair[0]), pair[1])), (None, math.inf)]:
        if group and not (pair[0] == group[0][0] and _near(group[-1], pair, 1) and _near(group[0], pair, 2)):
            best = max(group, key=lambda each: (counts[each], -len(repr(each[1])), -each[1]))
            chosen |= dict.fromkeys(group, best[1])
            group = []
        group.append(pair)
    return [chosen.get(pair, pair[1]) for pair in pairs]

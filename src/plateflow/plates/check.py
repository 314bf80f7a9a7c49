"""Preflight: what is wrong with a raw plate, and what has changed in it since ingest, before anything is computed."""

import difflib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from plateflow.config import Config, PlateSpec
from plateflow.config.rules import conditions_of, filter_conditions
from plateflow.errors import ChannelError, PlateflowError
from plateflow.paths import PlatePaths, parse_well
from plateflow.plates.check_index import Problem, check_index
from plateflow.plates.check_pixels import check_pixels
from plateflow.plates.doses import amount_of, column_of_dose, plain, same_doses, value_of
from plateflow.plates.formats import format_by_map
from plateflow.plates.plate import index_plate, vendor_flat_field
from plateflow.plates.platemap import OWN, PLATE, ids_of, read_plate_map, says_where
from plateflow.plates.reader import Index, counted, examples
from plateflow.text import TextError, decode

_REPLICATE = re.compile(r"rep(lic|s?(_|$))")
_ROLE = re.compile(r"control|ctrl|role|^(well|sample)_?type|^content$")
"""Names of columns that may say which wells are controls."""


def check_channels(config: Config, metadata: Mapping[str, Any]) -> None:
    """Check that a plate has the channels that the label sets name, those of each together in some well.

    Raises:
        ChannelError: the plate lacks one; suggests the nearest. Or no well has all of a label set.
    """
    channels = [channel["name"] for channel in metadata["channels"]]
    lacking = metadata.get("lacking_channels", {})
    for name, label_set in config.segmentation.items():
        for channel in label_set.channels:
            if channel not in channels:
                near = difflib.get_close_matches(channel, channels, n=1, cutoff=0.4)
                of = f"{name}.propagate" if label_set.propagate else name
                raise ChannelError.missing(
                    [channel],
                    channels,
                    where=f"{metadata['plate']}: segmentation.{of}.channels",
                    remedy=f"did you mean {near[0]!r}?"
                    if near
                    else "name one of these in the configuration, or give one this name (channel_names, plate sheet)",
                )
        if all(set(label_set.channels).intersection(lacking.get(well, ())) for well in metadata["wells"]):
            raise ChannelError(
                f"no well has all of the channels {', '.join(label_set.channels)}",
                where=f"{metadata['plate']}: segmentation.{name}.channels",
                why="each well lacks one or more of them, so the label set would be made nowhere",
                remedy="name channels that some wells have together",
            )


def check_plate(
    spec: PlateSpec, config: Config, *, deep: bool = False, refused: Callable[[Index], Iterable[Problem]] = lambda _: ()
) -> list[Problem]:
    """List all problems of a raw plate that can be seen before it is computed.

    Args:
        config: gives the channels that the label sets name, and the fraction from which on a field is saturated.
        deep: decode every file; otherwise check headers and lengths, and the pixels of a sample.
        refused: finds what the stages would refuse, besides channels that the plate lacks.
    """
    try:
        index = index_plate(spec)
    except PlateflowError as error:
        return [Problem.of_error(spec.plate, error)]
    problems = list(check_index(index))
    if what := vendor_flat_field(index.metadata):
        problems.append(Problem("note", spec.plate, what, "nothing; the report shows the profiles that are used"))
    try:
        check_channels(config, index.metadata)
        problems += _without_channel(config, index.metadata)
    except ChannelError as error:
        problems.append(Problem.of_error(spec.plate, error))
    problems += refused(index)
    problems += check_pixels(index, config.quality.saturated_fraction, deep=deep)
    if spec.plate_map is not None:
        problems += _unmapped(spec, spec.plate_map, index, config)
    return problems


def _without_channel(config: Config, metadata: Mapping[str, Any]) -> Iterator[Problem]:
    """Label sets that some wells don't have, as these lack a channel of theirs."""
    lacking: dict[str, list[str]] = metadata.get("lacking_channels", {})
    for name, label_set in config.segmentation.items():
        wells = [well for well, channels in lacking.items() if set(channels) & set(label_set.channels)]
        needed, rows = ", ".join(label_set.channels), ", and no rows" if name == config.row_label_set else ""
        what = f"well[s have| has] no {name}{rows}, as [they lack|it lacks] a channel of {needed}"
        for text in counted(wells, what):
            remedy = "nothing, if that was planned; else segment them in channels that all wells have"
            yield Problem("warning", str(metadata["plate"]), text, remedy)


def changed_files(spec: PlateSpec, paths: PlatePaths) -> list[str]:
    """List the raw files that are new, changed or gone since ingest; none before the first ingest.

    Returns:
        path and what happened, such as "/raw/a.tiff: changed".

    Raises:
        PlateflowError: the plate can no longer be indexed.
    """
    if not paths.planes.is_file():
        return []
    key = ["path", "page", "well", "field", "channel", "t", "z"]
    stat = ["size_bytes", "mtime_ns"]
    index = index_plate(spec)
    former: dict[str, Any] = json.loads(paths.metadata.read_text()) if paths.metadata.is_file() else {}
    old = _by_original_names(pd.read_parquet(paths.planes, columns=key + stat), former)
    new = _by_original_names(index.planes[key + stat], index.metadata)
    both = old.merge(new, how="outer", on=key, suffixes=("_old", "_new"))
    before, now = both["size_bytes_old"] >= 0, both["size_bytes_new"] >= 0
    other = (both["size_bytes_old"] != both["size_bytes_new"]) | (both["mtime_ns_old"] != both["mtime_ns_new"])
    both["change"] = np.select([before & ~now, now & ~before, before & now & other], ["gone", "new", "changed"], "")
    changed = both[both["change"] != ""].drop_duplicates("path", keep="last").sort_values("path")
    return [f"{index.root / path}: {change}" for path, change in zip(changed["path"], changed["change"], strict=True)]


def _by_original_names(planes: pd.DataFrame, metadata: Mapping[str, Any]) -> pd.DataFrame:
    """Planes by the names that the plate itself gives its channels: another name in the plate sheet changes no file."""
    names = {channel["name"]: channel.get("original_name", channel["name"]) for channel in metadata.get("channels", ())}
    return planes.assign(channel=planes["channel"].replace(names))


def pooled_wells(table: pd.DataFrame, group_by: Sequence[str] = ()) -> Iterator[str]:
    """Columns of a plate map that no statistic reads, though they tell wells apart that count together.

    One of any kind if it tells groups of negative controls apart; one of numbers if it does wells of the same treatment
    and dose. Passed over are what says where a well is, the number of a replicate, and one with another value in every
    well. What is told apart by the columns `group_by` doesn't count together.
    """
    if group_by := [name for name in group_by if name in table]:
        parts = [part.drop(columns=group_by) for _, part in table.groupby(group_by)]
        yield from dict.fromkeys(text for part in parts for text in pooled_wells(part))
        return
    negatives = table.index[table["role"] == "negative"]
    treated = table[(table["role"] == "treatment") & (table["treatment"] != "")]
    groups = treated.groupby(["treatment", "dose"], dropna=False)
    for column in [str(name) for name in table if name not in ("role", "dose", "dose_unit")]:
        values = table[column].astype(str)
        if says_where(column) or _REPLICATE.match(plain(column)) or values.is_unique:
            continue
        numbers = [amount_of(value) for value in values]
        counts = values[negatives].value_counts()
        text = None in numbers and "" not in counts and 1 < len(counts) < len(negatives)  # not a remark on a well
        if text or (counts > 1).sum() > 1:
            named = examples(value or "(nothing)" for value in counts.index)
            yield f"{column} tells negative controls apart, which all count together: {named}"
            continue
        if column == "treatment" or None in numbers:
            continue
        for (name, dose), wells in groups:
            told = {each for each in same_doses([name] * len(wells), (numbers[i] or 0 for i in wells.index)) if each}
            if len(told) > 1:
                named = examples(values[wells.index].unique())
                at = "" if str(dose) == "nan" else f" at {dose:g}"
                yield f"{column} is not read, but tells wells of {name}{at} apart, which count together: {named}"
                break


def _needs_negatives(config: Config) -> str:
    """The first key of filters and populations that compares with negative controls; empty: none does."""
    rules = {
        f"populations.{name}": conditions_of(each.where) for name, each in config.populations.items() if each.where
    }
    for name, settings in config.segmentation.items():
        rules |= {f"segmentation.{name}.filter.{key}": each for key, each in filter_conditions(settings.filter).items()}
    return next((key for key, each in rules.items() if any(one.source == "negatives" for one in each)), "")


def unread(table: pd.DataFrame, plate: str, config: Config) -> Iterator[tuple[str, str]]:
    """What a plate map seems to say, but not so that it is read, or lacks, and what to do."""
    free = [str(name) for name in table if name not in OWN]
    ids = {name: set(table[name].astype(str)) - {""} for name in free if plain(name) in PLATE}
    other = [f"{name}: {examples(values)}" for name, values in ids.items() if len(values) == 1]
    if other and not any(ids_of(plate, values) for values in ids.values()):
        yield f"the plate map names another plate: {'; '.join(other)}", "check whether it belongs to this plate"
    roles = [name for name in free if _ROLE.search(plain(name))]
    without = "negative" not in set(table["role"])
    if without and not roles and config.stats.normalise.startswith("negative") and (table["treatment"] != "").any():
        yield (
            "no well is a negative control, and wells are to be compared with these (stats.normalise)",
            "give the map a column role with negative for them, or set stats.normalise to plate robust",
        )
    if without and (name := _needs_negatives(config)):
        yield (
            f"no well is a negative control, and {name} takes a percentile of these: it will tell nothing",
            "give the map a column role with negative for them, or take a percentile of the plate (pNN)",
        )
    if roles and without:
        named = "; ".join(f"{name}: {examples(sorted(set(table[name].astype(str)) - {''}))}" for name in roles)
        yield (
            f"no well is a negative control, though a column may say which are: {named}",
            "give the map a column role with negative, positive, treatment or empty",
        )
    texts = [
        name
        for name in free
        if name not in roles and not says_where(name) and not _REPLICATE.match(plain(name)) and not column_of_dose(name)
        if any(value_of(str(value)) is None for value in table[name])
    ]
    if texts and (table["treatment"] == "").all():
        yield (
            f"no well has a treatment; columns not read: {', '.join(texts)}",
            "call the column, or the sheet, with the names of the treatments treatment",
        )


def _unmapped(spec: PlateSpec, plate_map: str, index: Index, config: Config) -> Iterator[Problem]:
    """A plate map that cannot be read, wells it pools, and wells that only the map or only the plate has."""
    try:
        table = read_plate_map(plate_map, spec.plate)
    except PlateflowError as error:
        yield Problem.of_error(spec.plate, error)
        return
    try:
        content = Path(plate_map).read_bytes()
        if not content.startswith(b"PK\3\4"):
            decode(content, windows=False)
    except TextError as error:
        remedy = "nothing, if its names look right; else save it as UTF-8"
        yield Problem("note", spec.plate, f"of the plate map, {error}; it is read so", remedy, file=plate_map)
    for text in pooled_wells(table, config.stats.group_by):
        remedy = "nothing, if they may count as replicates; a dose must be called so, as dose_uM; name a cell line, "
        remedy += "batch or donor in stats.group_by; else give wells that differ another treatment"
        yield Problem("warning", spec.plate, text, remedy, file=plate_map)
    for text, remedy in unread(table, spec.plate, config):
        yield Problem("warning", spec.plate, text, remedy, file=plate_map)
    mapped = set(table["well"])
    wells, (rows, columns) = set(index.metadata["wells"]), index.metadata["format"]
    told = None if spec.format or index.format_stated else format_by_map(mapped, wells)
    if told is not None:
        what = f"the plate is taken for one of {rows * columns} wells; its map is of one of {told}"
        yield Problem(
            "warning", spec.plate, what, f"write {told} into the column format of the plate sheet", file=plate_map
        )
    off = {well for well in mapped if not (parse_well(well)[0] < rows and parse_well(well)[1] < columns)}
    for names, what in (
        (wells - mapped, "well[s] of the plate [are|is] not in the plate map"),
        (mapped - wells - off, "well[s] of the plate map [are|is] not in the plate"),
        (off, f"well[s] of the plate map [lie|lies] off the plate of {rows} x {columns} wells"),
    ):
        for text in counted(names, what):
            remedy = "fix the plate map, or check whether it belongs to another plate"
            yield Problem("warning", spec.plate, text, remedy, file=plate_map)

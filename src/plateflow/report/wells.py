"""Sections that show wells one by one: the plate map with the chosen well, and the pictures of all wells."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from plateflow.features.words import in_words
from plateflow.paths import row_name
from plateflow.report import charts, curves, links, thumbnails
from plateflow.report.values import map_data, number
from plateflow.report.view import CORRECTED, View
from plateflow.state.journal import LEFT_OUT
from plateflow.stats.effects import DOSE, TREATMENT, UNIT, dose_text
from plateflow.stats.flags import FLAGS
from plateflow.stats.groups import group_columns
from plateflow.stats.reference import by_frame
from plateflow.stats.wells import OWN
from plateflow.tables import records

NAMED = 48
"""The most wells that were not acquired that are named."""
LETTERS = dict(zip(FLAGS, "FSCEIPLZUMW", strict=True))
"""Of each flag, its letter on the plate map."""


def plate(view: View) -> dict[str, Any]:
    """The plate map, whatever it shows, and wells by treatment; the section `wells` holds what a chosen well shows."""
    rows, columns = view.plate.metadata["format"]
    shown = [
        {
            "well": row["Metadata_Well"],
            "state": row["Metadata_State"],
            "flags": (row["Metadata_Flags"] or "").split(",") if row["Metadata_Flags"] else [],
            "label": label_of(row),
        }
        for row in records(view.by_well.filter(like="Metadata_"))
    ]
    used = [flag for flag in FLAGS if any(flag in item["flags"] for item in shown)]
    data = map_data(view)
    return {
        "map": {
            **data,
            "rows": [row_name(row) for row in range(rows)],
            "columns": columns,
            "wells": shown,
            "flags": [[flag, LETTERS[flag], FLAGS[flag]] for flag in used],
        },
        "outlines": _outlines(view),
        "groups": charts.groups(view.by_well, group_columns(view.plate.config.stats)),
        "curves": curves.over_time(view, data["features"]),
        "summary": summary_table(view),
        "not_acquired": view.not_acquired[:NAMED],
        "more": max(0, len(view.not_acquired) - NAMED),
    }


def wells(view: View) -> dict[str, Any]:
    """A picture of each well, and what the page tells of it when it is chosen."""
    config, root = view.plate.config, view.plate.paths.root.absolute()
    shown = list(_shown(view))
    measured = [row["Metadata_Well"] for row, _ in shown if row["Metadata_State"] not in LEFT_OUT]
    pictures = thumbnails.pictures(view.plate, measured)
    groups: dict[tuple[Any, ...], int] = {}
    figures = []
    for row, frames in shown:
        well = row["Metadata_Well"]
        treatment = tuple(_text(row.get(name)) for name in (TREATMENT, DOSE, UNIT))
        figures.append(
            {"well": well, "state": row["Metadata_State"], "picture": pictures.get(well)}
            | {"label": label_of(row), "count": _text(row.get(view.counts[0]))}
            | {"group": groups.setdefault(treatment, len(groups)) if treatment[0] else None}
            | {"facts": [(name, text) for name, text in _facts(view, row, frames) if text]}
            | {"flags": [(flag, FLAGS[flag]) for flag in filter(None, (row["Metadata_Flags"] or "").split(","))]}
            | {"url": links.view_url(view.plate.name, well), "command": links.view_command(root, well)}
        )
    return {
        "figures": figures,
        "edge": 200 if len(shown) <= 120 else 130 if len(shown) <= 400 else 84,
        "channels": [(name, thumbnails.hex_colour(tint)) for name, tint in thumbnails.channel_tints(config).items()],
        "outlines": _outlines(view),
        "gamma": thumbnails.GAMMA,
        "several": len(view.frames) > 1,
    }


def summary_table(view: View) -> dict[str, Any] | None:
    """The features of summary.csv, in words, and what it has no room for; None where an earlier version made none."""
    told = view.aggregate.info.get("summary")
    features = [(name, in_words(name, view.plate.channels)) for name in told["features"]] if told else []
    omitted = [name.removeprefix("Metadata_") for name in told["omitted"]] if told else []
    return told and {"features": features, "omitted": omitted}


def _outlines(view: View) -> list[tuple[str, str]]:
    """The label sets with the colours of their outlines."""
    names = thumbnails.label_sets(view.plate.config)
    return [(name, thumbnails.OUTLINES[i % len(thumbnails.OUTLINES)]) for i, name in enumerate(names)]


def label_of(row: dict[str, Any]) -> str:
    """Treatment and dose of a well."""
    return f"{_text(row.get(TREATMENT))} {dose_text(row.get(DOSE), row.get(UNIT))}".strip()


def _shown(view: View) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Of each well the row of the frame that its picture shows (`thumbnails.picture`), and those of all frames."""
    for _, rows in view.charted.groupby("Metadata_Well", sort=False):
        first = next(rows for _, rows in by_frame(rows.drop(columns="Metadata_Z", errors="ignore")))
        yield records(first)[len(first) // 2], records(rows)


def _facts(view: View, row: dict[str, Any], frames: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    yield "reason", row["Metadata_Reason"] or ""
    yield "corrected by hand", _text(row.get(CORRECTED))
    for name, value in row.items():
        own = name.removeprefix("Metadata_") in OWN or name in view.judged  # which the plate map shows
        if name.startswith("Metadata_") and not own:
            yield name.removeprefix("Metadata_"), _text(value)
    yield "fields used", _text(row["Metadata_FieldsUsed"])
    yield "fields left out", (row["Metadata_FieldsLeftOut"] or "").replace(",", ", ")
    yield "fields excluded", (row["Metadata_FieldsExcluded"] or "").replace(",", ", ")
    for column, title in view.metrics.items():
        yield title, "; ".join(_text(frame[column]) for frame in frames)


def _text(value: Any) -> str:
    return number(value) if isinstance(value, float) else "" if value is None else str(value)

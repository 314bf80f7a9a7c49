"""Every kind of error, reason, flag and status of the code is in docs/faults.md, with what it means and what to do."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import plateflow.errors
from plateflow.cli.common import Status
from plateflow.errors import PlateflowError, number_of
from plateflow.stats.flags import FLAGS
from plateflow.stats.wells import NOT_ACQUIRED

SOURCE = Path(inspect.getfile(plateflow.errors)).parent
PAGE = SOURCE.parents[1] / "docs" / "faults.md"
ELSEWHERE = {"no_record", NOT_ACQUIRED}
"""Reasons that the code doesn't give where it names the word."""
WRONG_USE = 2


def told(section: str) -> dict[str, list[str]]:
    """The table of a section: by the first cell, what stands in the others."""
    text = PAGE.read_text().split(f"\n## {section}\n")[1].split("\n## ")[0]
    rows = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in text.splitlines() if line[:1] == "|"
    ]
    assert all(len(row) == 3 for row in rows)
    rows = [row for row in rows if row[0] not in ("---", rows[0][0])]
    return {row[0].strip("`"): row[1:] for row in rows}


def constants(node: ast.AST) -> Iterator[str]:
    """The texts that an expression may have, of a choice both."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value:
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from (*constants(node.body), *constants(node.orelse))


def reasons_of(tree: ast.AST, *, of_planes: bool) -> Iterator[str]:
    """The reasons that a module gives: of planes, outcomes and records."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id == "PlaneError":
                yield from constants(node.args[0])
            for keyword in node.keywords:
                if keyword.arg == "reason":
                    yield from constants(keyword.value)
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "reason":
                    yield from constants(value)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if name == "reason" and of_planes:
                yield from constants(node.value)
            elif name == "reasons" and isinstance(node.value, ast.Dict):
                for key in node.value.keys:
                    yield from constants(key) if key else ()


def all_reasons() -> set[str]:
    found = set(ELSEWHERE)
    for folder in ("plates", "images", "stages", "state"):
        for path in (SOURCE / folder).glob("*.py"):
            found |= set(reasons_of(ast.parse(path.read_text()), of_planes=folder == "plates"))
    return {reason for reason in found if reason != "object"}  # the type of a column


def test_every_reason_is_told():
    assert {"truncated", "no_channel", "z_planes", "crash", "window"} <= all_reasons()
    assert set(told("Reasons")) == all_reasons()
    assert all(f'"{reason}"' in "".join(path.read_text() for path in SOURCE.rglob("*.py")) for reason in ELSEWHERE)


def test_every_kind_of_error_is_told():
    text = "".join(path.read_text() for path in SOURCE.rglob("*.py"))
    kinds, found = {PlateflowError.__name__}, {""}
    while found:  # a class that is made of one of these, anywhere: nothing is imported
        found = {
            name
            for name, bases in re.findall(r"^class (\w+)\(([\w, .]+)\)", text, re.MULTILINE)
            if name not in kinds and kinds & set(re.split(r"\W+", bases))
        }
        kinds |= found
    assert {"ConfigError", "LostFileError"} <= kinds
    assert set(told("Kinds of errors")) == kinds


def test_every_flag_is_told_with_its_meaning():
    flags = told("Flags")
    assert {flag: meaning for flag, (meaning, _) in flags.items()} == FLAGS


def test_every_status_is_told():
    assert set(told("Exit statuses")) == {str(int(status)) for status in Status} | {str(WRONG_USE)}


def refusals() -> Iterator[str]:
    """The first sentences of errors that are raised where labels and tables are exported or taken back, as source."""
    for path in (SOURCE / "exchange").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
                what = node.exc.args[0]
                if isinstance(what, ast.Constant | ast.JoinedStr) and ast.unparse(node.exc.func) != "ValueError":
                    counted = r"\{number_of\(.*?, '(.*?)'\)\}"
                    yield re.sub(counted, lambda found: number_of(2, found[1]), ast.unparse(what))


def test_every_refusal_of_an_export_or_a_correction_is_told():
    section = PAGE.read_text().split("\n## Exports and corrections that are refused\n")[1].split("\n## ")[0]
    prose, *rows = section.split("\n| ")
    named = [*re.findall(r"`([^`]+)`", " ".join(row.split(" | ")[0] for row in rows)), prose.split("`")[1]]
    said = set(refusals())
    assert len(said) >= 25
    assert [each for each in said if not any(name in each for name in named)] == []
    source = "".join(path.read_text() for path in (SOURCE / "exchange").glob("*.py"))
    assert [name for name in named if name not in source and not any(name in each for each in said)] == []


def test_each_says_what_it_means_and_what_to_do():
    for section in ("Reasons", "Kinds of errors", "Exports and corrections that are refused", "Flags", "Exit statuses"):
        for name, cells in told(section).items():
            assert all(len(cell) > 5 for cell in cells), f"{section}: {name}"

"""A new release: what it would do again is told, and can be accepted as it is."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from plateflow import chain
from plateflow.chain import STAGES
from plateflow.state.journal import outcomes
from plateflow.state.lease import Lease
from plateflow.state.ledger import attempts

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def release(monkeypatch):
    """Raises the version of a stage, as a new release does."""

    def raise_version(name: str, why: str = "cells are rounder") -> int:
        stage = replace(STAGES[name], version=STAGES[name].version + 1, why=why)
        monkeypatch.setitem(chain.STAGES, name, stage)
        return stage.version

    return raise_version


def test_plan_says_what_a_release_redoes_why_and_at_what_cost(done, release):
    assert "This release" not in done.plateflow("plan")
    assert json.loads(done.plateflow("plan", "--json"))["upgrade"]["stages"] == {}
    version = release("stitch")
    output = done.plateflow("plan")
    line = rf"stitch: version {version} \(cells are rounder\): 4 results, in micro: \d\.\d\d CPU hours"
    assert re.search(line, output)
    assert "features: 2 results, as they build on those, in micro: " in output
    assert "infer" not in output[: output.index("in all")]
    assert "`plateflow accept [PLATE] --stage stitch`" in output
    found = json.loads(done.plateflow("plan", "--json"))["upgrade"]
    assert list(found["stages"]) == ["stitch", "features", "aggregate", "report"]
    stitch = found["stages"]["stitch"]
    assert (stitch["items"], stitch["after"], stitch["plates"]) == (4, 0, ["micro"])
    assert stitch["cpu_hours"] > 0
    # With auto, the plan asks what earlier runs used: a CPU, once one of them was long enough to count.
    done.configure(lambda config: config.update(device="cuda"))
    release("tile")
    found = json.loads(done.plateflow("plan", "--json"))["upgrade"]["stages"]
    assert found["infer"]["after"] == 4, "what costs the GPU's time is told"
    assert found["infer"]["gpu_hours"] > 0
    assert found["infer"]["cpu_hours"] == 0


def test_with_one_slice_what_stitch_has_made_builds_on_infer(done, release):
    release("infer")
    found = json.loads(done.plateflow("plan", "--json"))["upgrade"]["stages"]
    assert list(found) == ["infer", "stitch", "features", "aggregate", "report"]
    assert (found["infer"]["items"], found["stitch"]["after"]) == (4, 4)


def test_where_infer_makes_labels_a_new_version_of_stitch_is_one_of_infer(done, release):
    done.configure(lambda config: config.update(keep_flows=False))
    found = json.loads(done.plateflow("plan", "--json"))
    assert found["upgrade"]["stages"] == {}, "another way to labels is no matter of the release"
    assert [(each["label_set"], each["keys"], each["items"]) for each in found["network"]] == [
        ("nuclei", ["keep_flows"], 2), ("cells", ["keep_flows"], 2),
    ]  # fmt: skip
    done.run()
    assert json.loads(done.plateflow("plan", "--json"))["network"] == []
    before = done.sequences()
    version = STAGES["infer"].version + STAGES["follow"].version + release("stitch")
    found = json.loads(done.plateflow("plan", "--json"))["upgrade"]["stages"]
    assert (found["infer"]["version"], found["infer"]["items"]) == (version, 4)
    assert "cells are rounder" in found["infer"]["why"]
    output = done.plateflow("accept", "--stage", "infer")
    assert f"4 results of infer, made by version {version - 1}, stand as version {version}" in output
    done.run()
    assert {key for key in done.redone(before) if key[0] in ("infer", "features")} == set()
    done.plateflow("status", "micro")


def test_what_was_accepted_stands_and_is_told(done, release):
    results, before = done.results(), done.sequences()
    spent = sum(row["units"] for row in attempts(done.path()))
    version = release("tile")
    assert "stale: version changed: `snakemake`" in done.plateflow("status", "micro/B02", status=4)
    output = done.plateflow("accept", "micro", "--stage", "tile")
    assert f"micro: 2 results of tile, made by version {version - 1}, stand as version {version}" in output
    assert "This release" not in done.plateflow("plan")
    entry = outcomes(done.path().journals("tile"))["B02", "", -1]
    assert entry.accepted.keys() == {"version", "by", "at", "from"}
    assert (entry.accepted["version"], entry.accepted["from"]) == (version, version - 1)
    assert sum(row["units"] for row in attempts(done.path())) == spent, "to accept is no work"
    done.run()
    assert done.redone(before) == {("report", "", "")}, "the page names it, and nothing else is done again"
    assert done.results() == results
    words = f"stands as version {version}: accepted by {entry.accepted['by']}, {entry.accepted['at']}"
    assert words in done.plateflow("status", "micro/B02")
    page = done.path().table("report.html").read_text()
    assert f"2 of <b>tile</b>, made by version {version - 1}, stand as version {version}: accepted by" in page
    done.plateflow("status", "micro")
    assert "nothing of tile was made by another version" in done.plateflow("accept", "--stage", "tile")


def test_what_changed_otherwise_cannot_be_accepted(done, release):
    release("stitch")
    release("aggregate")
    done.configure(lambda config: config["segmentation"]["cells"].update({"min_size_px": 33}))
    assert "`plateflow accept [PLATE] --stage stitch`" in done.plateflow("plan"), "some of it can be"
    output = done.plateflow("accept", "--stage", "stitch", status=4)
    assert "2 results of stitch, made by version" in output
    assert "2 results of stitch can't be accepted: parameters changed, too" in output
    output = done.plateflow("plan")
    assert "what stitch has made can't be accepted (parameters changed, too)" in output
    assert "what aggregate has made can't be accepted (it builds on what features does again)" in output
    assert "plateflow accept" not in output


def test_beside_a_store_that_is_made_again_other_results_can_stand(done, release, monkeypatch):
    before = done.sequences()
    release("ingest")
    release("aggregate")
    monkeypatch.setattr("plateflow.stages.ingest.STORE", 99)
    output = done.plateflow("plan")
    assert "what ingest has made can't be accepted (store changed, too)" in output
    assert "`plateflow accept [PLATE] --stage aggregate`" in output
    done.plateflow("accept", "--stage", "aggregate")
    done.run()
    assert done.redone(before) == {("ingest", "", ""), ("report", "", "")}


def test_a_further_release_asks_again(done, release):
    release("features")
    done.plateflow("accept", "--stage", "features")
    done.plateflow("status", status=4)  # the page doesn't name it yet
    assert "This release" not in done.plateflow("plan")
    release("features")
    assert "features: version" in done.plateflow("plan")


def test_results_of_former_parts_are_accepted_in_their_journal(done, release):
    done.configure(lambda config: config.update({"parts": {"cpu": 6, "gpu": 3}}))
    release("tile")
    assert "2 results of tile" in done.plateflow("accept", "--stage", "tile")
    assert "micro: tile" not in done.plateflow("status", "micro", status=4)
    assert "micro: tile: 1 job to do: stale: parts changed: `snakemake`" in done.plateflow("status", status=4)


def test_a_job_at_work_is_not_overruled(done, release):
    release("tile")
    with Lease(done.path().lease("tile", "0"), holder="a job"):
        assert "is already running" in done.plateflow("accept", "--stage", "tile", status=1)


def test_journals_of_a_release_before_the_checksums_are_told(done):
    journal = done.path().journal("tile", "0")
    lines = [line.rpartition(b',"crc":')[0] + b"}" for line in journal.read_bytes().splitlines()]
    journal.write_bytes(b"\n".join(lines) + b"\n")
    output = done.plateflow("plan")
    assert "made by an earlier release, can't be taken over, so done again as a whole: micro" in output


def test_the_changelog_names_each_stage_with_its_version_and_why():
    text = (REPOSITORY / "CHANGELOG.md").read_text()
    newest = text.split("\n## ")[1]
    rows = {
        cells[0]: cells[1:]
        for line in newest.splitlines()
        if line.startswith("|") and (cells := [cell.strip() for cell in line.strip("|").split("|")])[0] in STAGES
    }
    assert rows.keys() == STAGES.keys()
    for name, stage in STAGES.items():
        assert int(rows[name][0]) == stage.version, name
        assert stage.why in rows[name][1], name

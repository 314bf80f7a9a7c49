"""A screen's results without its images: manifests, stores, journals and receipts as a run leaves them.

One plate is ingested for real: its raw files are links to one TIFF, beside a true index. What the later stages would
have written is made up, item by item as they list them, so the full look at a plate finds it complete. Other plates are
links to that one; of their own they have receipts, and journals where something happened to them.
"""

import csv
import json
import os
from collections.abc import Collection, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from plateflow.asked import Asked, PlateAsked, write_receipt
from plateflow.chain import stages_of
from plateflow.config import Config, LabelSet, Parts, PlateSpec, config_yaml
from plateflow.files import digest, json_line
from plateflow.paths import parse_well, row_name
from plateflow.project import Plate, Project
from plateflow.simulate.harmony import file_name, write_index
from plateflow.simulate.layout import PlateDescription, Record, write_tiff
from plateflow.stages import normalise, run_stage, stage_module, tile
from plateflow.stages.job import Item, Job, dependencies
from plateflow.stages.runner import receipt
from plateflow.state.journal import Entry

CHANNELS = ("DNA", "AGP", "ER", "RNA", "Mito")
STAMP = (111304, "db378a82")
AT = "2026-03-02T09:30:00.000+00:00"
USED = {"cpu_s": 36.79, "peak_mb": 798.2, "read_mb": 58.53, "written_mb": 7.2}
KINDS = ("complete",) * 14 + ("left out", "stale", "stale", "waiting", "running", "failed")
"""Of a mixed screen, over and over: what became of a plate."""
BAD = "the file ends early: r02c03f01p01-ch1sk1fk1fl1.tiff, 31,771 bytes"
Books = dict[tuple[str, str], tuple[list[Entry], list[dict[str, Any]]]]
"""By stage and job: its outcomes, and the lines of its journal."""


def make_screen(
    folder: Path,
    *,
    plates: int,
    wells: int = 384,
    fields: int = 9,
    channels: int = 5,
    parts: tuple[int, int] = (8, 2),
    kinds: Collection[str] = KINDS,
) -> Project:
    """Write a project of synthetic plates below a folder, which is made the working folder.

    Args:
        folder: is there, and empty.
        plates: how many.
        wells, fields, channels: of each.
        parts: cpu, gpu.
        kinds: what becomes of the plates after the first, which is complete, in turn: complete; left out: two wells
            are, and a field of a third; stale: a parameter of stitch changed; waiting: infer and what follows was
            never begun; running: infer is half way; failed: the jobs of tile did; new: nothing was done; other:
            nothing that is asked now was.
    """
    os.chdir(folder)
    names = [f"plate{n:04d}" for n in range(plates)]
    sets = {name: LabelSet(channels=[channel]) for name, channel in zip(("nuclei", "cells"), CHANNELS, strict=False)}
    config = Config(parts=Parts(cpu=parts[0], gpu=parts[1]), segmentation=sets, threads=1)
    shape = (16, 24) if wells <= 384 else (32, 48)
    records = list(_records(wells, fields, CHANNELS[:channels], shape[1]))
    raw = _write_raw(folder / "raw", records, PlateDescription(name="raw", plate_shape=shape, field_shape=(1080, 1080)))
    (folder / "config").mkdir()
    (folder / "config" / "config.yaml").write_text(config_yaml(config))
    with (folder / "config" / "plates.tsv").open("w", newline="") as file:
        sheet = csv.DictWriter(file, list(PlateSpec.model_fields), delimiter="\t", extrasaction="ignore")
        sheet.writeheader()
        for name in names:
            (link := folder / "raw" / name).symlink_to(raw, target_is_directory=True)
            sheet.writerow({"plate": name, "path": str(link), "layout": "harmony"})
    project = Project.load(Path("config/config.yaml"))
    model = project.plates[names[0]]
    run_stage(model, "ingest")
    all_wells = model.wells
    books = {"": books_of(model)}
    if "left out" in kinds:
        _forget(model)
        books["left out"] = books_of(model, bad=all_wells[:2], flagged=all_wells[2:3])
    for number, name in enumerate(names):
        kind = [*kinds][number % len(kinds)] if number else "complete"
        _write_plate(project, name, model, kind, books["left out" if kind == "left out" else ""], link=number > 0)
    project = Project.load(Path("config/config.yaml"))
    write_receipt(project.screen, "report", "screen", Asked.of(project).screen, {"stage": "screen", "files": {}})
    return project


def _records(wells: int, fields: int, channels: Collection[str], n_columns: int) -> Iterator[Record]:
    edge = round(fields**0.5)
    for well in range(wells):
        row, column = divmod(well, n_columns)
        for field in range(fields):
            y, x = divmod(field, edge)
            for channel, name in enumerate(channels):
                place = {"y_um": 1080 * 0.6 * y, "x_um": 1080 * 0.6 * x}
                yield Record(row=row, column=column, field=field, channel=channel, channel_name=name, **place)


def _write_raw(folder: Path, records: list[Record], plate: PlateDescription) -> Path:
    images = folder / "measurement" / "Images"
    images.mkdir(parents=True)
    first = images / file_name(records[0])
    write_tiff(first, np.full(plate.field_shape, 300, np.uint16))
    for record in records[1:]:
        (images / file_name(record)).hardlink_to(first)
    write_index(images / "Index.idx.xml", [(record, True) for record in records], plate)
    return images.parent


def books_of(plate: Plate, *, bad: Collection[str] = (), flagged: Collection[str] = ()) -> Books:
    """Do a plate without its images: journals and outcomes of all stages, with an ingest that is there.

    Args:
        plate: ingest is done.
        bad: wells that tile leaves out.
        flagged: wells of which tile leaves out the first field.
    """
    books: Books = {}
    path = plate.paths.journal("ingest", "plate")
    books["ingest", "plate"] = list(plate.outcomes("ingest").values()), _lines(path.read_bytes())
    for name, stage in stages_of(plate.config).items():
        for number in stage.jobs(plate.config) if name != "ingest" else ():
            job = Job(plate=plate, stage=stage, name=number)
            entries = [_outcome(job, item, bad=bad, flagged=flagged) for item in stage_module(name).work_items(job)]
            lines: list[dict[str, Any]] = [{"event": "begin", "at": AT, "host": "node17", "slurm_job": "1234567"}]
            for entry in entries:
                start = {"event": "start", "key": entry.key, "sequence": 1}
                lines += [start, {"event": "done", **asdict(entry), "used": USED}]
            books[name, number] = entries, [*lines, {"event": "end", "at": AT, "done": len(entries), **USED}]
            write_journal(plate.paths.journal(name, number), books[name, number][1])
            if name == "normalise":
                normalise._write(job, **entries[0].info)
    return books


def _outcome(job: Job, item: Item, *, bad: Collection[str], flagged: Collection[str]) -> Entry:
    """What became of a work item, as the runner would record it."""
    more: dict[str, Any] = {"info": _info(job, item), "files": dict.fromkeys(_files(job, item), STAMP)}
    depends = dict(item.depends)
    if job.stage.name == "tile":
        stats = tile._RawFiles(tile.RawFolder(job.paths.raw), item.data).stats
        more["raw"] = {name: [*(stat or ()), "1795736a"] for name, stat in stats.items()}
        fields = list(item.data["field"].unique())
        if item.well in flagged:
            more |= {"state": "flagged", "reason": "fields", "fields": {fields[0]: "truncated"}}
            more["detail"] = f"field {fields[0]}: {BAD}"
        elif item.well in bad:
            more |= {"state": "quarantined", "reason": "truncated", "fields": dict.fromkeys(fields, "truncated")}
            more |= {"detail": f"no field can be used: {BAD}", "files": {}}
        needed = sorted({channel for each in job.config.segmentation.values() for channel in each.channels})
        depends["raw files"] = tile._content(more["raw"], more.get("fields", {}), needed)
    if job.stage.name == "normalise":
        depends |= normalise._FROZEN
    if (up := item.upstream) is not None:
        more = {"state": up.state, "reason": up.reason, "detail": up.detail}
    known = dependencies(job, replace(item, depends=depends))
    place = {"well": item.well, "label_set": item.label_set, "block": item.block}
    return Entry(**place, fingerprint=digest(known), depends=known, sequence=1, seconds=12.345, finished=AT, **more)


def _info(job: Job, item: Item) -> dict[str, Any]:
    match job.stage.name:
        case "tile":
            return {"fields": 9}
        case "normalise":
            flat = np.zeros((5, 5))
            flat[0, 0] = 1
            channels = job.plate.channels
            window: dict[str, Any] = {"freeze": 1, "request": 0, "settings": job.parameters()}
            window |= {"light": {name: {"dark": 100.0, "why": "", "alone": False} for name in channels}}
            window |= {"channels": {name: {"low": 237.0, "high": 3289.0} for name in channels}}
            window |= {"fields": dict.fromkeys(channels, 9 * len(job.wells)), "clipped": []}
            return {"window": window, "profiles": [flat.tolist()] * len(channels)}
        case "infer":
            counts = {
                "tiles": 265,
                "tiles_skipped": 0,
                "device": "cuda",
                "dtype": "bfloat16",
                "batch": 32,
                "threads": 1,
            }
            names = {"model": "tiny", "licence": "BSD-3-Clause; trained on simulated images: free for any use"}
            return {**counts, "threads": 1, **names, "sha256": digest("model") * 3}
        case "follow":
            return {"pixels": 1281883}
        case "stitch":
            return {"objects": 2711, "dropped": [130, 14000], "canvases": 1, "followed": 4}
        case "features":
            bright = {name: [[700] * 50, [90] * 50] for name in job.config.segmentation}
            return {"objects": 2711, "without a row": {"Nuclei": 31}, "brightness": bright}
    return {"bytes": 948470}


def _files(job: Job, item: Item) -> list[str]:
    image = ""
    if well := item.well:
        row, column = parse_well(well)
        image = f"plate.zarr/{row_name(row)}/{column + 1:02d}/0"
    match job.stage.name:
        case "tile":
            return [f"histograms/{well}.npz", *(f"{image}/{level}/c/0/0/0/0/0" for level in range(3))]
        case "normalise":
            return ["manifest/illumination.npz", "manifest/window.json"]
        case "infer":
            return [f"scratch:flows/{item.label_set}/{well}/0.npy"]
        case "follow":
            return [f"scratch:ends/{item.label_set}/{well}/0-{item.block}.npy"]
        case "stitch":
            levels = [f"{image}/labels/{item.label_set}/{level}/c/0/0/0/0" for level in range(3)]
            return [f"objects/{item.label_set}/{well}.parquet", *levels]
        case "features":
            return [f"cells/{well}.parquet"]
        case "aggregate":
            return ["controls.csv", "features.json", "qc.parquet", "wells.csv", "wells.parquet"]
    return ["ledger.parquet", "report.html"]


def write_journal(path: Path, lines: list[dict[str, Any]]) -> None:
    """Write a journal at once: the runner makes each line durable, which takes its time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # it may be a link
    path.write_bytes(b"".join(map(json_line, lines)))


def _lines(data: bytes) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in data.splitlines()]
    return [{name: value for name, value in line.items() if name != "crc"} for line in lines]


def _forget(plate: Plate) -> None:
    """Remove the journals of a plate but that of ingest."""
    for stage in stages_of(plate.config):
        for path in plate.paths.journals(stage) if stage != "ingest" else ():
            path.unlink()
    plate.paths.window.unlink()


def _write_plate(project: Project, name: str, model: Plate, kind: str, books: Books, *, link: bool) -> None:
    plate = project.plates[name]
    paths, order, config = plate.paths, [*stages_of(project.config)], project.config
    reached = {"waiting": "normalise", "running": "normalise", "failed": "ingest"}.get(kind, order[-1])
    if kind == "new":
        return
    if link:
        (paths.root / "manifest").mkdir(parents=True)
        for file in (model.paths.metadata, model.paths.planes, model.paths.window, model.paths.illumination):
            if order.index(reached) > 1 or file in (model.paths.metadata, model.paths.planes):
                (paths.root / "manifest" / file.name).hardlink_to(file)
        paths.store.symlink_to(model.paths.store.absolute(), target_is_directory=True)
        (paths.root / "journal").mkdir()
    asked = PlateAsked(plate)
    if kind == "stale":
        sets = {name: each.model_copy(update={"min_size_px": 44}) for name, each in config.segmentation.items()}
        asked = PlateAsked(replace(plate, config=config.model_copy(update={"segmentation": sets})))
    shared = paths.root.parent / f".books-{kind if kind in ('stale', 'left out') else 'complete'}"
    for (stage, job), (entries, lines) in books.items():
        journal = paths.journal(stage, job)
        if order.index(stage) <= order.index(reached):
            written = lines
            if stage == "stitch" and kind == "stale":
                written = [_with_parameters(line, asked.plate) for line in lines]
            common = shared / journal.name
            if not common.exists():
                write_journal(common, written)
            journal.unlink(missing_ok=True)
            journal.hardlink_to(common)
            content = receipt(Job.of(plate, stage, job), entries)
            path = Path(asked.receipt(stage, job))
            if kind == "other":
                path = path.with_name(f"{job}.0123456789abcdef0123.json")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    if kind == "running":
        write_journal(paths.journal("infer", "0"), books["infer", "0"][1][: len(books["infer", "0"][1]) // 2])
        owner = paths.lease("infer", "0") / "owner.json"
        owner.parent.mkdir(parents=True)
        owner.write_text(json.dumps({"host": "node17", "pid": 1, "started": 1, "slurm_job": "", "driver": ""}))
    elif kind == "failed":
        for job in stages_of(config)["tile"].jobs(config):
            lines = books["tile", job][1]
            half = [*lines[: len(lines) // 2], {"event": "failed", "error": "can't write: disk quota exceeded", **USED}]
            write_journal(paths.journal("tile", job), half)
        log = paths.log("tile", "0", asked.digest("tile", "0"))
        log.parent.mkdir(parents=True)
        log.write_text("tile: B03\nplateflow: can't write: disk quota exceeded\n")


def _with_parameters(line: dict[str, Any], plate: Plate) -> dict[str, Any]:
    """A line of stitch's journal, done with other parameters."""
    if line["event"] != "done":
        return line
    parameters = plate.parameters("stitch", line["label_set"])
    return {**line, "depends": {**line["depends"], "parameters": digest(parameters)}}

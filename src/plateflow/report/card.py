"""`python -m plateflow.report.card`: the card of the models that ship, from their training run and what it measures.

Measuring needs no more than training does, so a GPU can do it (`--measure`, the whole of `val`); what it writes to the
run, `measured.csv`, is taken as it is where it is of the same weights. The goals of a training are figures of the card.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Container, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from plateflow.files import write_atomic
from plateflow.model.registry import PACKAGED, hash_of, read_metadata, spec_of
from plateflow.simulate.looks import Look, random_field
from plateflow.simulate.stains import WHOLE_CELL
from plateflow.tables import read_rows, write_rows
from plateflow.train.data import Sample, look_sample, make_sample, plate_sample
from plateflow.train.default import HELD_OUT_EVERY, HELD_OUT_SOURCES, REAL, SIMULATED
from plateflow.train.evaluate import DATA, Found, find, resized, scored
from plateflow.train.folders import read_source

SIZED = "dsb2018_fluo_520_u2os"
"""Source of the curve over sizes: its nuclei are alike, 28 px across."""
SIZES = (8, 14, 28, 56, 110)
"""Median diameters, px, to which its images are resized."""
LARGEST = 768
"""Px: what is resized is cut to this before."""
STAIN_FIELDS, EMPTY_FIELDS = 3, 12
SEED = 77
"""Of simulated fields that no model was trained on."""
GOOD = 0.8
"""AP@0.5 at which a size counts as one that needs no diameter."""
SHEET: tuple[Look, ...] = (*("cells",) * 10, *("nuclei",) * 6, *("transmitted",) * 4, *("tissue",) * 3, "empty")
"""Looks of the 24 fields that the documentation shows: the first that are drawn, none was chosen."""
LICENCES = {"dsb2018": "CC0 1.0 (BBBC038v1)", "usiigaci": "MIT (Usiigaci)", "codex": "MIT (CellSegmentationEvaluator)"}
TEXT = ("model", "sha256", "part", "middle", "source")
"""Columns of what was measured that aren't numbers."""
RANGE = re.compile(r"(<!-- measured -->).*?(<!-- /measured -->)", re.DOTALL)
"""In docs/models.md, what this program writes."""


def kinds(data: Path, images: int, only: Container[str] | None = None) -> Iterator[tuple[str, str, list[Sample]]]:
    """What is measured: part of the card, name in it, and samples; of a source of `val` at most so many images.

    `only` are sources and stains, where not all are wanted.
    """
    for folder in sorted(path for path in (data / "val").iterdir() if path.is_dir()):
        if only is None or folder.name in only:
            samples = spread(read_source(folder), images)
            yield "val", folder.name, samples
            if folder.name == SIZED and only is None:
                for size in SIZES:
                    yield "size", str(size), [at_size(sample, size) for sample in samples]
    for stain in WHOLE_CELL:
        if only is None or stain in only:
            yield "stain", stain, [stained(stain, number) for number in range(STAIN_FIELDS)]
    if only is None:
        yield "empty", "empty", [look_sample("empty", SEED, number) for number in range(EMPTY_FIELDS)]


def spread(samples: Sequence[Sample], most: int) -> list[Sample]:
    """At most so many samples, evenly from all of them."""
    return [samples[round(at)] for at in np.linspace(0, len(samples) - 1, min(most, len(samples)))]


def at_size(sample: Sample, size: float) -> Sample:
    """The middle of a sample, resized so that its median object, of the whole of it, is `size` px across."""
    factor = size / sample.diameter
    side = round(LARGEST / factor)
    y, x = (max(0, (length - side) // 2) for length in sample.labels.shape)
    part = np.s_[y : y + side, x : x + side]
    return resized(replace(sample, pixels=sample.pixels[:, *part], labels=sample.labels[part]), factor)


def stained(stain: str, number: int) -> Sample:
    """A simulated field of whole cells in a stain, with DNA beside it in most."""
    field = random_field(np.random.default_rng((SEED, number, sum(map(ord, stain)))), "cells", kind=stain)
    return make_sample(stain, f"{stain} {number}", field.image[:2], field.labels)


def measure(models: dict[str, Path], path: Path, data: Path, images: int, device: str) -> list[dict[str, str]]:
    """Measure models, or read from `path` what was measured of the same files; a row per model and kind."""
    hashes = {name: hash_of(file) for name, file in models.items()}
    if path.exists():
        rows = read_rows(path)
        if {row["model"]: row["sha256"] for row in rows} == hashes:
            return rows
    text: list[dict[str, Any]] = []
    made = list(kinds(data, images))
    for name, file in models.items():
        for part, kind, samples in track(made, f"measuring {name}"):
            found = sorted(find(samples, file, device=device), key=lambda each: float(each.ap[0]))
            middle = found[len(found) // 2].sample.name
            known = {"model": name, "sha256": hashes[name], "part": part, "middle": middle}
            text.append({**known, **scored(found, kind).as_row()})
    write_rows(path, text)
    return read_rows(path)


def weights(run: Path, folder: Path) -> dict[str, Path]:
    """The models of a run by name, `default` first, and their files in `folder`."""
    names = json.loads((run / "recipe.json").read_text())["networks"]
    files = {name: folder / f"{name}.safetensors" for name in sorted(names, key=lambda name: (name != "default", name))}
    if absent := [str(file) for file in files.values() if not file.is_file()]:
        raise SystemExit(f"no such weights: {', '.join(absent)}; name their folder with --weights")
    return files


def trained(run: Path) -> dict[str, Any]:
    """What recipe and log say of a run: its length, and the values of the recipe as `name: value`."""
    recipe, log = json.loads((run / "recipe.json").read_text()), read_rows(run / "log.csv")
    last = {name: float(log[-1][name]) for name in ("step", "seconds", "waited")}
    steps = recipe["steps"] or round(last["step"])
    flat = dict(_flat({name: value for name, value in recipe.items() if name != "networks"}))
    losses = {name: value for name, value in log[-1].items() if name in recipe["networks"]}
    crops = steps * recipe["batch"]
    rate = crops / last["seconds"] if last["seconds"] else float("nan")
    return {**last, "steps": steps, "crops": crops, "rate": rate, "recipe": flat, "losses": losses}


def _flat(content: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in content.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        elif value is not None:
            values = value if isinstance(value, list) else [value]
            yield prefix + name, " to ".join(f"{each:g}" if isinstance(each, float) else str(each) for each in values)


def figures(rows: Sequence[dict[str, str]]) -> list[dict[str, Any]]:
    """Rows of a table of the card, by source: what is alike for all models, and by model its row, numbers as such."""
    table: dict[str, dict[str, Any]] = {}
    for row in rows:
        values = {name: text if name in TEXT else float(text) for name, text in row.items()}
        table.setdefault(row["source"], {**values, "models": {}})["models"][row["model"]] = values
    return list(table.values())


def size_range(curve: Sequence[dict[str, Any]], model: str) -> str:
    """The sizes around that of the images themselves at which a model reaches `GOOD`, in words."""
    sizes = {float(row["source"]): row["models"][model] for row in curve}
    good = [size for size, row in sizes.items() if row["ap_50"] >= GOOD]
    return f"{sizes[min(good)]['diameter']:.0f} to {sizes[max(good)]['diameter']:.0f} px" if good else "none"


def worst(data: Path, table: Sequence[dict[str, Any]], model: str, file: Path, device: str) -> list[Found]:
    """Of the three kinds of images with the lowest AP of a model, the one image whose AP is in the middle."""
    lowest = sorted(table, key=lambda row: row["models"][model]["ap_50"])[:3]
    wanted = {row["source"]: row["models"][model]["middle"] for row in lowest}
    samples = {
        kind: sample
        for part, kind, of_kind in kinds(data, sys.maxsize, only=set(wanted))
        for sample in of_kind
        if sample.name == wanted[kind]
    }
    return list(find([samples[kind] for kind in wanted], file, device=device))


def sheet(tile: int = 140, columns: int = 6) -> NDArray[np.uint8]:
    """The 24 simulated fields in a grid, YXS: of each its middle, 256 px wide, from dark to bright by its percentiles.

    A helper channel of DNA is added in blue.
    """
    from skimage.transform import resize

    tiles = []
    for number, look in enumerate(SHEET):
        field = random_field(np.random.default_rng((SEED, number)), look)
        y, x = ((side - 256) // 2 for side in field.image.shape[1:])
        pixels = field.image[:, y : y + 256, x : x + 256].astype(np.float64)
        axes = (1, 2) if look != "tissue" else (0, 1, 2)  # colours keep their balance
        low, high = np.percentile(pixels, (0.5, 99.7), axis=axes, keepdims=True)
        shown = np.clip((pixels - low) / np.maximum(high - low, 1e-9), 0, 1)
        colours = shown if look == "tissue" else np.repeat(shown[:1], 3, axis=0)
        if look != "tissue" and len(shown) > 1:
            colours[:2] *= 1 - 0.6 * shown[1]
            colours[2] = np.maximum(colours[2], shown[1])
        small = resize(np.moveaxis(colours, 0, -1), (tile - 2, tile - 2), anti_aliasing=True)
        tiles.append(np.pad(small, ((0, 2), (0, 2), (0, 0)), constant_values=1))
    rows = [np.concatenate(tiles[at : at + columns], axis=1) for at in range(0, len(tiles), columns)]
    return (np.concatenate(rows) * 255).astype(np.uint8)


def save_png(path: Path, picture: NDArray[np.uint8], levels: int = 32) -> None:
    """Write a picture in so many levels of each colour: noise takes half the space, and nobody sees it."""
    import imagecodecs

    path.parent.mkdir(parents=True, exist_ok=True)
    step = 255 / (levels - 1)
    few = (np.rint(picture / step) * step).astype(np.uint8)
    write_atomic(path, bytes(imagecodecs.png_encode(few, level=9)))


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and write the card, its pictures and the range of diameters."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("build/train-default"), help="folder of the training run")
    shipped = PACKAGED["default"].parent
    parser.add_argument("--weights", type=Path, default=shipped, help="folder of their files, if not those that ship")
    parser.add_argument("--data", type=Path, default=DATA / "cells2d", help="folder with train/ and val/")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="where the card and images/ are written")
    parser.add_argument("--images", type=int, default=2, help="most images of a source of val; all take a GPU")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--on", default="", help="what the training ran on, such as 'one H100, 16 cores'")
    parser.add_argument("--measure", action="store_true", help="measure only, and write no card")
    args = parser.parse_args(argv)
    models = weights(args.run, args.weights)
    rows = measure(models, args.run / "measured.csv", args.data, args.images, args.device)
    if args.measure:
        return

    from plateflow.report.evaluation import drawn
    from plateflow.report.page import render

    parts = {part: figures([row for row in rows if row["part"] == part]) for part in ("val", "size", "stain", "empty")}
    first = next(iter(models))
    found = worst(args.data, [*parts["val"], *parts["stain"]], first, models[first], args.device)
    pictures = []
    for number, each in enumerate(found, 1):
        name = f"images/fails-{number}.png"
        save_png(args.docs / name, drawn(each, 192).repeat(2, axis=0).repeat(2, axis=1))  # thin lines can be seen
        pictures.append({"file": name, "found": each, "counts": each.counts[:, 0].tolist()})
    save_png(args.docs / "images/simulated.png", sheet(), levels=20)
    where = {look_sample: "of any look", plate_sample: "as on plates"}
    simulated = {f"simulated {what}, {where[draw]}": share for (draw, what), (share, _) in SIMULATED.items()}
    measured = {name: size_range(parts["size"], name) for name in models}
    page = render(
        "model_card.md.j2",
        specs={name: spec_of(file) for name, file in models.items()},
        metadata={name: read_metadata(file) for name, file in models.items()},
        whole=HELD_OUT_SOURCES,
        every=HELD_OUT_EVERY,
        files=models,
        counts={name: _weights(file) for name, file in models.items()},
        run=trained(args.run),
        on=args.on,
        shares=REAL | simulated,
        licences=LICENCES,
        held_out=figures(read_rows(args.run / "held-out.csv")),
        parts=parts,
        stains=summary(parts["stain"], models),
        pictures=pictures,
        measured=measured,
        good=GOOD,
        sized=SIZED,
    )
    write_atomic(args.docs / "model-card.md", page.encode())
    listed = args.docs / "models.md"
    if listed.exists():
        text = RANGE.sub(rf"\g<1>{measured[first]}\g<2>", listed.read_text(encoding="utf-8"))
        write_atomic(listed, text.encode())
    print(f"{args.docs / 'model-card.md'}: nuclei without a diameter from {measured[first]}")


def summary(table: Sequence[dict[str, Any]], models: Sequence[str] | dict[str, Path]) -> dict[str, float]:
    """Mean AP@0.5 over the kinds of a table, by model."""
    return {name: float(np.mean([row["models"][name]["ap_50"] for row in table])) for name in models}


def _weights(file: Path) -> int:
    """How many numbers a file of weights holds."""
    from safetensors import safe_open

    with safe_open(file, "np") as opened:
        return sum(int(np.prod(opened.get_slice(name).get_shape())) for name in opened.keys())  # noqa: SIM118


if __name__ == "__main__":
    main()

"""`plateflow evaluate`: how well a model, or two, do on annotated images."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from plateflow.cli.common import WeightsOption, numbers
from plateflow.errors import ArgumentError, number_of

if TYPE_CHECKING:
    from plateflow.train.data import Sample
    from plateflow.train.evaluate import Found, Score


def evaluate(
    data: Annotated[Path, typer.Option(help="folder of pairs of image and labels, or of several such folders")],
    model: Annotated[list[str] | None, typer.Option(help="name or path; give two to compare them")] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="for the tables and the page")] = Path("evaluation"),
    sizes: Annotated[str, typer.Option(help="also resize the images, such as 0.25,0.5,1,2,4")] = "",
    diameter: Annotated[float | None, typer.Option(help="typical diameter in pixels; default: no resizing")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    weights_dir: WeightsOption = None,
) -> None:
    """Segment annotated images and compare the result with their labels, source by source.

    Prints average precision, error rate (as the Cellpose-SAM paper has it) and F1 with intervals of 95 %, and the
    difference of two models on the same images; writes them as tables (sources.csv, images.csv, sizes.csv), and a page
    that shows the images with the worst results. docs/models.md has the command that reproduces the paper's figure.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import track

    from plateflow.files import write_atomic
    from plateflow.model import check_model
    from plateflow.model.registry import model_spec
    from plateflow.report.evaluation import evaluation_page
    from plateflow.segment.engine import choose_device
    from plateflow.segment.grid import grid_of
    from plateflow.tables import write_rows
    from plateflow.train import evaluate as ev
    from plateflow.train.folders import read_sources

    models = model or ["default"]
    stems = [Path(name).stem for name in models]
    names = stems if len(set(stems)) == len(stems) else models
    if len(names) > 2 or len(set(names)) < len(names):
        raise typer.BadParameter("give one model, or two different ones", param_hint="--model")
    factors = numbers(sizes, "--sizes", least=0.05, most=20)
    choose_device(device)
    if output.exists() and not output.is_dir():
        raise ArgumentError("there is a file where the tables should go", where=str(output), remedy="name a folder")
    paths = {name: str(check_model(each, weights_dir)) for name, each in zip(names, models, strict=True)}
    samples = [sample for source in read_sources(data, mixed=True).values() for sample in source]
    for path in paths.values():
        _check_readable(samples, path)
        for factor in (1.0, *factors):
            where = f"--diameter {diameter}" + f", --sizes {factor:g}" * bool(sizes)
            grid_of(model_spec(path), diameter and diameter * factor, where=where)
    output.mkdir(parents=True, exist_ok=True)
    console = Console()
    found: dict[str, list[Found]] = {}
    for name, path in paths.items():
        one_by_one = ev.find(samples, path, device=device, diameter=diameter)
        found[name] = list(track(one_by_one, escape(name), len(samples), console=console))
    scores = {name: ev.by_source(of_model) for name, of_model in found.items()}
    for name in names:
        console.print(ev.table(scores[name], name))
    if any(1 < score.images < ev.FEW for score in scores[names[0]]):
        typer.echo(f"note: an interval of fewer than {ev.FEW} images is too narrow")
    gains = ev.differences(*found.values()) if len(names) == 2 else []
    told = [(source, words(mean, interval, images)) for source, mean, interval, images in gains]
    for source, difference in told:
        typer.echo(f"AP@0.5 of {names[0]} less {names[1]}, image by image, {source}: {difference}")
    curve: list[tuple[str, float, Score]] = []
    for name, path in paths.items():
        for factor in factors:
            resized = (ev.resized(sample, factor) for sample in samples)
            each: Iterable[Found] = ev.find(resized, path, device=device, diameter=diameter and diameter * factor)
            each = track(each, f"{escape(name)}, {factor:g} x", len(samples), console=console)
            score = ev.scored(each, ev.ALL)
            curve.append((name, factor, score))
            at = f"{name}, {factor:g} x, {ev.number(score.diameter, digits=0)} px"
            typer.echo(f"{at}: AP@0.5 {' '.join(ev.number(score.ap[0], score.ap_interval).split())}")
    rows = [{"model": name, **score.as_row()} for name, of_model in scores.items() for score in of_model]
    write_rows(output / "sources.csv", rows)
    write_rows(output / "images.csv", [{"model": name, **each.as_row()} for name in names for each in found[name]])
    if curve:
        rows = [{"model": name, "factor": factor, **score.as_row()} for name, factor, score in curve]
        write_rows(output / "sizes.csv", rows)
    page = evaluation_page(str(data), scores, found, curve, told)
    write_atomic(output / "evaluation.html", page.encode())
    typer.echo(f"{output / 'evaluation.html'}: the figures, and the images with the worst results")


def words(mean: float, interval: tuple[float, float], images: int) -> str:
    """A mean and its interval, and whether that tells the two apart."""
    from plateflow.train.evaluate import FEW

    low, high = interval
    if not images:
        return "–"
    told = "" if low > 0 or high < 0 else "; these images don't tell them apart"
    if images < FEW:
        told = f"; {number_of(images, 'image[s]')}: too few to tell them apart"
    return f"{mean:+.3f}" + (f" (95 % {low:+.3f} to {high:+.3f})" if images > 1 else "") + told


def _check_readable(samples: list[Sample], model: str) -> None:
    """Refuse images that the model can't read, as `segment_image` does, before any is segmented.

    Raises:
        ChannelError: an image has more channels than the model takes.
        ArgumentError: an image has a bright background in colours, which the model doesn't read.
    """
    from plateflow.model.registry import check_channels
    from plateflow.segment.image import refuse_colours

    for sample in samples:
        where = f"{sample.source}: {sample.name}"
        if sample.light == "colour":
            refuse_colours(model, where=where)
        else:
            seen = [number for number, (low, high) in enumerate(sample.limits) if high > low]
            check_channels(model, seen, where=where, remedy="keep those that matter, the one of the objects first")

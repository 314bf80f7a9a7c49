"""`plateflow init`: look at a raw plate and write a configuration that runs."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError

from plateflow.access import explain
from plateflow.config import PLATE_SIZES, Config, LabelSet, Parts, PlateSpec, config_yaml, load_config, load_plates
from plateflow.errors import PlateflowError, number_of
from plateflow.files import is_litter, write_atomic
from plateflow.installed import make_project
from plateflow.segment.label_sets import check_label_sets

if TYPE_CHECKING:
    from plateflow.plates import RawPlate

NUCLEAR = re.compile(r"dna|dapi|hoechst|draq|nuc|h2b|33342|^405\b", re.IGNORECASE)
CHOOSE = "CHOOSE"
"""In place of a channel where nobody but the user knows which; no plate has it, so nothing is computed until then."""
TRANSMITTED = re.compile(r"bright|phase|trans", re.IGNORECASE)
CELLULAR = tuple(
    re.compile(words, re.IGNORECASE)
    for words in (
        r"agp|actin|phalloidin|cell ?mask|membrane|wga|cyto|tubulin",
        r"\ber\b|conca|rna|syto|gfp|488|561|568|647",
    )
)


def init(
    raw: Annotated[list[Path], typer.Argument(help="folder of a raw plate; several make a line of the sheet each")],
    directory: Annotated[Path, typer.Option(help="the project's folder")] = Path(),
    plate: Annotated[str | None, typer.Option(help="plate id; default: made of the folder's name")] = None,
    plate_map: Annotated[Path | None, typer.Option(help="CSV, TSV or XLSX with well, role, treatment, dose")] = None,
    layout: Annotated[str | None, typer.Option(help="reader, needed where it is not recognised")] = None,
    pattern: Annotated[
        str | None, typer.Option(help="for other names: a regular expression, a known pattern, or a CSV of paths")
    ] = None,
    image: Annotated[
        str | None, typer.Option(help="for OME-Zarr, where it asks for it: which images of a well are its fields")
    ] = None,
    pixel_size_um: Annotated[float | None, typer.Option(help="needed where the layout does not say")] = None,
    channel_names: Annotated[
        str | None, typer.Option(help="other names for channels, as another plate has them: ch5=DNA,ch2=AGP")
    ] = None,
    wells: Annotated[
        int | None,
        typer.Option("--format", help="wells of the plate (96, 384, ...), where neither layout nor plate map says"),
    ] = None,
    follow_links: Annotated[
        Path | None, typer.Option(help="folder that links in RAW may lead into; links to elsewhere are never followed")
    ] = None,
) -> None:
    """Recognise raw plates, list their contents, and make the folder a project: config/, a Snakefile, profiles/.

    What was edited stays as it is; each plate is added to the sheet, config/plates.tsv.
    """
    from plateflow.plates.reader import counted, examples

    files = [str(path) for path in raw if path.is_file()] if len(raw) > 1 else []  # RAW/* takes what lies beside plates
    if len(files) == len(raw):
        remedy = "give the folder in which they lie"
        raise PlateflowError("a plate is a folder, and these are files", where=examples(files), remedy=remedy)
    for note in counted(files, "file[s are| is] no folder[s] and [are|is] left out"):
        typer.echo(f"note: {note}")
    raw = [path for path in raw if str(path) not in files and (len(raw) == 1 or not is_litter(path.name))]
    if plate and len(raw) > 1:
        raise typer.BadParameter("one id can't name several plates; leave it out", param_hint="--plate")
    layout = layout or ("pattern" if pattern else None)
    given: dict[str, Any] = {"plate": plate, "plate_map": plate_map, "layout": layout, "pattern": pattern}
    given |= {"image": image, "pixel_size_um": pixel_size_um, "format": wells}
    given |= {"channel_names": channel_names, "follow_links": str(follow_links.resolve()) if follow_links else None}
    given = {column: value for column, value in given.items() if value is not None}
    failed: list[Path] = []
    added: list[str] = []
    for folder in raw:
        try:
            spec = make_spec(folder, **of_sheet(directory, folder, plate) | given)
            _add(directory, folder, spec)
            added.append(spec.plate)
        except (PlateflowError, OSError) as error:
            if len(raw) == 1:
                raise
            typer.echo(f"plateflow: {explain(error)}", err=True)
            failed.append(folder)
    if added:
        typer.echo(f"To choose channels, diameter and model by eye before the run: `plateflow pilot {added[0]}`.")
    if failed:
        raise PlateflowError(
            f"{len(failed)} of {len(raw)} folders could not be added; the others were",
            where=", ".join(map(str, failed)),
            why="what stopped each is said above",
        )


def of_sheet(directory: Path, raw: Path, plate: str | None) -> dict[str, Any]:
    """What the plate sheet says of a folder already, as arguments of `make_spec`: what isn't given anew stays."""
    for spec in _sheet(directory).values():
        if plate in (None, spec.plate) and _same_folder(directory, spec, raw):
            said = spec.model_dump(exclude={"path", *PLATE_SIZES}, exclude_none=True)
            paths = {"plate_map", "follow_links"} & said.keys()
            return said | {column: str((directory / said[column]).resolve()) for column in paths}
    return {}


def _same_folder(directory: Path, spec: PlateSpec, raw: Path) -> bool:
    return (directory / spec.path).resolve() == raw.resolve()  # the sheet's paths may count from the project


def _add(directory: Path, raw: Path, spec: PlateSpec) -> None:
    """List what a raw plate holds, and add it to the project."""
    from plateflow.plates import open_plate
    from plateflow.plates.plate import vendor_flat_field
    from plateflow.plates.reader import counted

    opened = open_plate(spec)
    metadata = opened.metadata
    if spec.plate_map and not (spec.format or opened.format_stated):
        spec = _format_by_map(spec, spec.plate_map, metadata)
    channels = [channel["name"] for channel in metadata["channels"]]
    rows, columns = metadata["format"]
    size = metadata["pixel_size_um"]
    typer.echo(f"{spec.plate}: {metadata['layout']}, {rows * columns} wells ({rows} x {columns}), from {raw}")
    there = set(opened.planes.loc[opened.planes["size_bytes"] >= 0, "well"])
    wells = [well for well in metadata["wells"] if well in there]
    few = wells if len(wells) <= 8 else [*wells[:4], "...", *wells[-2:]]
    typer.echo(f"  wells with images: {len(wells)} ({', '.join(few)})")
    for note in counted(set(metadata["wells"]) - there, "well[s have| has] no file of those that the plate lists"):
        typer.echo(f"  note: {note}")
    typer.echo(f"  fields per well: {metadata['fields']}, z planes: {metadata['z']}, time points: {metadata['t']}")
    typer.echo(f"  channels: {', '.join(channels)}")
    typer.echo(f"  pixel size: {size[0]:.4g} x {size[1]:.4g} um" if size and size[0] else "  pixel size: unknown")
    for line in filter(None, [*metadata["disagreements"], vendor_flat_field(metadata)]):
        typer.echo(f"  note: {line}")
    for line in write_project(directory, spec, opened):
        typer.echo(line)


def _format_by_map(spec: PlateSpec, plate_map: str, metadata: dict[str, Any]) -> PlateSpec:
    """The line of the plate sheet with the format that the plate map tells, if it does; `metadata` gets it, too."""
    from plateflow.plates.formats import FORMATS, format_by_map
    from plateflow.plates.platemap import read_plate_map

    try:
        mapped = list(read_plate_map(plate_map, spec.plate)["well"])
    except PlateflowError as error:
        typer.echo(f"CHECK: {error}")
        return spec
    told = format_by_map(mapped, metadata["wells"])
    if told is None:
        return spec
    metadata["format"] = list(FORMATS[told])
    return spec.model_copy(update={"format": told})


def make_spec(
    raw: Path,
    *,
    plate: str | None = None,
    plate_map: str | Path | None = None,
    layout: str | None = None,
    **columns: Any,
) -> PlateSpec:
    """A line of the plate sheet for a raw folder, with more `columns`; the layout is recognised where it isn't given.

    Raises:
        PlateflowError: no such folder, or no reader knows its layout.
    """
    from plateflow.plates import recognise
    from plateflow.plates.names import refuse_odd_name
    from plateflow.plates.reader import plate_folder

    refuse_odd_name(str(raw))
    plate_folder(PlateSpec(plate="plate", path=str(raw)))
    if layout is None:
        layout = "pattern" if columns.get("pattern") else recognise(raw, columns.get("follow_links"))
    name = plate or re.sub(r"[^A-Za-z0-9_+-]+", "_", raw.resolve().name.partition("__")[0]).strip("_") or "plate"
    try:
        return PlateSpec(
            plate=name,
            path=str(raw.resolve()),
            layout=layout,
            plate_map=str(Path(plate_map).resolve()) if plate_map else None,
            **columns,
        )
    except ValidationError as error:
        first = error.errors()[0]
        why, remedy = first["msg"].removeprefix("Value error, "), f"see --{str(first['loc'][0]).replace('_', '-')}"
        raise PlateflowError("the plate can't be used", where=str(raw), why=why, remedy=remedy) from error


def guess_label_sets(channels: list[str]) -> dict[str, LabelSet]:
    """Nuclei from the channel whose name suggests DNA; cells from one that shows them, helped by that of the nuclei.

    Nothing where no name says what a channel shows.
    """
    nuclear = next((name for name in channels if NUCLEAR.search(name)), None)
    others = [name for name in channels if name != nuclear and not TRANSMITTED.search(name)]
    cellular = next((name for word in CELLULAR for name in others if word.search(name)), None)
    sets = {}
    if nuclear:
        sets["nuclei"] = LabelSet(channels=[nuclear])
    if cellular:
        sets["cells"] = LabelSet(channels=[cellular, nuclear] if nuclear else [cellular])
    return sets


def plate_sizes(plate: RawPlate) -> dict[str, Any]:
    """The columns of the plate sheet that say how large a plate is; of the well with the most fields."""
    from plateflow.images.canvas import canvases
    from plateflow.images.layout import well_layout

    planes, metadata = plate.planes, plate.metadata
    fields = planes.groupby("well", sort=False)["field"].nunique()
    layout = well_layout(planes[planes["well"] == fields.idxmax()], metadata)
    areas = [canvas.height * canvas.width for canvas in canvases(layout, (), "max")]
    return {
        "wells": len(metadata["wells"]),
        "fields": int(fields.max()),
        "channels": len(metadata["channels"]),
        "z": metadata["z"],
        "t": metadata["t"],
        "field_mpx": round(max(box.height * box.width for box in layout.fields) / 1e6, 3),
        "canvas_mpx": round(max(areas) / 1e6, 3),
        "image_mpx": round(layout.shape[-2] * layout.shape[-1] / 1e6, 3),
        "pixel_um": round(sum(layout.pixel_um[1:]) / 2, 6) if layout.unit_known else None,
    }


def _sheet(directory: Path) -> dict[str, PlateSpec]:
    """The lines of a project's plate sheet, by plate; none where it isn't written yet."""
    sheet = directory / "config" / "plates.tsv"
    return load_plates(sheet) if sheet.is_file() and len(sheet.read_bytes().splitlines()) > 1 else {}


def write_project(directory: Path, spec: PlateSpec, plate: RawPlate) -> list[str]:
    """Write or extend a project for a plate; returns what was done, in words.

    Raises:
        PlateflowError: the sheet names another folder under the same plate id, or the configuration asks for a
            channel that the plate lacks, or for more channels than a model takes.
    """
    metadata = plate.metadata
    channels = [channel["name"] for channel in metadata["channels"]]
    path, sheet = directory / "config" / "config.yaml", directory / "config" / "plates.tsv"
    lines = []
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file() and path.read_text() != config_yaml():
        config = load_config(path)
        check_label_sets(config)
        for name, label_set in config.segmentation.items():
            lacking = [channel for channel in label_set.channels if channel not in channels]
            if lacking:
                lines.append(
                    f"CHECK: {name} in {path} asks for {', '.join(lacking)}; the plate has {', '.join(channels)}; "
                    "`init --channel-names` gives its channels the names of other plates"
                )
    else:
        wells = len(metadata["wells"])
        parts = Parts(cpu=8, gpu=2) if wells > 96 else Parts(cpu=4, gpu=1) if wells > 24 else Parts(cpu=2, gpu=1)
        guessed = guess_label_sets(channels)
        only = channels[0] if len(channels) == 1 else CHOOSE
        config = Config(segmentation=guessed or {"nuclei": LabelSet(channels=[only])}, parts=parts)
        path.write_text(config_yaml(config))
        if not guessed:
            what = (
                f"in place of {CHOOSE}, put the one that shows nuclei"
                if only == CHOOSE
                else f"does {only} show nuclei?"
            )
            lines.append(f"CHECK: no channel's name says what it shows ({', '.join(channels)}); in {path}, {what}")
        lines.append(f"Wrote {path}: {', '.join(f'{k} from {v.channels}' for k, v in config.segmentation.items())}")
    plates = _sheet(directory)
    if spec.plate in plates and not _same_folder(directory, plates[spec.plate], Path(spec.path)):
        raise PlateflowError(
            f"the plate id {spec.plate!r} is taken by another folder",
            where=str(sheet),
            why=plates[spec.plate].path,
            remedy="give this plate its own id with --plate",
        )
    plates[spec.plate] = spec.model_copy(update=plate_sizes(plate))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(PlateSpec.model_fields), delimiter="\t", lineterminator="\n")
    writer.writeheader()
    writer.writerows(item.model_dump(exclude_none=True) for item in plates.values())
    write_atomic(sheet, text.getvalue().encode())
    lines += make_project(directory)
    lines.append(f"Wrote {sheet}: {number_of(len(plates), 'plate[s]')}. Next: `plateflow check`, then `snakemake`.")
    return lines

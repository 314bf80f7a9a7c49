"""`plateflow demo`: a simulated plate through the whole pipeline, compared with its truth."""

import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from plateflow.errors import PlateflowError

MARK = "made-by-plateflow-demo"
ASSAY: dict[str, Any] = {
    "spots": {"foci": {"channel": "GFP", "within": "nuclei", "diameter_um": 2.0}},
    "populations": {"positive": {"where": "Cytoplasm_Intensity_MeanIntensity_GFP > negatives.p99"}},
    "stats": {"group_by": ["CellLine"]},
}
"""What the demo's configuration asks for beside what `plateflow init` writes."""


def demo(
    output: Annotated[Path, typer.Option(help="folder of the demo; an earlier demo there is replaced")] = Path("demo"),
) -> None:
    """Simulate a plate, run the pipeline on it, and compare the result with the truth.

    The plate has faults on purpose (a truncated file, a field out of focus, an empty well), so the run is expected to
    end with status 3, "complete, but something was left out".
    """
    from plateflow.cli.init import make_spec, write_project
    from plateflow.config import Config, config_yaml, load_config
    from plateflow.plates import open_plate
    from plateflow.simulate.compare import compare
    from plateflow.simulate.compare_assay import compare_assay
    from plateflow.simulate.plate import simulate_demo

    if output.exists():
        if any(output.iterdir()) and not (output / MARK).exists():
            raise PlateflowError("the folder is not an earlier demo", where=str(output), remedy="name another --output")
        shutil.rmtree(output)
    output.mkdir(parents=True)
    (output / MARK).touch()

    typer.echo("Simulating a plate of 24 wells, 2 fields, 4 channels, two cell lines ...")
    plate = simulate_demo(output / "raw")
    spec = make_spec(plate.raw, plate_map=plate.plate_map)
    for line in write_project(output, spec, open_plate(spec)):
        typer.echo(f"  {line}")
    config = output / "config" / "config.yaml"
    config.write_text(config_yaml(Config.model_validate(load_config(config).model_dump() | ASSAY)))

    typer.echo("Running Snakemake on it ...")
    begin = time.monotonic()
    status = subprocess.run([sys.executable, "-m", "snakemake"], cwd=output, check=False).returncode
    seconds = time.monotonic() - begin
    if status != 3:
        raise PlateflowError(
            f"the run ended with status {status}; 3 was expected, as the plate has faults on purpose",
            where=str(output),
            remedy="the messages above and `plateflow status` in that folder say what went wrong",
        )
    results = output / "results" / spec.plate
    columns = ("Count_Cells", "Nuclei_AreaShape_Area", "Cells_Intensity_MeanIntensity_Marker")
    typer.echo(f"\nThe run took {seconds:.0f} s and ended with status 3, as it should: faults were planted.\n")
    for line in compare(results, plate.truth, columns=columns).lines():
        typer.echo(line)
    for line in compare_assay(results, plate.truth):
        typer.echo(line)
    typer.echo("")
    for name, what in (
        ("report.html", "report"),
        ("wells.csv", "per-well table"),
        ("cells", "per-cell tables"),
        ("plate.zarr", "OME-Zarr plate"),
    ):
        typer.echo(f"{what:16} {results / name}")

"""Features side by side with cp_measure 0.3 and scikit-image: one process, the same labels and images.

    python bench/features.py [--size 2048] [--cells 2000] [--channels 5] [--repeat 3] [--part speed|matching|peak ...]

Prints JSON lines: for each family, and for the preset `standard`, seconds of both sides (median and all runs; wall
time, and processor time of all threads), cells per second and ratios. Plateflow measures in two threads; cp_measure,
with its numba accelerator on and off, and scikit-image run as they are, in one: `ratio_cpu` excludes the effect of
threads. A run of more than 20 s is not repeated. `matching` matches 80,000 cells with their nuclei; `peak` measures
memory in its own process.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from flow_cases import draw_cells
from scipy.ndimage import gaussian_filter

from plateflow.features import measure
from plateflow.features.feature import Regions
from plateflow.features.matching import match

_SHAPE = """area area_bbox area_convex axis_major_length axis_minor_length bbox centroid eccentricity
    equivalent_diameter_area euler_number extent feret_diameter_max orientation perimeter solidity"""
_INTENSITY = "centroid_weighted intensity_max intensity_mean intensity_median intensity_min intensity_std"
REGIONPROPS = tuple(f"{_SHAPE} {_INTENSITY}".split())


def emit(**line: Any) -> None:
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in line.items()}), flush=True)


def seconds(work: Callable[[], Any], repeat: int) -> tuple[list[float], list[float]]:
    """Wall and processor time of each run; a run of more than 20 s is the last."""
    wall: list[float] = []
    cpu: list[float] = []
    while len(wall) < repeat and (not wall or wall[-1] < 20):
        start = time.perf_counter(), time.process_time()
        work()
        wall.append(time.perf_counter() - start[0])
        cpu.append(time.process_time() - start[1])
    return wall, cpu


def scene(size: int, cells: int, channels: int) -> tuple[Any, Any]:
    """Labels 1..n, and images in 0..1 with grains of several sizes."""
    labels = draw_cells(size, cells, foreground=0.5).astype(np.int32)
    labels = np.searchsorted(np.unique(labels), labels).astype(np.int32)
    rng = np.random.default_rng(0)
    image = np.empty((channels, size, size), np.float32)
    for channel, plane in enumerate(image):
        grain = gaussian_filter(rng.random((size, size)), 0.7 + channel / 2)
        grain = (grain - grain.min()) / (grain.max() - grain.min())
        shade = gaussian_filter((labels > 0).astype(float), 2) * rng.uniform(0.3, 1, labels.max() + 1)[labels]
        plane[:] = np.clip(0.05 + 0.6 * grain * (0.2 + shade), 0, 1)
    return labels, image


def cp_measure_families(accelerator: str | None) -> dict[str, Callable[[Any, Any], None]]:
    """The calls of cp_measure for each of our families, over all channels or pairs of channels."""
    import cp_measure
    from cp_measure.bulk import get_core_measurements, get_correlation_measurements
    from cp_measure.core.measurecolocalization import get_correlation_overlap
    from cp_measure.multimask.measureobjectneighbors import measureobjectneighbors

    cp_measure.set_accelerator(accelerator)
    core = get_core_measurements(legacy=True, sanitize=False)
    pairs = {**get_correlation_measurements(sanitize=False), "overlap": get_correlation_overlap}
    del pairs["costes"]

    def planes(name: str) -> Callable[[Any, Any], None]:
        return lambda labels, image: [core[name](labels, plane) for plane in image] and None

    def shape(labels: Any, image: Any) -> None:
        core["sizeshape"](labels, None, calculate_advanced=False, new_features=False)
        core["feret"](labels, None)

    def colocalisation(labels: Any, image: Any) -> None:
        for a, b in combinations(image, 2):
            for work in pairs.values():
                work(a, b, labels)

    return {
        "area_shape": shape,
        "zernike": lambda labels, image: core["zernike"](labels, None) and None,
        "intensity": planes("intensity"),
        "texture": planes("texture"),
        "granularity": planes("granularity"),
        "radial_distribution": planes("radial_distribution"),
        "colocalisation": colocalisation,
        "neighbours": lambda labels, image: measureobjectneighbors(labels, labels, distance_method="Adjacent") and None,
    }


def regionprops(labels: Any, image: Any) -> None:
    from skimage.measure import regionprops_table

    regionprops_table(labels, np.moveaxis(image, 0, -1), properties=REGIONPROPS)


def speed(args: argparse.Namespace) -> None:
    labels, image = scene(args.size, args.cells, args.channels)
    wide = image.astype(np.float64)
    names = [f"C{k}" for k in range(args.channels)]
    cells = int(labels.max())

    def ours(families: Any) -> Callable[[], Any]:
        return lambda: measure(image, {"Cells": labels}, channels=names, pixel_size_um=1.0, families=families)

    def timed(what: str, work: Callable[[], Any]) -> dict[str, Any]:
        wall, cpu = seconds(work, args.repeat)
        runs = [round(t, 3) for t in wall]
        return {f"{what}_s": statistics.median(wall), f"{what}_runs": runs, f"{what}_cpu_s": statistics.median(cpu)}

    def ratios(line: dict[str, Any], peer: str) -> dict[str, Any]:
        return {
            f"ratio_{peer}": line[f"{peer}_s"] / line["ours_s"],
            f"ratio_cpu_{peer}": line[f"{peer}_cpu_s"] / line["ours_cpu_s"],
        }

    on, off = cp_measure_families("numba"), cp_measure_families(None)
    total = {"on_s": 0.0, "on_cpu_s": 0.0, "off_s": 0.0, "off_cpu_s": 0.0}
    corner = labels[:200, :200]
    tiny = np.searchsorted(np.unique(corner), corner).astype(np.int32), wide[:, :200, :200]
    same: Callable[[Any, Any], None] | None
    for family in on:
        ours([family])()  # compiled, or loaded from the cache
        line: dict[str, Any] = {"case": family, **timed("ours", ours([family]))}
        for peer, works in (("on", on), ("off", off)):
            same = works[family] if peer == "on" or family in ("area_shape", "intensity", "texture") else None
            if same is not None:
                same(*tiny)
                line |= timed(peer, lambda work=same: work(labels, wide))
            else:  # not accelerated
                line |= {f"off_{key}": line[f"on_{key}"] for key in ("s", "cpu_s")}
            line |= ratios(line, peer)
            total[f"{peer}_s"] += line[f"{peer}_s"]
            total[f"{peer}_cpu_s"] += line[f"{peer}_cpu_s"]
        emit(**line)
    line = {"case": "standard", **timed("ours", ours("standard")), **total}
    line |= ratios(line, "on") | ratios(line, "off")
    emit(**line, cells_per_second=cells / line["ours_s"], on_cells_per_second=cells / line["on_s"])
    both = ours(["area_shape", "intensity"])
    line = {"case": "regionprops_table", **timed("ours", both), **timed("skimage", lambda: regionprops(labels, image))}
    emit(**line, **ratios(line, "skimage"))


def matching(args: argparse.Namespace) -> None:
    """Match 80,000 cells of 17 x 17 px that have one nucleus each."""
    pattern = np.arange(1, 80_001, dtype=np.int32).reshape(250, 320)
    cells = np.kron(pattern, np.pad(np.ones((17, 17), np.int32), 1))
    nuclei = np.kron(pattern, np.pad(np.ones((7, 7), np.int32), 6))

    def work() -> None:
        rows, others = (Regions(labels=part, pixel_size_um=(1.0, 1.0)) for part in (cells, nuclei))
        assert (match(rows, others).index == np.arange(80_000)).all()

    work()
    wall, cpu = seconds(work, args.repeat)
    emit(case="match 80,000 cells", size=cells.shape, ours_s=statistics.median(wall), ours_cpu_s=statistics.median(cpu))


def _peak(size: int, cells: int, channels: int, answer: Any) -> None:
    labels, image = scene(size, cells, channels)
    names = [f"C{k}" for k in range(channels)]
    small = {"Cells": labels[:256, :256].copy()}
    measure(image[:, :256, :256], small, channels=names, pixel_size_um=1.0)  # libraries and compiled code
    start = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the highest use so far is forgotten
    measure(image, {"Cells": labels}, channels=names, pixel_size_um=1.0)
    answer.put((start, _status("VmHWM"), image.nbytes / 1e6))


def _status(key: str) -> float:
    """A size from this process's status, in MB."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[key].split()[0]) * 1024 / 1e6


def peak(args: argparse.Namespace) -> None:
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    child = context.Process(target=_peak, args=(args.size, args.cells, args.channels, answer))
    child.start()
    start, top, image = answer.get()
    child.join()
    emit(case="peak", start_mb=start, peak_mb=top, image_mb=image, above_over_image=(top - start) / image)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--cells", type=int, default=2000)
    parser.add_argument("--channels", type=int, default=5)
    parser.add_argument("--repeat", type=int, default=3)
    parts = {"speed": speed, "matching": matching, "peak": peak}
    parser.add_argument("--part", nargs="+", choices=parts, default=list(parts))
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    emit(case="machine", cores=len(os.sched_getaffinity(0)), load=os.getloadavg()[0], python=sys.version.split()[0],
         size=args.size, cells=args.cells, channels=args.channels)  # fmt: skip
    for name in args.part:
        parts[name](args)


if __name__ == "__main__":
    main()

"""What flow fields and end points take of the scratch, and how fast they are written and read.

    python bench/scratch.py --data DIR [--images 2] [--model default] [--bounds -2 -4 -6] [--canvas 3240]

DIR holds `index.csv` (path, source, channels) and the images that it names; of each source the first few are run, and
simulated fields of 1080 px beside them (nuclei: DNA; cells: AGP and DNA). Prints JSON lines: by source and bound, bytes
over those of float16 arrays (-31 stores all), with the fraction of pixels that are cells; bytes per end point; then, of
a canvas tiled from an image of each source, MB of float16 per second of processor time, and of wall time for writing.
"""

import argparse
import csv
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from plateflow.flows import FlowField, block_starts, cut_blocks, follow_block
from plateflow.segment.engine import CanvasJob, FlowEngine
from plateflow.segment.scratch import open_flows, read_endpoints, write_endpoints, write_flows
from plateflow.simulate.cells import simulate_field

ALL = -31.0
Flow = NDArray[np.float16]


def pictures(data: Path, number: int) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Source and pixels (C, Y, X); of three channels the first, which shows the cells, and the last, DNA."""
    with (data / "index.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["path"].startswith("cells2d") and row["channels"] != "RGB"]
    for source in dict.fromkeys(row["source"] for row in rows):
        for row in [row for row in rows if row["source"] == source][:number]:
            image = tifffile.imread(data / row["path"]).astype(np.float32)
            yield source, image[None] if image.ndim == 2 else image[[0, -1]]
    for seed in range(number):
        field = simulate_field(np.random.default_rng(seed), (1080, 1080))
        channels = {name: pixels.astype(np.float32) for name, pixels in field.channels.items()}
        yield "simulated nuclei", channels["DNA"][None]
        yield "simulated cells", np.stack([channels["AGP"], channels["DNA"]])


def flow_of(engine: FlowEngine, image: NDArray[np.float32]) -> Flow:
    low, high = np.percentile(image, (1, 99), axis=(1, 2))[..., None, None].astype(np.float32)
    made: list[Flow] = []
    list(engine.run([CanvasJob(read=lambda: (image - low) / np.maximum(high - low, 1e-6), write=made.append)]))
    return made[0]


def seconds(work: Callable[[], object], repeat: int = 3) -> float:
    """The least processor time of a few runs: other programs count less."""
    times = []
    for _ in range(repeat):
        begun = time.process_time()
        work()
        times.append(time.process_time() - begun)
    return min(times)


def emit(**values: object) -> None:
    print(json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in values.items()}), flush=True)


def sizes(source: str, flows: list[Flow], bounds: list[float], path: Path) -> None:
    raw = sum(flow.nbytes for flow in flows)
    ratios, ends, count = {}, 0, 0
    for bound in bounds:
        written = 0
        for flow in flows:
            write_flows(path, flow, bound)
            written += path.stat().st_size
        ratios[f"{bound:g}"] = round(written / raw, 3)
    for flow in flows:
        (block,) = cut_blocks(flow.shape[1:], max(flow.shape))
        starts = block_starts(flow, block, cell_threshold=0.0)
        write_endpoints(path, follow_block(flow, block, n_steps=200, cell_threshold=0.0), starts)
        ends, count = ends + path.stat().st_size, count + starts.shape[1]
    cells = float(np.mean([(flow[2] > 0).mean() for flow in flows]))
    emit(source=source, images=len(flows), cells=cells, of_raw=ratios, bytes_per_end_point=ends / max(count, 1))


def speeds(source: str, flow: Flow, bound: float, edge: int, path: Path) -> None:
    _, height, width = flow.shape
    canvas = np.tile(flow, (1, -(-edge // height), -(-edge // width)))[:, :edge, :edge].copy()
    mb = canvas.nbytes / 1e6
    wrote = seconds(lambda: write_flows(path, canvas, bound))
    begun = time.perf_counter()
    write_flows(path, canvas, bound)
    wall = time.perf_counter() - begun
    stored = open_flows(path, max(bound, 0.0))
    line: dict[str, object] = {"of_raw": path.stat().st_size / canvas.nbytes, "write_mb_s": mb / wrote}
    line["write_wall_mb_s"] = mb / wall
    line |= {"read_mb_s": mb / seconds(lambda: stored[:]), "read_logit_mb_s": mb / 3 / seconds(lambda: stored[2])}
    field, block = FlowField(stored), cut_blocks(canvas.shape[1:], 2048)[0]
    points = follow_block(field, block, n_steps=200, cell_threshold=0.0)
    starts = block_starts(field, block, cell_threshold=0.0)
    line["follow_s"] = seconds(lambda: follow_block(field, block, n_steps=200, cell_threshold=0.0), 1)
    line["end_points"] = starts.shape[1]
    line["write_ends_s"] = seconds(lambda: write_endpoints(path, points, starts))
    line["starts_and_read_ends_s"] = seconds(
        lambda: read_endpoints(path, block_starts(field, block, cell_threshold=0.0))
    )
    emit(source=source, bound=bound, canvas_px=edge, **line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--model", default="default")
    parser.add_argument("--bounds", type=float, nargs="+", default=[-2.0, -4.0, -6.0, ALL])
    parser.add_argument("--canvas", type=int, default=3240)
    args = parser.parse_args()
    engine = FlowEngine.load(args.model, device="auto")
    flows: dict[str, list[Flow]] = {}
    for source, image in pictures(args.data, args.images):
        flows.setdefault(source, []).append(flow_of(engine, image))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        for source, made in flows.items():
            sizes(source, made, args.bounds, path)
        for source, made in flows.items():
            for bound in (args.bounds[0], ALL):
                speeds(source, made[0], bound, args.canvas, path)


if __name__ == "__main__":
    main()

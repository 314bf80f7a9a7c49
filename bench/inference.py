"""Inference side by side with Cellpose 4.2.1.1: one process, the same random weights, the same tiles, the same threads.

    python bench/inference.py [--cases NAME ...] [--model vit_l|small] [--dtype bfloat16] [--device cuda] [--tiles 2]

Prints one JSON line per measurement: seconds of both sides (median and all runs, alternating; wall time, and processor
time of all threads, which is more reliable on a shared machine) and their ratio; first a line about the machine. The
matrix ceiling is measured in the same process and dtype. Without Cellpose only this project's side runs. Cases:

    network   tiles per second, operations per second, and the fraction of the ceiling
    fields    fields per second, network alone: ours pooled, the peer's `run_net` on one field after another
    labels    fields per second with labels: ours as in `segment_image`, the peer's `eval` on a list
    default   one field with the default model, labels included
    overhead  a job of `infer` whose network only sleeps: the time outside of it, with and without overlap; the median
              run of each
    parity    ||a - b|| / ||b|| of the outputs
    seams     flow differences across tile borders over those inside, for both tilings (default model)
    batches   agreement of labels between batch sizes (default model)
"""

import argparse
import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/peers"))
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import torch
from cellpose_tiles import CellposeTiling
from inference_cases import cellpose_network, draw_field, plate_of_fields, seam_ratios

from plateflow.flows import labels_from_flows
from plateflow.metrics import average_precision
from plateflow.model import load_model
from plateflow.model.vit import PATCH, VIT_L, FlowViT, FlowViTConfig, init_weights
from plateflow.project import Plate
from plateflow.segment import engine as engine_module
from plateflow.segment import segment_image
from plateflow.segment.engine import CanvasJob, FlowEngine
from plateflow.segment.image import scale_intensities
from plateflow.stages import infer
from plateflow.stages.job import Job

PEER = importlib.util.find_spec("cellpose") is not None


def emit(**line: Any) -> None:
    print(json.dumps({k: round(v, 5) if isinstance(v, float) else v for k, v in line.items()}), flush=True)


def in_turn(sides: dict[str, Callable[[], Any]], args: argparse.Namespace) -> dict[str, Any]:
    """Median seconds of each side, alternating, so that load on the machine affects both; synchronised."""
    wait = torch.cuda.synchronize if args.device == "cuda" else lambda: None
    wall: dict[str, list[float]] = {name: [] for name in sides}
    cpu: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(args.repeat + args.warm_up):
        for name, work in sides.items():
            wait()
            start = time.perf_counter(), time.process_time()
            work()
            wait()
            if turn >= args.warm_up:
                wall[name].append(time.perf_counter() - start[0])
                cpu[name].append(time.process_time() - start[1])
    line: dict[str, Any] = {}
    for name in sides:
        line |= {f"{name}_s": statistics.median(wall[name]), f"{name}_cpu_s": statistics.median(cpu[name])}
        line[f"{name}_runs"] = [round(t, 5) for t in wall[name]]
    if "peer" in sides:
        line |= {"ratio": line["peer_s"] / line["ours_s"], "ratio_cpu": line["peer_cpu_s"] / line["ours_cpu_s"]}
    return line


def operations(config: FlowViTConfig) -> float:
    """Floating-point operations per tile in the blocks (a multiplication and an addition are two)."""
    n, width = (256 // PATCH) ** 2, config.width
    linear = 12 * width * width * n
    attention = 2 * n * n * width
    return 2.0 * config.depth * (linear + attention)


def clock(args: argparse.Namespace) -> str:
    """The time that operations are counted over: wall time on a GPU, processor time on a CPU, which may be shared."""
    return "cpu_s" if args.device == "cpu" else "s"


def ceiling(args: argparse.Namespace) -> float:
    """Operations per second of products of square matrices, at the best size."""
    best = 0.0
    for n in (1024, 2048, 4096) if args.device == "cpu" else (4096, 8192):
        a = torch.randn(n, n, device=args.device).to(args.kind)
        line = in_turn({"ours": lambda a=a: a @ a}, args)
        best = max(best, 2 * n**3 / line[f"ours_{clock(args)}"])
    return best


class Networks:
    """The peer's network and ours with the same weights, in the requested dtype and on the requested device."""

    def __init__(self, args: argparse.Namespace, folder: str) -> None:
        self.path = Path(folder, "weights")
        self.peer: Any = None
        if PEER:
            self.peer = cellpose_network(self.path, size=args.model).to(args.device)
            self.peer.dtype = args.kind
            self.ours = load_model(self.path, device=args.device, dtype=args.kind)
        else:
            small = {"width": 128, "depth": 2, "heads": 2}
            config = FlowViTConfig(**{**vars(VIT_L), **(small if args.model == "small" else {})})
            self.ours = init_weights(FlowViT(config), 0).to(args.device, args.kind).eval().requires_grad_(False)


def pixels_of(edge: int, seed: int) -> Any:
    return np.repeat(scale_intensities(draw_field(edge, seed)[None]), 3, axis=0)


def engine_of(
    network: Any, args: argparse.Namespace, kind: type[FlowEngine] = FlowEngine, **keywords: Any
) -> FlowEngine:
    settings = {"dtype": args.kind, "batch_size": args.batch_size, **keywords}
    return kind(network, device=torch.device(args.device), **settings)


def flows_of(engine: FlowEngine, fields: list[Any]) -> list[Any]:
    flows: list[Any] = []
    for _ in engine.run([CanvasJob(read=lambda f=field: f, write=flows.append) for field in fields]):
        pass
    return flows


def peer_model(args: argparse.Namespace, networks: Networks) -> Any:
    """The peer's complete model around its network, without a second copy of the weights."""
    from cellpose import models

    with patch.object(models, "CPSAM", lambda dtype: networks.peer), patch.object(networks.peer, "load_model"):
        return models.CellposeModel(gpu=args.device == "cuda", pretrained_model=str(networks.path))


@torch.inference_mode()
def network(args: argparse.Namespace, networks: Networks) -> None:
    x = torch.from_numpy(np.stack([pixels_of(256, seed) for seed in range(args.tiles)])).to(args.device, args.kind)
    sides = {"ours": lambda: networks.ours(x)} | ({"peer": lambda: networks.peer(x)} if PEER else {})
    top = ceiling(args)
    line = in_turn(sides, args)
    per_tile = operations(networks.ours.config)
    rates = {name: per_tile * args.tiles / line[f"{name}_{clock(args)}"] for name in sides}
    emit(case="network", model=args.model, dtype=args.dtype, tiles=args.tiles, gflop_a_tile=per_tile / 1e9, **line,
         ours_tiles_a_s=args.tiles / line["ours_s"], ceiling_gflops=top / 1e9,
         **{f"{name}_fraction": rate / top for name, rate in rates.items()})  # fmt: skip


def fields(args: argparse.Namespace, networks: Networks) -> None:
    """The same fields; ours needs fewer tiles and pools them."""
    pixels = [pixels_of(args.edge, seed) for seed in range(args.fields)]
    engine = engine_of(networks.ours, args)
    sides: dict[str, Callable[[], Any]] = {"ours": lambda: flows_of(engine, pixels)}
    if PEER:
        from cellpose.core import run_net

        images = [field.transpose(1, 2, 0)[None] for field in pixels]
        sides["peer"] = lambda: [run_net(networks.peer, i, bsize=256, batch_size=args.batch_size) for i in images]
    emit(case="fields", model=args.model, dtype=args.dtype, fields=args.fields, edge=args.edge, **in_turn(sides, args))


def labels(args: argparse.Namespace, networks: Networks) -> None:
    raw = [draw_field(args.edge, seed) for seed in range(args.fields)]
    engine = engine_of(networks.ours, args)

    def ours() -> None:
        for flow in flows_of(engine, [scale_intensities(field[None]) for field in raw]):
            labels_from_flows(flow[:2], flow[2], device=args.device)

    sides: dict[str, Callable[[], Any]] = {"ours": ours}
    if PEER:
        model = peer_model(args, networks)
        sides["peer"] = lambda: model.eval(raw, batch_size=args.batch_size)
    emit(case="labels", model=args.model, dtype=args.dtype, fields=args.fields, edge=args.edge, **in_turn(sides, args))


def default(args: argparse.Namespace) -> None:
    field = draw_field(args.edge)
    line = in_turn({"ours": lambda: segment_image(field, device=args.device)}, args)
    emit(case="default", edge=args.edge, **line)


class Sleeper:
    """A network of 300 tiles per second that only sleeps, and counts for how long."""

    asleep = 0.0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        start = time.perf_counter()
        time.sleep(len(x) / 300)
        self.asleep += time.perf_counter() - start
        return x


def overhead(args: argparse.Namespace) -> None:
    runs: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    for _ in range(args.warm_up + args.repeat):
        for overlap, lines in runs.items():
            lines.append(job_that_sleeps(args, overlap))
    for lines in runs.values():
        measured = sorted(lines[args.warm_up :], key=lambda line: line["outside"])
        emit(**measured[len(measured) // 2])


def job_that_sleeps(args: argparse.Namespace, overlap: bool) -> dict[str, Any]:
    """One run of a job of `infer`."""
    sleeper = Sleeper()
    engine = FlowEngine(sleeper, device=torch.device("cpu"), dtype=torch.float32, batch_size=32)
    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(sys.stderr))
        config, entry = stack.enter_context(plate_of_fields(args.overhead_fields, args.edge))
        stack.enter_context(patch.object(FlowEngine, "load", lambda *_, engine=engine, **__: engine))
        if not overlap:
            stack.enter_context(patch.object(engine_module, "in_thread", lambda items, *_, **__: iter_of(items)))
        context = Job.of(Plate(config=config, spec=entry), "infer", "0")
        start = time.perf_counter(), time.process_time()
        infer.run(context)
        wall, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
    outside = wall - sleeper.asleep
    return {"case": "overhead", "overlap": overlap, "fields": args.overhead_fields, "edge": args.edge,
            "wall_s": wall, "asleep_s": sleeper.asleep, "cpu_s": cpu, "outside": outside / wall}  # fmt: skip


def iter_of(items: Any) -> Any:
    """A generator like that of `in_thread`, but in the thread of the consumer."""
    yield from items


def distance(a: Any, b: Any) -> float:
    return float(np.linalg.norm(np.asarray(a, np.float64) - b) / np.linalg.norm(b))


@torch.inference_mode()
def parity(args: argparse.Namespace, networks: Networks) -> None:
    if not PEER:
        return
    x = torch.from_numpy(np.stack([pixels_of(256, seed) for seed in range(args.tiles)])).to(args.device)
    outputs = {}
    for dtype in (torch.float32, torch.bfloat16):
        networks.peer.load_state_dict(torch.load(networks.path, weights_only=True))
        networks.peer.to(dtype)
        ours = load_model(networks.path, device=args.device, dtype=dtype)
        for name, side in (("ours", ours), ("peer", lambda x: networks.peer(x)[0])):
            outputs[name, dtype] = side(x.to(dtype)).float().cpu().numpy()
    exact = outputs["peer", torch.float32]
    halves = {name: distance(outputs[name, torch.bfloat16], exact) for name in ("ours", "peer")}
    emit(case="parity", model=args.model, float32=distance(outputs["ours", torch.float32], exact),
         bfloat16_ours=halves["ours"], bfloat16_peer=halves["peer"])  # fmt: skip
    networks.peer.to(args.kind)


def seams(args: argparse.Namespace) -> None:
    network = load_model("default", device=args.device, dtype=args.kind)
    fields = [scale_intensities(draw_field(args.edge, seed)[None]) for seed in range(args.fields)]
    engines = {"plateflow": engine_of(network, args), "cellpose": engine_of(network, args, CellposeTiling)}
    flows = {tiling: flows_of(engine, fields) for tiling, engine in engines.items()}
    ratios = seam_ratios([dict(zip(flows, pair, strict=True)) for pair in zip(*flows.values(), strict=True)])
    emit(case="seams", edge=args.edge, fields=args.fields, **ratios)


def batches(args: argparse.Namespace) -> None:
    network = load_model("default", device=args.device, dtype=args.kind)
    fields = [scale_intensities(draw_field(args.edge, seed)[None]) for seed in range(args.fields)]
    found = []
    for size in (1, args.batch_size):
        flows = flows_of(engine_of(network, args, batch_size=size), fields)
        found.append([labels_from_flows(flow[:2], flow[2]) for flow in flows])
    ap = average_precision(found[0], found[1], (0.9,))[0]
    emit(case="batches", sizes=[1, args.batch_size], dtype=args.dtype, ap90=float(np.mean(ap)))


WITH_NETWORKS = {"network": network, "fields": fields, "labels": labels, "parity": parity}
ALONE = {"default": default, "overhead": overhead, "seams": seams, "batches": batches}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=[*WITH_NETWORKS, *ALONE], default=[*WITH_NETWORKS, *ALONE])
    parser.add_argument("--model", choices=["vit_l", "small"], default="vit_l")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--tiles", type=int, default=1, help="of 256 px, in one call: the case network")
    parser.add_argument("--fields", type=int, default=1)
    parser.add_argument("--edge", type=int, default=1080, help="of a field, px")
    parser.add_argument("--overhead-fields", type=int, default=96)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--warm-up", type=int, default=1)
    args = parser.parse_args()
    args.kind = getattr(torch, args.dtype)
    torch.set_num_threads(args.threads)
    name = torch.cuda.get_device_name() if args.device == "cuda" else "cpu"
    emit(machine=os.uname().machine, cores=os.cpu_count(), load=os.getloadavg()[0], device=name, peer=PEER,
         torch=torch.__version__, threads=args.threads)  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        networks = Networks(args, folder) if WITH_NETWORKS.keys() & set(args.cases) else None
        for case in args.cases:
            if case in ALONE:
                ALONE[case](args)
            else:
                WITH_NETWORKS[case](args, networks)


if __name__ == "__main__":
    main()

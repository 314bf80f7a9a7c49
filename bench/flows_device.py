"""Flows to labels on a device, step by step, beside Cellpose 4.2.1.1 on the same device and the same arrays.

    python bench/flows_device.py [--device cuda] [--sizes 1024:500 ...] [--threads 2] [--repeat 5]

Prints one JSON line a step: seconds of both sides (median and all runs, the first run of each left out) and their
ratio; a first line about the device, and a last one a size that says whether the labels equal those of the compiled
code. Clocks are read when the device has nothing left to do. Times hold the way of the arrays to the device and back
where a step begins or ends there: follow takes host arrays, labels and quality give host arrays, as the peer's do.
Without Cellpose only this project's side runs.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import torch
from flow_cases import draw_cells, draw_flow
from flows import PEER, SIZES, emit, scene

from plateflow.flows import flows_from_labels, labels_from_flows
from plateflow.flows.blocks import FlowField
from plateflow.flows.device import label_on, measure, objects
from plateflow.flows.targets import as_volume, find_boxes

CUBE = "cube 128:300"


def seconds(work: Callable[[], Any], device: torch.device, repeat: int) -> list[float]:
    """Wall time of each run but the first, which may compile, load and allocate; one of more than 20 s is the last."""
    runs: list[float] = []
    while len(runs) <= repeat and (not runs or runs[-1] < 20):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        runs.append(time.perf_counter() - start)
    return runs[1:] or runs


def compare(
    case: str, size: str, ours: Callable[[], Any], peer: Callable[[], Any] | None, device: torch.device, repeat: int
) -> None:
    line: dict[str, Any] = {"case": case, "size": size, "device": str(device)}
    for name, work in (("ours", ours), ("peer", peer if PEER else None)):
        if work:
            runs = seconds(work, device, repeat)
            line |= {f"{name}_s": statistics.median(runs), f"{name}_runs": [round(t, 5) for t in runs]}
    if "peer_s" in line:
        line["ratio"] = line["peer_s"] / line["ours_s"]
    emit(**line)


def steps(size: str, device: torch.device, repeat: int, threads: int) -> None:
    if size == CUBE:
        cells = draw_cells(128, 300, foreground=0.4, ndim=3)
        flow, logit = draw_flow(cells, flows_from_labels(cells))
    else:
        cells, flow, logit = scene(size)
    space = cells.shape
    field, mask = FlowField(flow, logit), logit > 0

    def follow() -> tuple[torch.Tensor, torch.Tensor]:
        return objects.follow_canvas(objects.read_on(device, field), 200, 0.0)

    is_cell, ends = follow()
    flat, count = objects.count_ends(ends, space)
    seeds = objects.find_seeds(count, space)
    canvas = label_on(device, field, n_steps=200, cell_threshold=0.0)
    found = canvas.labels.cpu().numpy()

    def basins() -> Any:
        labels = torch.zeros(space, dtype=torch.int32, device=device)
        labels[is_cell] = objects.find_basins(count, seeds, space)[flat]
        return labels.cpu().numpy()

    def quality() -> Any:
        return measure(canvas, find_boxes(as_volume(found), len(canvas.seeds)), canvas.area > 0, True)

    peer: dict[str, Callable[[], Any]] = {}
    if PEER:
        from cellpose import dynamics

        where = np.nonzero(mask)
        ends_of_peer = dynamics.follow_flows(flow * mask / 5.0, where, niter=200, device=device).int()
        masks = dynamics.get_masks_torch(ends_of_peer.clone(), where, space)
        peer = {
            "follow": lambda: dynamics.follow_flows(flow * mask / 5.0, where, niter=200, device=device).int(),
            "labels": lambda: dynamics.get_masks_torch(ends_of_peer.clone(), where, space),
            "all": lambda: dynamics.resize_and_compute_masks(
                flow.copy(), logit.copy(), do_3D=len(space) == 3, device=device
            ),
        }
        if len(space) == 2:  # there is no check in its three dimensions
            peer["quality"] = lambda: dynamics.remove_bad_flow_masks(masks.copy(), flow, device=device)
            peer["targets"] = lambda: dynamics.masks_to_flows_gpu(cells, device=device)
        else:
            peer["targets"] = lambda: dynamics.masks_to_flows_gpu_3d(cells, device=device)

    compare("follow", size, follow, peer.get("follow"), device, repeat)
    compare("seeds", size, lambda: objects.find_seeds(objects.count_ends(ends, space)[1], space), None, device, repeat)
    compare("labels", size, basins, None, device, repeat)
    # The peer's seeds and labels are one function.
    compare("seeds and labels", size, lambda: (objects.find_seeds(objects.count_ends(ends, space)[1], space), basins()),
            peer.get("labels"), device, repeat)  # fmt: skip
    compare("quality", size, quality, peer.get("quality"), device, repeat)
    compare("targets", size, lambda: flows_from_labels(cells, device=device), peer.get("targets"), device, repeat)
    whole = lambda: labels_from_flows(flow, logit, device=device, workers=threads)  # noqa: E731
    compare("all", size, whole, peer.get("all"), device, repeat)
    equal = np.array_equal(whole(), labels_from_flows(flow, logit, workers=threads))
    emit(case="equal to compiled code", size=size, device=str(device), objects=int(found.max()), equal=equal)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--sizes", nargs="+", choices=[*SIZES, CUBE], default=["1024:500", "2048:5000", CUBE])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"processor, {args.threads} threads"
    emit(case="machine", device=str(device), name=name, torch=torch.__version__, load=os.getloadavg()[0], peer=PEER)
    for size in args.sizes:
        steps(size, device, args.repeat, args.threads)


if __name__ == "__main__":
    main()

"""Flows and labels side by side with Cellpose 4.2.1.1: one process, the same arrays, the same threads.

    python bench/flows.py [--cases NAME ...] [--sizes 1024:500 ...] [--threads 2] [--repeat 3] [--device cuda]

Prints one JSON line per measurement: seconds of both sides (median and all runs; wall, and processor time of all
threads, which says more on a shared machine) and their ratio; a first line about the machine. A run of more than 20 s
isn't repeated. The case `peak` measures memory: one call of each side in a process of its own, beyond what the arrays
take. Without Cellpose only this project's side runs. With `--device cuda` labels are made there (`cuda_rows`); the
other cases are left out.
"""

import argparse
import importlib.util
import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from flow_cases import draw_cells, draw_flow, tile

from plateflow import metrics
from plateflow.flows import (
    cut_blocks,
    flow_error,
    flows_from_labels,
    follow_block,
    follow_flows,
    labels_from_endpoints,
    labels_from_flows,
    segment_flow,
)

PEER = importlib.util.find_spec("cellpose") is not None
# Size, cells and share of foreground, as in docs/cellpose-reference.
SIZES = {
    "1024:500": (1024, 500, 0.49),
    "1024:5000": (1024, 5000, 0.49),
    "2048:500": (2048, 500, 0.34),
    "1080:500": (1080, 500, 0.49),
    "2048:5000": (2048, 5000, 0.49),
    "4096:5000": (4096, 5000, 0.49),
}


def emit(**line: Any) -> None:
    print(json.dumps({k: round(v, 5) if isinstance(v, float) else v for k, v in line.items()}), flush=True)


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


def compare(case: str, size: str, ours: Callable[[], Any], peer: Callable[[], Any] | None, repeat: int) -> float:
    ours()  # compiled, or loaded from the cache
    line: dict[str, Any] = {"case": case, "size": size}
    sides = {"ours": ours} | ({"peer": peer} if PEER and peer is not None else {})
    for name, work in sides.items():
        wall, cpu = seconds(work, repeat)
        line |= {f"{name}_s": statistics.median(wall), f"{name}_runs": [round(t, 4) for t in wall]}
        line[f"{name}_cpu_s"] = statistics.median(cpu)
    if "peer" in sides:
        line |= {"ratio": line["peer_s"] / line["ours_s"], "ratio_cpu": line["peer_cpu_s"] / line["ours_cpu_s"]}
    emit(**line)
    return line["ours_cpu_s"]


def scene(size: str) -> tuple[Any, Any, Any]:
    edge, count, foreground = SIZES[size]
    labels = draw_cells(edge, count, foreground=foreground)
    return labels, *draw_flow(labels, flows_from_labels(labels))


def peer_targets(labels: Any) -> Callable[[], Any]:
    from cellpose import dynamics

    return lambda: dynamics.masks_to_flows_gpu(labels)


def peer_labels(flow: Any, logit: Any, threshold: float) -> Callable[[], Any]:
    from cellpose import dynamics

    return lambda: dynamics.resize_and_compute_masks(flow.copy(), logit.copy(), flow_threshold=threshold)


def targets(args: argparse.Namespace) -> None:
    for size in args.sizes or ("1024:500", "2048:5000"):
        cells = draw_cells(*SIZES[size][:2], foreground=SIZES[size][2])
        peer = peer_targets(cells) if PEER else None
        compare("targets", size, lambda c=cells: flows_from_labels(c), peer, args.repeat)


def labels(args: argparse.Namespace) -> None:
    for size, threshold, peer_too in (
        ("1024:500", 0.4, True),
        ("2048:5000", 0.4, True),
        ("2048:5000", 0.0, True),
        ("4096:5000", 0.0, True),
        ("4096:5000", 0.4, False),
    ):
        if args.sizes and size not in args.sizes:
            continue
        _, flow, logit = scene(size)
        compare(
            "labels, check on" if threshold else "labels, check off",
            size,
            lambda f=flow, g=logit, t=threshold: labels_from_flows(f, g, flow_threshold=t, workers=args.threads),
            peer_labels(flow, logit, threshold) if PEER and peer_too else None,
            args.repeat,
        )


def large_object(args: argparse.Namespace) -> None:
    """450 small squares, and the same with one object of 280 x 580 px among them."""
    small = np.zeros((1024, 1024), np.int32)
    corners = [(y, x) for y in range(10, 700, 33) for x in range(10, 1000, 45)][:450]
    for label, (y, x) in enumerate(corners, 1):
        small[y : y + 15, x : x + 15] = label
    both = small.copy()
    both[730:1010, 20:600] = 451
    cpu = {}
    for name, image in (("450 small", small), ("450 small and one of 280 x 580", both)):
        flow, logit = draw_flow(image, flows_from_labels(image))
        work = lambda f=flow, g=logit: labels_from_flows(f, g, workers=args.threads)  # noqa: E731
        peer = peer_labels(flow, logit, 0.4) if PEER else None
        cpu[name] = compare("one large object", name, work, peer, args.repeat)
    with_it, without = cpu["450 small and one of 280 x 580"], cpu["450 small"]
    emit(case="one large object", with_to_without=with_it / without)


def linear(args: argparse.Namespace) -> None:
    """The same 512 px pattern repeated: time per foreground pixel must not grow with the canvas. One thread."""
    pattern = draw_cells(512, 125)
    flow, logit = (part.astype(np.float16) for part in draw_flow(pattern, flows_from_labels(pattern)))
    first = None
    for times in (1, 2, 4, 8, 16):
        wide, wide_logit = tile(flow, times), tile(logit, times)
        wall, cpu = seconds(lambda f=wide, g=wide_logit: labels_from_flows(f, g, workers=1), args.repeat)
        each = 1e9 * min(cpu) / int((wide_logit > 0).sum())
        first = first or each
        emit(
            case="linear",
            size=512 * times,
            ours_s=min(wall),
            ours_cpu_s=min(cpu),
            ns_per_foreground_px=each,
            growth=each / first,
        )


def steps(args: argparse.Namespace) -> None:
    """Where the time goes: following, and the diffusion of the flow error."""
    labels_, flow, logit = scene("2048:5000")
    mask = logit > 0
    half = flow.astype(np.float16)
    compare("follow", "2048:5000", lambda: follow_flows(half, mask), None, args.repeat)
    compare("flow error", "2048:5000", lambda: flow_error(labels_, half), None, args.repeat)
    emit(case="limit", points=int(mask.sum()), diffusion_px_steps=int(diffusion_steps(labels_)))


def diffusion_steps(labels_: Any) -> int:
    from plateflow.flows.targets import as_volume, find_boxes

    boxes = find_boxes(as_volume(labels_), int(labels_.max()))
    area = np.bincount(labels_.ravel(), minlength=len(boxes) + 1)[1:]
    return (area * 2 * (boxes[:, 3] - boxes[:, 2] + boxes[:, 5] - boxes[:, 4] + 2)).sum()


def matching(args: argparse.Namespace) -> None:
    true = np.kron(np.arange(1, 50177, dtype=np.int32).reshape(224, 224), np.ones((36, 36), np.int32))
    pred = np.roll(true, (3, 3), (0, 1))
    start = rss()
    runs, _ = seconds(lambda: metrics.average_precision(true, pred), args.repeat)
    emit(case="average precision", size="50176 x 50176 objects, 8064 px", ours_s=statistics.median(runs),
         peak_above_start_mb=rss() - start)  # fmt: skip


def zarr_canvas(args: argparse.Namespace) -> None:
    """16384 x 16384 px in zarr, block by block, end pixels on disk: wall time and peak memory of the whole process."""
    import zarr

    pattern = draw_cells(1024, 500)
    flow, logit = draw_flow(pattern, flows_from_labels(pattern))
    part = np.concatenate([flow, logit[None]]).astype(np.float16)
    with tempfile.TemporaryDirectory() as folder:
        field = zarr.create_array(f"{folder}/flow.zarr", shape=(3, 16384, 16384), chunks=(3, 512, 512), dtype="float16")
        for y in range(0, 16384, 1024):
            field[:, y : y + 1024] = np.tile(part, (1, 1, 16))
        start = time.perf_counter()
        blocks = cut_blocks(field.shape[1:], 2048)
        for block in blocks:
            np.save(f"{folder}/{block.index}.npy", follow_block(field, block, n_steps=200, cell_threshold=0.0))
        followed = time.perf_counter() - start
        made, objects = labels_from_endpoints(
            lambda index: np.load(f"{folder}/{index}.npy"), field, block=2048,
            cell_threshold=0.0, flow_threshold=0.4, min_size=15, workers=args.threads,
        )  # fmt: skip
        emit(case="16384 px in zarr, block 2048", follow_s=followed, total_s=time.perf_counter() - start,
             objects=len(objects.label), foreground=float((made[::7] > 0).mean()), peak_mb=rss())  # fmt: skip


CPU_INSTEAD = "labels are made on the CPU"
"""What is said where CUDA fails: here an error, as the CPU's times would stand for the GPU's."""
FIRST_CALL = """
import time
import numpy as np
from plateflow.flows import segment_flow
field = np.ones((3, 64, 64), np.float16)
start = time.perf_counter()
segment_flow(field, block=64, n_steps=9, cell_threshold=0.0, flow_threshold=0.4, min_size=5, device="cuda")
print(time.perf_counter() - start)
"""


def cuda_rows(*, sizes: tuple[str, ...] = ("1080:500", "2048:5000"), repeat: int = 7) -> Iterator[dict[str, Any]]:
    """Labels on CUDA: the whole way from flows in the host's memory and in the device's, and each kernel by itself.

    Times are medians in milliseconds. A first row tells what a process waits for the kernels: compiled, and kept by an
    earlier one. Labels and objects must equal the CPU's.
    """
    import torch

    warnings.filterwarnings("error", CPU_INSTEAD)
    field = torch.from_numpy(np.ones((3, 64, 64), np.float16)).cuda()
    options: dict[str, Any] = {"n_steps": 200, "cell_threshold": 0.0, "flow_threshold": 0.4, "min_size": 15}
    options |= {"block": 512, "workers": len(os.sched_getaffinity(0))}
    start = time.perf_counter()
    segment_flow(field, device="cuda", **options)
    first = time.perf_counter() - start
    fresh = [sys.executable, "-W", f"error:{CPU_INSTEAD}:RuntimeWarning", "-c", FIRST_CALL]
    again = subprocess.run(fresh, capture_output=True, text=True, check=True).stdout
    yield {"case": "CUDA, first call", "this_process_s": first, "next_process_s": float(again)}
    for size in sizes:
        yield from rows_of_size(size, options, repeat)


def rows_of_size(size: str, options: dict[str, Any], repeat: int) -> Iterator[dict[str, Any]]:
    import torch

    from plateflow.flows import kernels

    def milliseconds(work: Callable[[], Any], repeat: int = repeat) -> float:
        work()
        return 1000 * statistics.median(seconds(work, repeat)[0])

    _, flow, logit = scene(size)
    half = np.concatenate([flow, logit[None]]).astype(np.float16)
    tensor = torch.from_numpy(half).cuda()
    line: dict[str, Any] = {"case": "CUDA, labels", "size": size, "gpu": torch.cuda.get_device_name()}
    expected, objects = segment_flow(half, **options)
    for name, source in (("host", half), ("device", tensor)):
        made, same = segment_flow(source, device="cuda", **options)
        line[f"equal_from_{name}"] = bool((made == expected).all()) and all(
            np.array_equal(vars(same)[key], vars(objects)[key]) for key in vars(objects)
        )
        line[f"from_{name}_ms"] = milliseconds(lambda source=source: segment_flow(source, device="cuda", **options))
    line["cpu_ms"] = milliseconds(lambda: segment_flow(half, **options), 3)
    if PEER:
        from cellpose import dynamics

        device, inside = torch.device("cuda"), np.nonzero(logit > 0)

        def peer_follow() -> None:
            dynamics.follow_flows(flow * (logit > 0) / 5, inside, device=device)
            torch.cuda.synchronize()

        line["peer_ms"] = milliseconds(
            lambda: dynamics.resize_and_compute_masks(flow.copy(), logit.copy(), device=device), 3
        )
        line |= {"ratio": line["peer_ms"] / line["from_host_ms"], "peer_follow_ms": milliseconds(peer_follow, 3)}
    yield line
    names = ("quantise", "follow", "find_seeds", "claim", "paint", "measure")
    timed = {name: TimedKernel(getattr(kernels, name)) for name in names}
    try:
        for name in names:
            setattr(kernels, name, timed[name])
        for _ in range(repeat):
            segment_flow(tensor, device="cuda", **options)
    finally:
        for name in names:
            setattr(kernels, name, timed[name].kernel)
    yield {"case": "CUDA, kernels", "size": size} | {f"{k}_ms": statistics.median(t.ms) for k, t in timed.items()}


class TimedKernel:
    """A kernel that waits for its end, and remembers how long it took."""

    def __init__(self, kernel: Any) -> None:
        self.kernel, self.ms = kernel, list[float]()

    def __getitem__(self, threads: Any) -> Callable[..., None]:
        from numba import cuda

        def launch(*arguments: Any) -> None:
            cuda.synchronize()
            start = time.perf_counter()
            self.kernel[threads](*arguments)
            cuda.synchronize()
            self.ms.append(1000 * (time.perf_counter() - start))

        return launch


def rss() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _peak_of(side: str, size: str, threshold: float, threads: int, queue: Any) -> None:
    _, flow, logit = scene(size)
    if side == "ours":
        small = flow[:, :64, :64], logit[:64, :64]
        labels_from_flows(*small, workers=threads)
        work = lambda: labels_from_flows(flow, logit, flow_threshold=threshold, workers=threads)  # noqa: E731
    else:
        import torch

        torch.set_num_threads(threads)
        work = peer_labels(flow, logit, threshold)
    # The high water mark may be that of drawing the scene: look at what is resident while it runs.
    page, high, running = os.sysconf("SC_PAGE_SIZE"), [0.0], [True]

    def watch() -> None:
        while running[0]:
            resident = int(Path("/proc/self/statm").read_text().split()[1]) * page / 2**20
            high[0] = max(high[0], resident)
            time.sleep(0.002)

    before = int(Path("/proc/self/statm").read_text().split()[1]) * page / 2**20
    watcher = threading.Thread(target=watch)
    watcher.start()
    work()
    running[0] = False
    watcher.join()
    queue.put((before, high[0]))


def peak(args: argparse.Namespace) -> None:
    context = multiprocessing.get_context("spawn")
    for size, threshold in (("1024:500", 0.4), ("2048:5000", 0.0), ("4096:5000", 0.0), ("4096:5000", 0.4)):
        line: dict[str, Any] = {"case": "peak memory", "size": size, "check": threshold > 0}
        # The peer's check at 4096 px takes minutes; without it its peak is a lower bound.
        sides = ["ours"] + (["peer"] if PEER and not (size == "4096:5000" and threshold) else [])
        for side in sides:
            queue = context.Queue()
            process = context.Process(target=_peak_of, args=(side, size, threshold, args.threads, queue))
            process.start()
            before, high = queue.get()
            process.join()
            line |= {f"{side}_before_mb": before, f"{side}_peak_mb": high, f"{side}_took_mb": high - before}
        emit(**line)


CASES = {
    "targets": targets, "labels": labels, "large": large_object, "linear": linear, "steps": steps,
    "matching": matching, "peak": peak, "zarr": zarr_canvas,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--sizes", nargs="+", choices=SIZES, help="for the cases targets and labels")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    args = parser.parse_args()
    if args.device == "cuda":
        for row in cuda_rows():
            emit(**row)
        return
    start = time.perf_counter()
    labels_from_flows(*draw_flow(np.ones((9, 9), np.int32), flows_from_labels(np.ones((9, 9), np.int32))))
    emit(case="machine", threads=args.threads, load=os.getloadavg()[0], peer=PEER,
         first_call_s=time.perf_counter() - start)  # fmt: skip
    if PEER:
        import torch

        torch.set_num_threads(args.threads)
    for case in args.cases:
        CASES[case](args)


if __name__ == "__main__":
    main()

"""Flow fields on which CUDA must give what the CPU gives, bit for bit.

As a program: in numba's simulator, which must be chosen (NUMBA_ENABLE_CUDASIM=1) before numba is imported, and which
starts a thread of Python for each of a device's.
"""

import sys
import warnings
from collections.abc import Callable
from dataclasses import fields

import numpy as np
from flow_scenes import draw_cells, draw_flow, draw_scene

from plateflow.flows import Objects, device, flows_from_labels, labels_from_flows, segment_flow

Case = tuple[np.ndarray, dict]


def scene(shape: tuple[int, ...], seed: int, **options: object) -> Case:
    flow, logit = draw_scene(shape, seed)
    return np.concatenate([flow, logit[None]]), options


def noise(shape: tuple[int, ...], seed: int, *, scale: float = 4, **options: object) -> Case:
    """No structure at all, and cell nearly everywhere: pieces and holes, ties, claims upon claims."""
    random = np.random.default_rng(seed)
    field = random.normal(0, scale, (len(shape) + 1, *shape))
    field[-1] += 1.5 * scale
    return field.astype(np.float16), options


def jumps(shape: tuple[int, ...], groups: dict[tuple[int, ...], list[tuple[int, ...]]], **options: object) -> Case:
    """The pixels of each group go to the group's target in one step, of up to 7 px along an axis."""
    field = np.zeros((len(shape) + 1, *shape), np.float16)
    field[-1] = -1
    for target, members in groups.items():
        for pixel in members:
            field[(slice(-1), *pixel)] = 5 * (np.array(target) - pixel)
            field[(-1, *pixel)] = 1
    return field, {"n_steps": 1, "min_size": 1, "flow_threshold": 0, **options}


def gather(shape: tuple[int, int], counts: dict[tuple[int, int], int]) -> Case:
    """So many paths end at each of these pixels."""
    groups: dict[tuple[int, ...], list[tuple[int, ...]]] = {target: [] for target in counts}
    free = set(np.ndindex(*shape))
    for target, n in counts.items():
        near = sorted(p for p in free if max(abs(p[0] - target[0]), abs(p[1] - target[1])) <= 7)
        groups[target] = near[:n]
        free -= set(near[:n])
    return jumps(shape, groups)


def holes() -> Case:
    """A square with holes, with an object in one of them, and a gap at a corner, which is no hole."""
    square = [(y, x) for y in range(5, 17) for x in range(5, 17)]
    inner = [(y, x) for y in range(12, 16) for x in range(8, 12)]
    gaps = [(7, 7), (7, 8), (13, 6), (5, 5), *inner]
    return jumps((20, 20), {(8, 12): [p for p in square if p not in gaps], (13, 10): inner[:13]})


def hollow() -> Case:
    """A cube with a hole, and a tube that is open along z."""
    cube = {p for p in np.ndindex(5, 12, 5) if p[1] < 5} - {(2, 2, 2)}
    tube = {p for p in np.ndindex(5, 12, 5) if p[1] > 6} - {(z, 9, 2) for z in range(5)}
    return jumps((5, 12, 5), {(2, 2, 2): sorted(cube), (2, 9, 2): sorted(tube)})


def cells(shape: tuple[int, ...], count: int, **options: object) -> Case:
    flow, logit = draw_flow(draw_cells(shape, 3, count=count), 3, noise=0.2)
    return np.concatenate([flow, logit[None]]), options


def large(edge: int) -> Case:
    """An object that fills most of the canvas, with a hole, and one that touches it."""
    labels = np.zeros((edge, edge + 4), np.int32)
    labels[1:-1, 2:-1] = 1
    labels[: edge // 4, : edge // 4] = 2
    field = np.concatenate([5 * flows_from_labels(labels), np.where(labels > 0, 5, -5)[None]])
    field[2, edge // 2 + 3, edge // 2] = -5
    return field.astype(np.float16), {"flow_threshold": 0.8}


SMALL: dict[str, Callable[[], Case]] = {
    "scene": lambda: scene((24, 30), 1),
    "scene, no check": lambda: scene((20, 33), 7, flow_threshold=0, cell_threshold=0.5),
    "noise": lambda: noise((20, 22), 1, flow_threshold=0, min_size=1),
    "noise, checked": lambda: noise((20, 22), 2, scale=2, min_size=2, flow_threshold=2, max_size=40),
    "steps as long as they may be": lambda: noise((20, 22), 3, scale=40, flow_threshold=0),
    "holes": holes,
    "hollow": hollow,
    # Two pixels of equal count in one neighbourhood: the first is the seed of all.
    "ties": lambda: gather((20, 24), {(12, 10): 12, (12, 12): 12}),
    # Two seeds of equal count claim what lies between them, and each other: the first gets all.
    "a bridge": lambda: gather((20, 24), {(12, 8): 14, (12, 9): 3, (12, 10): 4, (12, 11): 3, (12, 12): 14}),
    # A basin is five steps long, though the sixth pixel of this bend lies near.
    "a bend": lambda: gather(
        (24, 24),
        {(10, 10): 20, (10, 11): 3, (10, 12): 3, (11, 13): 3, (12, 12): 3, (12, 11): 3, (12, 10): 3, (12, 9): 3},
    ),
    "large": lambda: large(22),
    "numbers from 1001 on": lambda: cells((30, 30), 4, first=1001),
    "a row": lambda: noise((1, 60), 4, flow_threshold=3, min_size=1),
    "all too large": lambda: cells((24, 24), 3, max_size=5),
    "nothing": lambda: (np.full((3, 9, 9), -1, np.float16), {}),
    "volume": lambda: noise((5, 9, 10), 5, flow_threshold=2, min_size=1),
    "volume of cells": lambda: cells((9, 16, 14), 2),
}
LARGE: dict[str, Callable[[], Case]] = {
    **{f"scene {seed}": lambda seed=seed: scene((300, 260), seed) for seed in range(8)},
    **{f"volume {seed}": lambda seed=seed: scene((24, 60, 50), seed) for seed in range(4)},
    "noise of a plane": lambda: noise((400, 500), 6, flow_threshold=1, min_size=1),
    "noise of a volume": lambda: noise((30, 60, 70), 7, flow_threshold=1, min_size=1),
    "cells": lambda: cells((500, 500), 400),
    "larger than what threads share": lambda: large(300),
}


def compare(case: Case) -> Objects:
    """Make labels both ways, and assert that they and their objects are equal."""
    field, changed = case
    options = {"block": 512, "n_steps": 200, "cell_threshold": 0.0, "flow_threshold": 0.4, "min_size": 5} | changed
    labels, objects = segment_flow(field, **options)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "labels are made on the CPU")  # others are no fault of the labels
        again, others = segment_flow(field, device="cuda", out=np.zeros(labels.shape, np.uint32), **options)
    np.testing.assert_array_equal(again, labels)
    for name in (each.name for each in fields(Objects)):
        one, other = getattr(objects, name), getattr(others, name)
        assert one.dtype == other.dtype and one.shape == other.shape, name
        np.testing.assert_array_equal(other, one, err_msg=name)
    return objects


def in_the_simulator() -> None:
    from plateflow.flows import kernels

    assert kernels.SIMULATED
    sys.setswitchinterval(1e-5)  # its threads wait for each other much of the time
    device.THREADS, device.OBJECT_THREADS = (8, 4, 1), 3
    found = {}
    for name, case in SMALL.items():
        found[name] = len(compare(case()).label)
        if name == "scene":
            # From here on memory for large objects is used, and is soon full.
            kernels.NEAR, device._SCRATCH = 150, 500
    missing = [name for name, n in found.items() if n == 0]
    assert missing == ["all too large", "nothing"], found
    field, _ = scene((12, 14), 1)
    labels = labels_from_flows(field[:2].astype(np.float32), field[2], device="cuda")
    np.testing.assert_array_equal(labels, labels_from_flows(field[:2], field[2]))
    field[1, 5, 7] = np.inf
    try:
        segment_flow(field, device="cuda", block=9, n_steps=9, cell_threshold=0.0, flow_threshold=0.4, min_size=5)
    except ValueError as error:
        assert "dx is NaN or infinite at y = 5, x = 7" in str(error), error
    else:
        raise AssertionError("infinity wasn't refused")
    print(found)


if __name__ == "__main__":
    in_the_simulator()

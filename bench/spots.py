"""Finding spots: this project beside scikit-image's `blob_log`, in one process.

    python bench/spots.py [--size PX] [--spots N] [--diameter PX] [--repeat N]

One image of N Gaussian spots on noise (signal to noise 5), float32. Both find the maxima of the Laplacian of Gaussian:
`single` is blob_log at our scale alone, with our threshold (its response is ours), `usual` as its documentation calls
it, at 10 scales. `ours` finds the same, and places below a pixel; `measured` also intensities and distances of each, in
40 x 40 px objects. Prints a line of JSON: the least seconds of wall time and of processor time of each, the ratios, and
how many spots each finds.
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from plateflow.features.spots import Background, find_spots, log_response, maxima, sigma_of, vertices

NOISE = 20.0


def main() -> None:
    from skimage.feature import blob_log

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1080)
    parser.add_argument("--spots", type=int, default=2000)
    parser.add_argument("--diameter", type=float, default=5.0)
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    sigma, size = sigma_of(arguments.diameter), arguments.size
    rng = np.random.default_rng(1)
    image = rng.normal(400, NOISE, (size, size))
    reach = int(4 * sigma) + 1
    offset = np.arange(-reach, reach + 1)
    for y, x in rng.uniform(reach + 1, size - reach - 1, (arguments.spots, 2)):
        near = int(y), int(x)
        spot = np.exp(-((offset[:, None] + near[0] - y) ** 2 + (offset + near[1] - x) ** 2) / (2 * sigma**2))
        image[near[0] - reach : near[0] + reach + 1, near[1] - reach : near[1] + reach + 1] += 5 * NOISE * spot
    ys, xs = np.indices(image.shape) // 40
    image, labels = image.astype(np.float32), (1 + ys * (size // 40 + 1) + xs).astype(np.uint32)
    threshold = Background.of(log_response(image, arguments.diameter)[::2, ::2].ravel()).threshold
    find_spots(image[:64, :64], labels[:64, :64], diameter_px=arguments.diameter, threshold=threshold)  # compiles
    usual = {"min_sigma": sigma / 2, "max_sigma": 2 * sigma, "num_sigma": 10}

    def ours() -> Any:
        response = log_response(image, arguments.diameter)
        ys, xs, quality = maxima(response, labels, threshold)
        return np.column_stack([*vertices(response, ys, xs), quality])

    calls: dict[str, Callable[[], Any]] = {
        "ours": ours,
        "measured": lambda: find_spots(image, labels, diameter_px=arguments.diameter, threshold=threshold)[0],
        "single": lambda: blob_log(image, min_sigma=sigma, max_sigma=sigma, num_sigma=1, threshold=threshold),
        "usual": lambda: blob_log(image, **usual, threshold=threshold),
    }
    wall, cpu, found = dict[str, float](), dict[str, float](), dict[str, int]()
    for name, call in calls.items():
        for _ in range(arguments.repeat):
            start = time.perf_counter(), time.process_time()
            found[name] = len(call())
            took = time.perf_counter() - start[0], time.process_time() - start[1]
            wall[name], cpu[name] = (
                min(old.get(name, np.inf), new) for old, new in zip((wall, cpu), took, strict=True)
            )
    ratios = {f"{name} / ours": [round(each[name] / each["ours"], 1) for each in (wall, cpu)] for name in calls}
    rounded = [{name: round(seconds, 4) for name, seconds in each.items()} for each in (wall, cpu)]
    print(
        json.dumps(
            {"size": size, "diameter": arguments.diameter, "found": found, "wall_s": rounded[0], "cpu_s": rounded[1]}
            | {"ratios_wall_cpu": ratios}
        )
    )


if __name__ == "__main__":
    main()

"""Inputs of the inference benchmark: fields, a plate of them, and Cellpose's network with random weights."""

import itertools
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from cellpose_tiles import cellpose_layout
from numpy.typing import NDArray

from plateflow.chain import STAGES
from plateflow.config import Config, PlateSpec
from plateflow.paths import well_name
from plateflow.project import Plate
from plateflow.segment.tiles import TILE, tile_layout
from plateflow.simulate.cells import camera, simulate_field
from plateflow.stages import ingest, normalise, tile
from plateflow.stages.job import Job

PATTERN = r"(?P<well>[A-Z]\d\d)_s(?P<field>\d+)_w(?P<channel>\d)\.tif"


def draw_field(edge: int, seed: int = 0) -> NDArray[np.uint16]:
    """The DNA channel of a simulated field, edge x edge px."""
    random = np.random.default_rng(seed)
    scene = simulate_field(random, (edge, edge))
    return camera(random, {"DNA": scene.channels["DNA"]})[0]


def cellpose_network(path: Path, *, size: str = "vit_l", seed: int = 0) -> Any:
    """Cellpose's own network with random weights, float32, which are also written to `path` as it publishes them.

    Args:
        size: vit_l, or small: two blocks, 128 wide.

    Returns:
        A `cellpose.vit.CPSAM`. Needs Cellpose.
    """
    from cellpose import vit
    from segment_anything.build_sam import _build_sam

    full = vit.sam_model_registry["vit_l"]
    small = {"encoder_embed_dim": 128, "encoder_depth": 2, "encoder_num_heads": 2, "encoder_global_attn_indexes": [1]}
    try:
        if size == "small":
            vit.sam_model_registry["vit_l"] = lambda checkpoint: _build_sam(**small, checkpoint=checkpoint)
        network = vit.CPSAM().eval().requires_grad_(False)
    finally:
        vit.sam_model_registry["vit_l"] = full
    random = torch.Generator().manual_seed(seed)
    for name, weights in network.named_parameters():
        if "rel_pos" in name or "pos_embed" in name:  # zero until trained, as are most biases
            weights.normal_(0, 0.3, generator=random)
        elif weights.ndim > 1 and name != "W2":
            torch.nn.init.trunc_normal_(weights, std=weights[0].numel() ** -0.5, generator=random)
        elif name.endswith("bias"):
            weights.normal_(0, 0.1, generator=random)
    torch.save(network.state_dict(), path)
    return network


@contextmanager
def plate_of_fields(fields: int, edge: int) -> Iterator[tuple[Config, PlateSpec]]:
    """A plate of wells with one field each, ingested, tiled and normalised: all that `infer` needs."""
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder, "raw")
        raw.mkdir()
        field = draw_field(edge)
        for n in range(fields):
            shifted = np.roll(field, (97 * n, 61 * n), (0, 1))
            tifffile.imwrite(raw / f"{well_name(n // 24, n % 24)}_s1_w1.tif", shifted)
        entry = PlateSpec(plate="bench", path=str(raw), layout="pattern", pattern=PATTERN)
        sets = {"nuclei": {"channels": ["1"]}}
        config = Config.model_validate(
            {"results": f"{folder}/results", "parts": {"cpu": 1, "gpu": 1}, "segmentation": sets, "device": "cpu"}
        )
        for name, stage in (("ingest", ingest), ("tile", tile), ("normalise", normalise)):
            for job in STAGES[name].jobs(config):
                stage.run(Job.of(Plate(config=config, spec=entry), name, job))
        yield config, entry


def seam_ratios(fields: list[dict[str, NDArray[np.float16]]]) -> dict[str, float]:
    """Flow differences of neighbouring pixels across tile borders over those inside, for both tilings.

    The plain ratio is the mean across borders over the mean of all other pairs. It depends on what lies at the borders
    as much as on the seam, so `paired` compares pairs across a border with the same pairs in the other tiling, where
    nearly all of them are inside.

    Args:
        fields: flow fields by tiling, of whole canvases at scale 1, (3, Y, X); dy and dx are looked at.
    """
    layouts = {"plateflow": tile_layout, "cellpose": cellpose_layout}
    sums = dict.fromkeys(itertools.product(layouts, ("across", "inside", "other")), 0.0)
    counts = sums.copy()
    for flows in fields:
        for axis in (1, 2):
            steps = {t: np.abs(np.diff(f[:2].astype(np.float64), axis=axis)).mean(axis=0) for t, f in flows.items()}
            for tiling, other in (("plateflow", "cellpose"), ("cellpose", "plateflow")):
                shape = flows[tiling].shape[1:]
                layout = layouts[tiling]((shape[0], shape[1]))
                tiles = layout.y if axis == 1 else layout.x
                borders = {edge - tiles.before for start in tiles.starts for edge in (start, start + TILE)}
                border = np.array([n + 1 in borders for n in range(shape[axis - 1] - 1)])
                for name, which, whose in (
                    ("across", border, tiling),
                    ("inside", ~border, tiling),
                    ("other", border, other),
                ):
                    chosen = np.compress(which, steps[whose], axis - 1)
                    sums[tiling, name] += chosen.sum()
                    counts[tiling, name] += chosen.size
    mean = {key: sums[key] / max(1, counts[key]) for key in sums}
    return {
        f"{tiling}{kind}": mean[tiling, "across"] / mean[tiling, against]
        for tiling in layouts
        for kind, against in (("", "inside"), ("_paired", "other"))
    }

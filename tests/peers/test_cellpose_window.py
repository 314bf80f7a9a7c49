"""Cellpose's window opens what is exported for it, and what it saves is read back: its own code, without a screen.

Qt isn't installed; `cellpose.gui.io` needs none, but a window, of which a stand-in has what that code asks for.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from numpy.typing import NDArray

window_io = pytest.importorskip("cellpose.gui.io", reason="Cellpose isn't installed: make test installs it")
dynamics = pytest.importorskip("cellpose.dynamics")

from plateflow.exchange import cellpose  # noqa: E402
from plateflow.exchange.frame import Frame  # noqa: E402
from plateflow.exchange.images import Item, digest_of  # noqa: E402
from plateflow.flows import flows_from_labels  # noqa: E402
from plateflow.simulate.cells import simulate_field  # noqa: E402
from plateflow.train.folders import read_source  # noqa: E402


class Count(int):
    """The window's number of cells, which it sets and gets."""

    value = 0

    def set(self, value: int) -> None:
        self.value = int(value)

    def get(self) -> int:
        return self.value

    def __eq__(self, other: object) -> bool:
        return self.value == other

    def __gt__(self, other: float) -> bool:
        return self.value > other

    __hash__ = None  # type: ignore[assignment]


class Window(Mock):
    """What `cellpose.gui.io` asks of the window: its state, and calls that only draw."""

    def __init__(self) -> None:
        super().__init__()
        self.load_3D, self.NZ, self.loaded, self.restore, self.ratio = False, 1, False, None, 1.0
        self.ncells = Count()
        self.colormap = np.random.default_rng(0).integers(0, 255, (1000, 3)).astype(np.uint8)
        self.autoloadMasks.isChecked.return_value = False
        self.segmentation_settings = SimpleNamespace(flow_threshold=0.4, cellprob_threshold=0.0, diameter=None)
        self.RGBDropDown.name_map, self.color = {"RGB": 0, "gray": 4}, "RGB"
        self.get_normalize_params.return_value = {"normalize": True, "percentile": [1.0, 99.0]}
        self.current_model_path = "cpsam_v2"
        del self.stack_filtered

    def _get_child_mock(self, **kwargs: Any) -> Mock:
        return Mock(**kwargs)  # not another window


def frame(*, with_flow: bool) -> Frame:
    rng = np.random.default_rng(3)
    scene = simulate_field(rng, (160, 192), density=0.3, diameter_px=18)
    labels = scene.nuclei.astype(np.uint32)
    labels[labels > 0] = labels[labels > 0] * 3 + 70_000  # as of a later canvas, with gaps
    flow = np.concatenate([5 * flows_from_labels(labels), np.where(labels > 0, 5.0, -5.0)[None]]).astype(np.float16)
    pixels = np.stack([scene.channels[name] for name in ("AGP", "DNA")])
    return Frame(
        name="demo_B03_0",
        channels=["AGP", "DNA"],
        pixels=(pixels * 1000).clip(0, 65_535).astype(np.uint16),
        limits=[(0.0, 1000.0)] * 2,
        label_set="cells",
        labels=labels,
        pixel_um=(0.6, 0.6),
        flow=flow if with_flow else None,
        spots={},
    )


def opened(folder: Path, shown: Frame) -> tuple[Any, Item]:
    file = folder / cellpose.write(folder, shown)
    window = Window()
    window_io._load_image(window, str(folder / f"{shown.name}.tif"))
    of = {"plate": "demo", "label_set": "cells", "well": "B03", "canvas": 0, "program": "cellpose"}
    return window, Item(**of, shape=shown.labels.shape, exported=digest_of(shown.labels), file=file)


def consecutive(labels: NDArray[np.uint32]) -> NDArray[np.int64]:
    return np.unique(labels, return_inverse=True)[1].reshape(labels.shape)


def test_the_window_shows_the_image_masks_outlines_and_flows(tmp_path: Path) -> None:
    shown = frame(with_flow=True)
    window, _ = opened(tmp_path, shown)
    assert window.loaded and window.filename == str(tmp_path / "demo_B03_0.tif")
    np.testing.assert_array_equal(window.cellpix[0], consecutive(shown.labels))
    assert window.ncells.get() == len(np.unique(shown.labels)) - 1 == len(window.ismanual)
    edge = window.outpix[0] > 0
    assert edge.any() and (window.outpix[0][edge] == window.cellpix[0][edge]).all()
    height, width = shown.labels.shape
    assert window.stack.shape == (1, height, width, 3) and window.stack.max() == 255
    np.testing.assert_allclose(
        window.stack[0, ..., 0] / window.stack[0, ..., 0].max(), shown.pixels[0] / shown.pixels[0].max(), atol=0.02
    )
    assert window.recompute_masks is True
    # What the window's slider of thresholds does with the flows: the same objects.
    again = dynamics.resize_and_compute_masks(
        dP=window.flows[2].squeeze(), cellprob=window.flows[3].squeeze(), niter=200, min_size=15
    )
    agree = (again > 0) == (shown.labels > 0)
    assert agree.mean() > 0.97 and abs(int(again.max()) - window.ncells.get()) <= 1


def test_without_flows_the_window_opens_and_makes_no_masks_anew(tmp_path: Path) -> None:
    window, _ = opened(tmp_path, frame(with_flow=False))
    assert window.loaded and window.ncells.get() > 10 and window.recompute_masks is False


@pytest.mark.parametrize("with_flow", [True, False])
def test_what_the_window_saves_is_read_back(tmp_path: Path, with_flow: bool) -> None:
    shown = frame(with_flow=with_flow)
    window, item = opened(tmp_path, shown)
    window_io._save_sets(window)
    assert digest_of(item.read()) == item.exported
    gone, pixels = 4, window.cellpix[0]
    pixels[pixels == gone] = 0  # as the window removes a mask: those above it move down
    pixels[pixels > gone] -= 1
    pixels[:5, :5] = pixels.max() + 1
    window_io._save_sets(window)
    np.testing.assert_array_equal(item.read(), pixels)
    assert digest_of(item.read()) != item.exported


def test_training_reads_the_folder_as_it_is(tmp_path: Path) -> None:
    shown = frame(with_flow=False)
    cellpose.write(tmp_path, shown)
    (sample,) = read_source(tmp_path)
    np.testing.assert_array_equal(sample.pixels, shown.pixels)
    np.testing.assert_array_equal(sample.labels, consecutive(shown.labels))

"""Cell tables as one AnnData file, for scanpy and squidpy, written well by well: its matrix is never in memory.

What is measured is X, what is known of a cell obs, what a column is var; positions and principal components are obsm.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from plateflow.errors import ArgumentError
from plateflow.exchange.cells import CellTables
from plateflow.features.measure import compartment

if TYPE_CHECKING:
    import pandas as pd

SAMPLE = 50_000
"""Cells, evenly spread over the plate, from which medians, MADs and principal components are taken."""
COMPONENTS = 50
CLIP = 10.0
"""Values further from the median, in MADs x 1.4826, count as if they lay there: else outliers are the components."""
BLOCK = 20_000
FILE = "cells.h5ad"


def write(tables: CellTables, folder: Path, shown: Path) -> list[str]:
    """Write cells.h5ad; what is there, in words.

    Args:
        folder: in which it is written; `shown`: where it will lie.

    Raises:
        ArgumentError: anndata isn't installed.
    """
    try:
        import h5py
        from anndata.io import write_elem
    except ModuleNotFoundError as error:
        remedy = "pip install 'anndata>=0.12'"
        raise ArgumentError(
            f"the package {error.name} isn't installed", where="--tables anndata", remedy=remedy
        ) from None
    import pandas as pd

    n_cells = sum(entry.info["objects"] for entry in tables.measured.values())
    names, numbers, positions = tables.kind("measurement"), tables.kind("number"), _positions(tables)
    step, start = -(-n_cells // SAMPLE) or 1, 0
    obs: list[pd.DataFrame] = []
    spatial, sample = np.empty((n_cells, len(positions))), list[NDArray[np.float32]]()
    with h5py.File(folder / FILE, "w") as file:
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        # X as anndata writes it, but for that it comes in pieces
        matrix = file.create_dataset("X", (n_cells, len(names)), np.float32)
        matrix.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        for _, cells, metadata in tables.each():
            stop = start + len(cells)
            values = np.empty((len(cells), len(names)), np.float32)
            for number, name in enumerate(names):
                values[:, number] = cells[name].to_numpy()
            matrix[start:stop] = values
            sample.append(values[-start % step :: step])
            spatial[start:stop] = np.stack([cells[name].to_numpy() for name in positions], axis=1)
            obs.append(pd.concat([metadata, cells.select(numbers).to_pandas()], axis=1))
            start = stop
        variables = _var(tables, names)
        obsm, varm = {"spatial": spatial}, dict[str, NDArray[np.float32]]()
        uns = _uns(tables, positions)
        if (found := components(np.concatenate([np.empty((0, len(names)), np.float32), *sample]))) is not None:
            obsm["X_pca"] = np.empty((n_cells, found.loadings.shape[1]), np.float32)
            for start in range(0, n_cells, BLOCK):
                obsm["X_pca"][start : start + BLOCK] = found.of(matrix[start : start + BLOCK])
            varm["PCs"] = found.loadings.astype(np.float32)
            uns["pca"] = {"variance": found.variance, "variance_ratio": found.variance / found.total}
        obs = [each for each in obs if len(each)] or obs[:1]  # an empty one has no types
        groups = {
            "obs": _obs(pd.concat(obs, ignore_index=True)),
            "var": variables,
            "obsm": obsm,
            "varm": varm,
            "uns": uns,
        }
        for key, part in (groups | {"layers": {}, "obsp": {}, "varp": {}}).items():
            write_elem(file, key, part)
    return [f'{n_cells:,} cells x {len(names):,} measurements: anndata.read_h5ad("{shown / FILE}")']


class Components:
    """Principal components of robustly scaled measurements.

    Attributes:
        loadings: (measurement, component); 0 for measurements that don't count.
        variance: of each component; `total`: of all.
    """

    def __init__(self, sample: NDArray[np.float32], median: NDArray[Any], spread: NDArray[Any]) -> None:
        self.median, self.spread = median, spread
        scaled = self._scaled(sample)
        self.mean = scaled.mean(axis=0)
        counts = np.isfinite(spread)
        variance, own = np.linalg.eigh(np.atleast_2d(np.cov(scaled[:, counts], rowvar=False)))
        vectors = np.zeros((len(spread), len(own)))
        vectors[counts] = own
        number = min(COMPONENTS, len(sample) - 1, int((variance > 1e-9 * variance[-1]).sum()))
        self.variance, vectors = variance[::-1][:number], vectors[:, ::-1][:, :number]
        largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(number)]
        self.loadings, self.total = vectors * np.sign(largest), float(variance.sum())

    def _scaled(self, values: NDArray[Any]) -> NDArray[np.float64]:
        with np.errstate(invalid="ignore", divide="ignore"):
            scaled = (values - self.median) / self.spread
        return np.clip(np.nan_to_num(scaled, nan=0.0, posinf=CLIP, neginf=-CLIP), -CLIP, CLIP)

    def of(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """The components (cell, component) of cells."""
        projected: NDArray[np.float64] = (self._scaled(values) - self.mean) @ self.loadings
        return projected


def components(sample: NDArray[np.float32]) -> Components | None:
    """The principal components of cells (cell, measurement), or None where there is nothing to tell them by.

    Each measurement is scaled by median and MAD (x 1.4826) of its finite values; what is missing lies at the median,
    and measurements without a spread don't count. The sign is such that the largest loading is positive.
    """
    with np.errstate(invalid="ignore"):
        finite = np.where(np.isfinite(sample), sample, np.nan).astype(np.float64)
    counts = (~np.isnan(finite)).any(axis=0)
    median, spread = np.full(sample.shape[1], np.nan), np.full(sample.shape[1], np.nan)
    median[counts] = np.nanmedian(finite[:, counts], axis=0)
    spread[counts] = 1.4826 * np.nanmedian(np.abs(finite[:, counts] - median[counts]), axis=0)
    spread[~(spread > 0)] = np.nan
    if len(sample) < 3 or np.isnan(spread).all():
        return None
    return Components(sample, median, spread)


def _positions(tables: CellTables) -> list[str]:
    """The columns of the cells' centroids, x first: in µm where the pixel size is known, else in px."""
    rows = compartment(tables.plate.config.row_label_set)
    unit = "_um" if tables.plate.metadata.get("pixel_size_um") else ""
    return [name for axis in "XYZ" if (name := f"{rows}_Location_Center_{axis}{unit}") in tables.features]


def _uns(tables: CellTables, positions: list[str]) -> dict[str, Any]:
    """What holds for all cells."""
    unit = tables.features[positions[0]]["unit"]
    return {"plate": tables.plate.name, "plateflow": version("plateflow"), "spatial_unit": unit}


def _obs(metadata: pd.DataFrame) -> pd.DataFrame:
    """What is known of each cell, by its ObjectID: text as categories, numbers as they are."""
    obs = metadata.set_index("Metadata_ObjectID")
    for name in obs:
        if obs[name].dtype == object:
            obs[name] = obs[name].astype("string").astype("category")
    return obs


def _var(tables: CellTables, names: list[str]) -> pd.DataFrame:
    """What each measurement is."""
    import pandas as pd

    var = pd.DataFrame(tables.described()).set_index("column").loc[names].drop(columns=["kind", "in_wells"])
    var.index.name = None
    return var.astype({name: "category" for name in var if name not in ("words", "definition")})

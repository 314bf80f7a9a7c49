"""Files of the scratch: flow fields and endpoints, written whole; nameless files for large arrays.

Imports neither torch nor zarr: a job that has nothing to do loads this.
"""

import math
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plateflow.files import atomic_file, make_folder


def save_array(path: Path, array: NDArray[Any]) -> None:
    """Write an npy file by rename, without a copy of the array in memory."""
    array = np.ascontiguousarray(array)
    with atomic_file(path) as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.data)  # tofile would not report a full disk


def scratch_array(folder: Path, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """An array of zeros in a nameless file, which disappears with the array, however the job ends."""
    make_folder(folder)
    with tempfile.TemporaryFile(dir=folder) as file:
        if hasattr(os, "posix_fallocate"):  # without it a full disk shows as a bus error at the first write
            os.posix_fallocate(file.fileno(), 0, math.prod(shape) * np.dtype(dtype).itemsize)
        return np.memmap(file, dtype, "w+", shape=shape)

"""What `plateflow check --cluster` runs on a node: tries what a stage will need there, and writes what it found."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from pathlib import Path

from plateflow.errors import PlateflowError
from plateflow.files import write_json
from plateflow.project import Project

ROOM_BYTES = 10**9


def probe(configfile: Path, *, gpu: bool) -> list[str]:
    """What is wrong on this machine, one line each; empty if a stage can work here."""
    project = Project.load(configfile)
    wrong = []
    for plate in project.plates.values():
        for folder in {plate.paths.root, plate.paths.scratch}:
            try:
                _try_writing(folder)
            except OSError as error:
                wrong.append(f"{folder} can't be written: {error.strerror}")
            else:
                if shutil.disk_usage(folder).free < ROOM_BYTES:
                    wrong.append(f"{folder} has less than {ROOM_BYTES / 1e9:g} GB left")
        if wrong:
            break  # the others lie beside it
    if gpu:
        from plateflow.model import check_model

        for name in {label_set.model for label_set in project.config.segmentation.values()}:
            try:
                check_model(name)
            except (ValueError, OSError) as error:
                wrong.append(f"the weights of model {name} can't be used: {error}")
        if project.config.device != "cpu":
            import torch

            if not torch.cuda.is_available():
                given = os.environ.get("CUDA_VISIBLE_DEVICES")
                wrong.append(f"torch {torch.__version__} sees no GPU (CUDA_VISIBLE_DEVICES is {given!r})")
    return wrong


def _try_writing(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    first, second = (folder / f".probe-{socket.gethostname()}-{os.getpid()}{end}" for end in ("", ".renamed"))
    try:
        first.write_text("a")
        first.rename(second)
    finally:
        for path in (first, second):
            path.unlink(missing_ok=True)


def main() -> None:
    """Arguments: the configuration, the file to write (by rename), and whether this is for the GPU stage."""
    configfile, out, gpu = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "gpu"
    try:
        wrong = probe(configfile, gpu=gpu)
    except PlateflowError as error:
        wrong = [str(error)]
    write_json(out, {"host": socket.gethostname(), "wrong": wrong})


if __name__ == "__main__":
    main()

"""Several GPUs: which of the processes of one training this one is, and what they tell each other."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass

import torch
import torch.distributed as dist

from plateflow.errors import PlateflowError


@dataclass(frozen=True)
class Ranks:
    """This process among those of a training, each with a device of its own.

    Attributes:
        rank: its number, 0 to `world` - 1; process 0 writes the files.
        local: its number among those of its machine.
    """

    rank: int = 0
    world: int = 1
    local: int = 0

    @classmethod
    def of_environment(cls) -> Ranks:
        """As `torchrun` or `srun` say, which start one process per GPU; a process that neither started is alone."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        if os.environ.get("WORLD_SIZE") is None and int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
            names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
        return cls(*(int(os.environ.get(name, default)) for name, default in zip(names, "010", strict=True)))

    def device(self, name: str) -> torch.device:
        """The device of this process: of several GPUs that it sees, the one of its number."""
        if name == "cuda" and self.world > 1:
            return torch.device("cuda", self.local % torch.cuda.device_count())
        return torch.device(name)

    def join(self, device: torch.device) -> None:
        """Meet the others, at the address in MASTER_ADDR and MASTER_PORT, or on the first machine of a SLURM job."""
        if self.world == 1:
            return
        if "MASTER_ADDR" not in os.environ:
            os.environ["MASTER_ADDR"] = _first_machine()
            os.environ["MASTER_PORT"] = str(20_000 + int(os.environ.get("SLURM_JOB_ID", "0")) % 20_000)
        try:
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo", rank=self.rank, world_size=self.world)
        except (dist.DistError, ValueError, OSError) as error:
            where = f"{os.environ['MASTER_ADDR']}:{os.environ.get('MASTER_PORT')}"
            raise PlateflowError("the processes of the training don't meet", where=where, why=str(error)) from error

    def leave(self) -> None:
        """Part from the others."""
        if self.world > 1:
            dist.destroy_process_group()

    def agreed(self, *values: float) -> tuple[float, ...]:
        """The values of process 0, by whose clock and signals all go."""
        if self.world == 1:
            return values
        told = torch.tensor(values, dtype=torch.float64)
        if dist.get_backend() == "nccl":
            told = told.cuda()
        dist.broadcast(told, 0)
        return tuple(told.tolist())


def _first_machine() -> str:
    """The machine of process 0 under `srun`."""
    if os.environ.get("SLURM_STEP_NUM_NODES", "1") == "1":
        return "127.0.0.1"
    names = os.environ.get("SLURM_STEP_NODELIST", "")
    shown = subprocess.run(["scontrol", "show", "hostnames", names], capture_output=True, text=True, check=True)
    return shown.stdout.split()[0]

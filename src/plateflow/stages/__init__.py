"""The stages of the chain: one module per rule of the workflow, named as the rule and its script.

Each module of a plate's stages has `work_items(job)`, what there is to do in a job, and `run(job)`, which does it;
`screen` has `run(project)`. `runner` is what all jobs share, `script` how a rule's script calls a stage. The packages
below (plates, images, segment, ...) are libraries that know nothing of jobs.
"""

from importlib import import_module
from types import ModuleType

from plateflow.chain import stage_of
from plateflow.project import Plate


def stage_module(name: str) -> ModuleType:
    """The module of a stage; imported when it is needed, as some are heavy."""
    return import_module(f"plateflow.stages.{name}")


def run_stage(plate: Plate, stage: str, job: str | None = None, *, digest: str = "") -> None:
    """Run one job of a stage in this process, without Snakemake: with its lease, journal and receipt.

    Args:
        job: the job's name, such as `plate`, `3` or `3-0`; without it all jobs of the stage, one after another.
        digest: of what is asked of that one job; without it as the project is now.

    Raises:
        PlateflowError: there is no such stage or job, the configuration lacks it, another process has its lease, or
            what the stage itself raises.
    """
    from plateflow.stages.job import Job
    from plateflow.stages.runner import explain

    names = stage_of(plate.config, stage).jobs(plate.config) if job is None else [job]
    for each in [Job.of(plate, stage, name, digest) for name in names]:
        try:
            stage_module(stage).run(each)
        except OSError as error:  # from taking the lease: what comes later is explained already
            raise explain(error, plate.paths) from error

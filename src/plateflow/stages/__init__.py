"""The stages of the chain: one module per rule of the workflow, named as the rule and its script.

Each module has `units(context)`, what there is to do in a job, and `run(context)`, which does it.
"""

from importlib import import_module
from types import ModuleType


def stage_module(name: str) -> ModuleType:
    """The module of a stage; imported when it is asked for, as some are heavy."""
    return import_module(f"plateflow.stages.{name}")

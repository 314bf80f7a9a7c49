"""What all sections of the configuration share."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of the configuration: unknown keys are refused, values don't change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)

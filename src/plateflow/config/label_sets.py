"""The label sets of the configuration: those that the network makes, and those that are made from others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_serializer, field_validator, model_validator

from plateflow.config.rules import filter_conditions
from plateflow.config.section import Section, nearest, no_boolean


class Grown(Section):
    """How objects are made from those of another label set, each with the number of the one that it is made from."""

    model_config = ConfigDict(serialize_by_alias=True)
    source: str = Field(alias="from", description="the label set whose objects they are made from")

    _numbers = field_validator("um", "inner_um", "outer_um", "regularisation", mode="before", check_fields=False)(
        no_boolean
    )


class Expand(Grown):
    """Objects grown evenly, until they meet."""

    um: float = Field(8.0, gt=0, le=200, description="how far they grow, in micrometres")


class Propagate(Grown):
    """Objects grown through a stain as far as it shows cells, as CellProfiler's secondary objects are."""

    channels: list[Annotated[str, Field(min_length=1)]] = Field(
        min_length=1,
        max_length=3,
        description="the channels that show the cells: one of them is bright where a cell is, and borders run along "
        "changes of their mean",
    )
    regularisation: float = Field(
        0.05,
        ge=0.001,
        le=100,
        description="what a pixel of the way costs, where a step from the low to the high limit of the intensity "
        "window costs 1: the larger, the more borders follow distance, the smaller, the more the image",
    )

    @field_validator("channels")
    @classmethod
    def _each_once(cls, value: list[str]) -> list[str]:
        if len(set(value)) < len(value):
            raise ValueError("a channel is named twice: it would count twice in their mean")
        return value


class Ring(Grown):
    """A ring round each object, without all other objects."""

    inner_um: float = Field(1.0, ge=0, description="how far from the object it begins, in micrometres")
    outer_um: float = Field(4.0, gt=0, le=200, description="how far from the object it ends, in micrometres")

    @model_validator(mode="after")
    def _has_width(self) -> Ring:
        if self.outer_um <= self.inner_um:
            raise ValueError(f"outer_um ({self.outer_um:g}) must be greater than inner_um ({self.inner_um:g})")
        return self


class LabelSet(Section):
    """One kind of object: its channels, its size and how it is cut out; or how it is made from another label set.

    Of one that is made from another, `channels` are those that it needs, and the other settings mean nothing.
    """

    BLOCKS = ("expand", "propagate", "ring", "match")

    channels: list[str] = Field(
        [], description="channel names: first the one that shows the object, then those that help"
    )
    diameter_um: float | None = Field(
        None, gt=0, description="typical diameter in micrometres; empty: the image is not resized for the network"
    )
    diameter_px: float | None = Field(
        None, gt=0, description="the same in pixels, instead of diameter_um, where the pixel size is not known"
    )
    model: str = Field("default", description="name of a registered model, or a path to a weights file")
    cell_threshold: float = Field(0.0, ge=-15, le=15, description="logit above which a pixel belongs to an object")
    least_logit: float | None = Field(
        None,
        ge=-15,
        le=15,
        description="flow fields are stored where the logit is above this alone, so cell_threshold can't be lower; "
        "empty: as the model says, -2 if it doesn't; to lower it runs the network again",
    )
    flow_threshold: float = Field(
        0.4, ge=0, description="objects with a greater mean squared flow error are dropped; 0 keeps all"
    )
    min_size_px: int = Field(15, ge=0, description="objects with fewer pixels are dropped")
    dimensions: Literal[2, 3] = Field(
        2,
        description="3: objects extend through the z stack, which needs z: keep; 2: each plane by itself; equal in all "
        "label sets",
    )
    filter: dict[str, Any] = Field(
        {},
        description="objects that count, by border, area_um2, solidity or any column (config/README.md)",
        examples=[{"border": True, "area_um2": [40, 2000]}],
    )
    expand: Expand | None = Field(
        None,
        description="in place of all keys above but filter: objects of another label set, grown evenly until they meet",
    )
    propagate: Propagate | None = Field(
        None, description="in place of all keys above but filter: objects of another label set, grown through a stain"
    )
    ring: Ring | None = Field(
        None, description="in place of all keys above but filter: a ring round each object of another label set"
    )
    match: Literal["one_to_one"] | None = Field(
        None,
        description="one_to_one: the cell table has only pairs of an object of this label set and one of the rows' (of "
        "the rows' own: of nuclei); the well tables say what share has no partner",
    )

    @field_validator("channels", mode="before")
    @classmethod
    def _few(cls, value: Any) -> Any:
        if isinstance(value, list) and len(value) > 3:
            names = ", ".join(map(str, value))
            raise ValueError(f"{len(value)} channels ({names}) are too many: the network takes 1 to 3")
        return value

    @field_validator("filter")
    @classmethod
    def _can_be_read(cls, value: dict[str, Any]) -> dict[str, Any]:
        filter_conditions(value)
        return value

    @field_serializer("channels")
    def _given(self, value: list[str]) -> list[str]:
        return value if self.rule is None else []

    @model_validator(mode="after")
    def _network_or_rule(self) -> LabelSet:
        rules = [name for name in self.BLOCKS if isinstance(getattr(self, name), Grown)]
        if len(rules) > 1:
            raise ValueError(f"{' and '.join(rules)} are both given: a label set is made in one way")
        if not rules:
            if not self.channels:
                raise ValueError("it needs channels, or to be made from another label set by expand, propagate or ring")
            return self
        for name, field in type(self).model_fields.items():
            if name not in (*rules, "channels", "filter") and getattr(self, name) != field.get_default():
                why = "its objects have the numbers of those that they are made from" if name == "match" else ""
                why = why or "no network looks for its objects"
                raise ValueError(f"{name} means nothing beside {rules[0]}, as {why}: delete it")
        return self

    @property
    def rule(self) -> Grown | None:
        """How it is made from another label set; None of those that the network makes."""
        return self.expand or self.propagate or self.ring

    @model_validator(mode="after")
    def _one_diameter(self) -> LabelSet:
        if self.diameter_um is not None and self.diameter_px is not None:
            raise ValueError("diameter_um and diameter_px are both given: leave one of them empty")
        return self

    @property
    def thresholds(self) -> dict[str, Any]:
        """What decides which objects a flow field has, as the functions of `plateflow.flows` take it."""
        limits = {"cell_threshold": self.cell_threshold, "flow_threshold": self.flow_threshold}
        return {**limits, "min_size": self.min_size_px}


def first_source(grown: Mapping[str, Grown], label_set: str) -> str:
    """Whose numbers the objects of a label set bear: those of the one that it is made from in the end, or its own.

    Args:
        grown: how label sets are made from others, those left out whose labels were corrected by hand: they are no more
            as they were made.
    """
    return first_source(grown, grown[label_set].source) if label_set in grown else label_set


def evenly_grown(label_sets: Mapping[str, LabelSet], label_set: str) -> list[str]:
    """Those that are grown evenly one from the other until a label set is there, itself the last; none, where it is
    grown through a stain, or the network's.
    """
    rule = label_sets[label_set].rule
    return [*evenly_grown(label_sets, rule.source), label_set] if isinstance(rule, Expand | Ring) else []


def with_sources(label_sets: dict[str, LabelSet]) -> dict[str, LabelSet]:
    """Refuse rules whose source can't be; a label set that is made from another needs the channels of that, too."""
    known = {name: settings for name, settings in label_sets.items() if settings.rule is None}
    for name, settings in label_sets.items():
        if (rule := settings.rule) is None:
            continue
        if rule.source not in known:
            others = [each for each in label_sets if each in known and each != name]
            later = rule.source in label_sets
            what = "isn't made before it" if later else "is no label set"
            hint = nearest(rule.source, others, "there are")
            if later and rule.source != name:
                hint = "name its source above it"
            raise ValueError(f"{name!r} is made from {rule.source!r}, which {what}; {hint}")
        if known[rule.source].dimensions == 3:
            raise ValueError(
                f"{name!r} is made from {rule.source!r}, whose objects go through volumes (dimensions: 3): "
                "objects are made from others in planes alone"
            )
        own = rule.channels if isinstance(rule, Propagate) else []
        needed = list(dict.fromkeys([*own, *known[rule.source].channels]))
        if settings.channels:
            raise ValueError(f"{name!r} is made from {rule.source!r}: channels means nothing beside that: delete it")
        known[name] = settings.model_copy(update={"channels": needed})
    return {name: known[name] for name in label_sets}

"""Whether label sets fit their models. Loaded while the Snakefile is parsed, so it imports nothing heavy."""

from contextlib import suppress

from plateflow.config import Config, LabelSet
from plateflow.errors import ConfigError, ModelError
from plateflow.model import registry


def least_logit(label_set: LabelSet) -> float:
    """The bound of a label set's flow fields: nothing is stored where the logit is at or below it.

    Raises:
        ModelError: the bound is the model's, and there is no such model, or its header can't be read.
    """
    return registry.least_logit(label_set.model) if label_set.least_logit is None else label_set.least_logit


def check_label_sets(config: Config) -> None:
    """Refuse label sets that don't fit their models; infer says which models can't be used at all.

    Raises:
        ChannelError, ConfigError: as the next two.
    """
    check_channels(config)
    check_thresholds(config)


def check_channels(config: Config) -> None:
    """Refuse label sets with more channels than their models take.

    Raises:
        ChannelError: one has too many.
    """
    for name, label_set in config.segmented.items():
        remedy = "name the channel that shows the objects first, and fewer others"
        with suppress(ModelError):
            where = f"segmentation.{name}.channels"
            registry.check_channels(label_set.model, label_set.channels, where=where, remedy=remedy)


def check_thresholds(config: Config) -> None:
    """Refuse thresholds that need flows where none are stored; flow fields that aren't kept are whole.

    Raises:
        ConfigError: a `cell_threshold` is below the bound.
    """
    for name, label_set in config.segmented.items() if config.keep_flows else ():
        with suppress(ModelError):
            least, bound = label_set.cell_threshold, least_logit(label_set)
            if least < bound:
                whose = f"of model {label_set.model!r}" if label_set.least_logit is None else "least_logit"
                raise ConfigError(
                    f"cell_threshold is {least:g}, below the bound of stored flow fields, {bound:g} ({whose})",
                    where=f"segmentation.{name}.cell_threshold",
                    why="where the logit is at or below the bound nothing is stored: cells would be cut there",
                    remedy=f"set segmentation.{name}.least_logit to {least:g}, which runs the network again and stores "
                    f"more, or cell_threshold to {bound:g} or more",
                )

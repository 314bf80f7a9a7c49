"""Flow fields to labels and back: exact, in two and three dimensions, on arrays; knows nothing of plates."""

from plateflow.flows.blocks import Block, let_go, plan_blocks
from plateflow.flows.finish import Objects
from plateflow.flows.follow import follow_block, follow_flows
from plateflow.flows.labels import labels_from_ends, labels_from_flows
from plateflow.flows.quality import flow_error
from plateflow.flows.targets import flows_from_labels

__all__ = [
    "Block",
    "Objects",
    "flow_error",
    "flows_from_labels",
    "follow_block",
    "follow_flows",
    "labels_from_ends",
    "labels_from_flows",
    "let_go",
    "plan_blocks",
]

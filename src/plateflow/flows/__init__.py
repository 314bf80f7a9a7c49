"""Flow fields to labels and back: exact, in two and three dimensions, on arrays; independent of plates and jobs."""

from plateflow.flows.blocks import Block, cut_blocks, release_pages
from plateflow.flows.flow_error import flow_error
from plateflow.flows.follow import follow_block, follow_flows
from plateflow.flows.labels import Objects, labels_from_endpoints, labels_from_flows, segment_flow
from plateflow.flows.targets import flows_from_labels

__all__ = [
    "Block",
    "Objects",
    "cut_blocks",
    "flow_error",
    "flows_from_labels",
    "follow_block",
    "follow_flows",
    "labels_from_endpoints",
    "labels_from_flows",
    "release_pages",
    "segment_flow",
]

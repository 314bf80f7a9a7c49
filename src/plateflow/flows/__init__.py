"""Flow fields to labels and back: exact, in two and three dimensions, on arrays; knows nothing of plates."""

from plateflow.flows.targets import flows_from_labels

__all__ = ["flows_from_labels"]

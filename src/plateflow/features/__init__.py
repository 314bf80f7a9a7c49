"""Measurements of objects: one module a family, one row an object, columns as CellProfiler names them."""

from plateflow.features.feature import Feature
from plateflow.features.measure import column_features, measure

__all__ = ["Feature", "column_features", "measure"]

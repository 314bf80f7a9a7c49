"""The stage `ingest` by its first address; it makes the store too, so it lives in `images.ingest`."""

from plateflow.images.ingest import run, units

__all__ = ["run", "units"]

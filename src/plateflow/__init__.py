"""Plateflow: raw high-content plates in, segmented OME-Zarr, per-cell and per-well tables out."""

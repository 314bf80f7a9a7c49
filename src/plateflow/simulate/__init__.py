"""Simulated cells and plates with their truth: for the demo, the tests and the training of the small model.

Nothing here is imported by a stage of the pipeline, and the truth is written outside the plate's folder, so that a
simulated plate is treated as any other.
"""

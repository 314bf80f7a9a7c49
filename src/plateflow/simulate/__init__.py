"""Simulated cells and plates with their truth, for the demo, the tests and the training of the small model.

No stage of the pipeline imports this package, and the truth is written outside the plate's folder, so a simulated
plate is treated like any other.
"""

"""One self-contained page per plate, and one over all plates."""

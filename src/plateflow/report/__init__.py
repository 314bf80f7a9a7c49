"""One self-contained page a plate, and one over all plates."""

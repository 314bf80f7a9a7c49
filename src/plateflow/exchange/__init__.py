"""What other programs read and write: images with labels, there and back, and tables."""

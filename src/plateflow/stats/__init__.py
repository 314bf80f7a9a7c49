"""From cells to wells, controls and hits: flags, the well table, statistics; and the tables over all plates."""

"""The plate store, the placement of fields, illumination, histograms, and reading for the later stages."""

"""`plateflow view`: plates, wells and fields at any zoom, in a browser on this machine."""

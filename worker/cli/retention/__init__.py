"""`jobsworth retention`."""

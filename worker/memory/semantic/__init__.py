"""The offline embedder that compares meanings: the extra `semantic`."""

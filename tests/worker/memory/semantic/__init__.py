"""The offline semantic embedder."""

"""What the demo checks at its end, and the summary it prints."""

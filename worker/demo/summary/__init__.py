"""The demo's checks at its end, and the summary it prints."""

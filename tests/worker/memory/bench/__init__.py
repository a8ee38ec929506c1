"""Evidence recall."""

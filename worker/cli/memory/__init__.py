"""`jobsworth memory`, beyond the search."""

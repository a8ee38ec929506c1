"""The schema: its sources, and the revisions that bring an installed database to them."""

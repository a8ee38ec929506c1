"""Diagnosis, as an operator meets it."""

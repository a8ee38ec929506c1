"""Asking people, and telling other programs about it."""

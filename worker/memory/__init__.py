"""Embedding the texts that jobs remember, after those jobs have finished."""

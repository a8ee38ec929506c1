"""Consent: questions, votes, their consumption, and webhooks that tell of them."""

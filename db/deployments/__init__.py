"""Deployments and the environments they ship to."""

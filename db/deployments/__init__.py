"""Deployments and their environments.

Read in this order: deployments → environments → abandoned.
"""

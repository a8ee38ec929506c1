"""Approvals: questions to people, their votes, and the consumption of a yes.

Read in this order: questions → approvals → voting → consumption; beside them webhooks, which tell
other programs about approvals.
"""

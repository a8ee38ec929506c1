"""The books: each model call, the ledger, budgets, rate limits, prices.

Read in this order: calls → starts → settlements → ledger → days → books; beside them budgets,
limits, prices, repricing, amount.
"""

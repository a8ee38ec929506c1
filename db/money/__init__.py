"""The books: model calls, the ledger, budgets, rate limits and prices.

Read in this order: amount → calls → starts → settlements → ledger → days → books. Beside them:
budgets and limits (what refuses a call), prices and repricing (what it cost).
"""

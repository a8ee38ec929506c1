"""The pages for people: what needs them, and everything about each job, run and decision.

In: requests of a browser, after authentication. Out: HTML from the server, which works without
JavaScript; htmx renews it in place. Invariant: texts of models, users and tools are data on every
page, and each filter is in the address.
"""

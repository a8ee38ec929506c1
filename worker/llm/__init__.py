"""Agents inside jobs: pydantic-ai agents made durable, metered and approvable without a change.

In: an agent and a prompt. Out: what the agent returns. Invariant: each request to a model is a call
in the books and a recorded step, each tool call a step; so a replay goes the same way, and pays for
nothing twice.

A job's way: `agents` (one `job.agent`), `wrapper` (a request to a model), `stream` (the same, as it
comes), `failures` (what became of one that was not answered), `recorded` (what a replay reads),
`usage` (what a request may take, and took), `tools` (steps and approvals). Nothing here is imported
before the first `job.agent`: pydantic-ai takes a second to load.
"""

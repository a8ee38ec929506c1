"""Agents inside jobs: pydantic-ai agents made durable, metered and approvable without a change.

In: an agent and a prompt. Out: what the agent returns. Invariant: each request to a model is a call
in the books and a recorded step, and each tool call is a step; so a replay takes the same way, and
pays for nothing twice.

Read in this order: `agents` (one `job.agent`), `wrapper` (one request to a model), `stream` (a
streamed answer), `failures` (a request that was not answered), `recorded` (what a replay reads),
`usage` (tokens: the estimate and the count), `tools` (tool calls and their approvals). Except for
`choice`, `keys` and `options`, nothing here is imported before the first `job.agent`: pydantic-ai
takes a second to load.
"""

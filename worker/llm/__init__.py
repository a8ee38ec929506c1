"""Agents inside jobs: pydantic-ai agents made durable, metered and approvable without a change.

In: an agent and a prompt. Out: what the agent returns. Invariant: each request to a model is a call
in the books and a recorded step, and each tool call is a step; so a replay takes the same way, and
pays for nothing twice.

Read in this order: `agents` (one `job.agent`), `wrapper` (one request to a model), `connections`
and `turns` (ten thousand requests at once), `stream` (a streamed answer), `failures` (a request
that was not answered), `recorded` (what a replay reads), `usage` (tokens: the estimate and the
count), `media` (tokens of files), `classes` (what else providers charge for), `tools` (tool calls
and their approvals). Except for `choice`, `keys`, `options` and `turns`, nothing here is imported
before the first `job.agent`: pydantic-ai takes a second to load.

The capability is the innermost one and wraps the model beneath every wrapper and fallback, so each
request has its row. A tool call is a step, named by request, tool and place, never by the model's
ids. What the books would not see is refused: a request of an agent that a tool runs without the
job, and models whose SDK retries by itself. A request is hashed by parts, so an error names the
changed part, and another model of a fallback reads the record. A first run also goes on from what
was recorded, decoded, so it and a replay see the same bytes. An agent that gives up fails for good,
because its recorded answers would end the same way again.
"""

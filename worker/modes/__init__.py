"""The shipped modes. Importing this package registers their handlers.

A message becomes a `classify` job, which enqueues `answer` or `plan`; an approved plan becomes
`execute`; `remember` extracts memories from a thread. Read in this order: classify → answer → plan
→ execute → deploy, remember. Below them: conversation (what the model sees of a thread), requests
and model (asking the model), agents (the modes as pydantic-ai agents), plans (what a plan is),
plan_execution and toolset (carrying one out), extraction (what can be remembered), offline and
offline_model (the model that needs no provider), intents and statements (what a message wants and
states, by rules).

What people and memories say is content; memories are quoted as JSON, in which no text can end the
quotation. In `execute` the model proposes and the plan disposes: only the next approved step is
done. Steps are named by their number in the plan, so replays, retries and models that repeat
themselves do each once. A plan's values are shown as one visible line each, so none can pass for
another step.
"""

from worker.bulk.operation import bulk_operation
from worker.modes.answer import answer
from worker.modes.classify import classify
from worker.modes.deploy import deploy
from worker.modes.execute import execute
from worker.modes.plan import plan
from worker.modes.remember import remember

__all__ = ["answer", "bulk_operation", "classify", "deploy", "execute", "plan", "remember"]

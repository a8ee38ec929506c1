"""The four shipped modes, and `deploy`. Importing this package registers their handlers.

A message becomes a `classify` job, which enqueues `answer` or `plan`; an approved plan becomes
`execute`. Read in this order: classify → answer → plan → execute → deploy. Below them: conversation
(what the model sees of a thread), requests and model (asking the model), agents (the modes as
pydantic-ai agents), plans (what a plan is), plan_execution and toolset (carrying one out), offline
and offline_model (the model that needs no provider), intents (what a message wants, by rules).
"""

from worker.modes.answer import answer
from worker.modes.classify import classify
from worker.modes.deploy import deploy
from worker.modes.execute import execute
from worker.modes.plan import plan

__all__ = ["answer", "classify", "deploy", "execute", "plan"]

"""The four shipped modes, and `deploy`. Importing this package registers their handlers.

A message becomes a `classify` job, which enqueues `answer` or `plan`; an approved plan becomes
`execute`. Read in this order: classify → answer → plan → execute → deploy; below them model (the
seam to a language model), offline (the one that ships), intents (what a message wants), plans
(what a plan is) and conversation (what the model gets to see).
"""

from worker.agent.answer import answer
from worker.agent.classify import classify
from worker.agent.deploy import deploy
from worker.agent.execute import execute
from worker.agent.plan import plan

__all__ = ["answer", "classify", "deploy", "execute", "plan"]

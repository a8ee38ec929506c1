"""The four shipped modes, and `deploy`. Importing this package registers their handlers.

A message becomes a `classify` job, which enqueues `answer` or `plan`; an approved plan becomes
`execute`. Read in this order: classify → answer → plan → execute → deploy; below them model (the
seam to a language model), offline (the one that ships), intents (what a message wants), plans
(what a plan is) and conversation (what the model gets to see).
"""

from worker.modes.answer import answer
from worker.modes.classify import classify
from worker.modes.deploy import deploy
from worker.modes.execute import execute
from worker.modes.plan import plan

__all__ = ["answer", "classify", "deploy", "execute", "plan"]

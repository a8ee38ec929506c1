"""The demo: a conversation, two daemons, a kill, and a check of everything that came of it."""

from worker.demo.play import run
from worker.demo.provider.model import PRICED

__all__ = ["PRICED", "run"]

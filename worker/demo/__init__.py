"""The demo: a conversation, two daemons, a kill, and a check of everything that came of it."""

from worker.demo.model import PRICED
from worker.demo.play import run

__all__ = ["PRICED", "run"]

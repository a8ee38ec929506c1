"""The demo: a conversation, two daemons, a kill, and a check of everything that came of it."""

from worker.demo.play import run

__all__ = ["run"]

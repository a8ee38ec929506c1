"""The demo: a conversation, two daemons, one of them killed, and a check of all the results."""

from worker.demo.play import run
from worker.demo.provider.model import PRICED

__all__ = ["PRICED", "run"]

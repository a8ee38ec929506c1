"""Notes about environments where this machine disagrees with the database.

In: what differs, by environment. Out: a note on stderr for each.
"""

from worker.cli.terminal.output import say


def say_drift(drift: dict[str, str]) -> None:
    """Write a note for each environment."""
    for name, difference in drift.items():
        say(f"note: {name}: {difference}\n  → look what runs there; then deploy, or roll back")

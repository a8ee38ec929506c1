"""The garbage collector while a command starts.

Importing makes many objects and next to no garbage. With the usual thresholds the collector looked
through them again and again, which took a tenth of a short command's time (0.54 to 0.48 s).
"""

import gc

USUAL = gc.get_threshold()
OBJECTS = 50_000


def relax() -> None:
    """Let the collector look only after many new objects."""
    gc.set_threshold(OBJECTS)


def restore() -> None:
    """Go back to the usual thresholds, for a process that stays."""
    gc.set_threshold(*USUAL)

"""The command `jobsworth`, and `python -m jobsworth`.

In: the process's arguments. Out: its exit code. The command starts here and not in `worker.cli`,
because a user's own worker.py may be what `worker` means before `jobsworth` is imported.
"""

import sys


def main() -> int:
    """Run the command line of this process; returns its exit code."""
    from worker.cli import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())

"""The command line: `jobsworth …`, and `python -m worker.cli …`.

Stage: beside the daemon; what an operator does with an installation. In: arguments. Out: text for
people or one JSON document for programs on stdout, messages on stderr, and an exit code
(`exit_codes`). Read in this order: run → app → database → one module per subject → output.

Invariant: `app` knows every command's options and imports nothing else; what a command does, and
what that needs, is imported when it runs, so `jobsworth --help` stays fast.
"""


def main() -> int:
    """Run the command line of this process; returns its exit code."""
    from worker.cli.run import run

    return run()

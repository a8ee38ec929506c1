"""The command line: `jobsworth …`, and `python -m worker.cli …`.

Stage: beside the daemon; an operator's view of an installation. In: arguments. Out: text for people
or one JSON document for programs on stdout, messages on stderr, and an exit code
(`terminal.exit_codes`).

Read in this order: run (from arguments to exit code) → program (the table of commands) → one module
for each command. `nouns/` holds the commands about one thing (`jobsworth job list`),
`installation/` those about the whole installation (`jobsworth status`), `views/` how one job, run
or fork is printed, `terminal/` what all of them share.

Invariant: a command declares its arguments once, at its function, in the module of its noun. That
module is imported when the command is called, so `jobsworth --help` imports none of them.
"""

import os
import sys


def main() -> int:
    """Run the command line of this process; returns its exit code."""
    _open_standard_streams()
    try:
        from worker.cli.terminal import collector

        collector.relax()
        from worker.cli.run import run

        return run()
    except KeyboardInterrupt:  # while modules are imported
        return 130


# Python leaves out the streams whose files are closed (`>&-`), and the event loop ends the process
# if a file of its own takes one of their numbers.
def _open_standard_streams() -> None:
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115

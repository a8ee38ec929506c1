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


def main() -> int:
    """Run the command line of this process; returns its exit code."""
    from worker.cli.terminal import collector

    collector.relax()
    from worker.cli.run import run

    return run()

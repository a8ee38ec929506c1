"""`jobsworth worker` and `jobsworth demo`: what runs until it is done or told to stop.

In: settings, and the command line's overrides. Out: the exit code of what ran.
"""

import sys
from pathlib import Path
from typing import Any

from db.errors import InvalidInput
from worker import events
from worker.cli.database import run_async
from worker.cli.exit_codes import ExitCode
from worker.cli.output import say
from worker.log import configure_logging, get_logger
from worker.settings import Settings, SettingsError, load_settings


def run_worker(*, handlers: str | None, queues: str | None, slots: int | None) -> int:
    settings = _settings(handlers=handlers, queues=queues, slots=slots)
    configure_logging(settings.log_level, settings.log_format)
    # After the settings: a wrong one is told at once, not behind a second of imports.
    from worker.daemon import daemon

    return run_async(lambda: daemon.run(settings))


def run_demo(inbox: Path | None, *, shuffle: int | None, keep: bool, model: str | None) -> int:
    if inbox is not None and not inbox.is_file():
        raise InvalidInput(
            f"the conversation {inbox} does not exist",
            "name a file, or leave out --inbox for the shipped one",
        )
    settings = load_settings()
    from worker import demo

    code = run_async(lambda: demo.run(settings, inbox, shuffle, keep, model or demo.PRICED))
    if code == ExitCode.INTERRUPTED and not keep:
        say("interrupted; nothing of the demo is left")
    return code


def _settings(**overrides: Any) -> Settings:
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return load_settings(**given)
    except SettingsError as error:
        # For whoever collects log lines; a person gets the explanation alone.
        if not sys.stderr.isatty():
            configure_logging()
            problems = [str(problem) for problem in error.problems]
            get_logger().error(events.SETTINGS_REFUSED, problems=problems)
        raise

"""What `docs/settings.md` says, made of the settings; a test holds it to them.

In: the fields of `Settings`. Out: one page of Markdown.
"""

from __future__ import annotations

from tests.docs.errors import table
from tests.support import ROOT
from worker.settings import settings_reference

PAGE = ROOT / "docs" / "settings.md"
INTRODUCTION = """\
# Settings

`make docs` writes this page from the code; `jobsworth doctor --settings` prints the same.

Every setting is an environment variable, read once at the start. An empty one counts as unset. An
unknown name that begins with `JOBSWORTH_`, or a value that does not fit, ends the command with
exit code 2 and a list of all mistakes. `jobsworth doctor` tests what is set.

"""
# By the end of a name; what has no unit has a dash.
UNITS = {
    "_PER_SECOND": "lines a second",
    "_SECONDS": "seconds",
    "_SECONDS_MAX": "seconds",
    "_BYTES": "bytes",
    "_BYTES_MAX": "bytes",
    "_DAYS": "days",
    "_RECORD_CALLS": "days",
    "_TOKENS": "tokens",
}


def page() -> str:
    """The whole page."""
    return INTRODUCTION + table(
        ("name", "type", "default", "unit", "meaning"),
        (
            (f"`{each.env_name}`", each.type, each.default, unit(each.env_name), each.description)
            for each in settings_reference()
        ),
    )


def unit(name: str) -> str:
    """The unit of a setting's number."""
    fitting = (unit for ending, unit in UNITS.items() if name.endswith(ending))
    return next(fitting, "–")

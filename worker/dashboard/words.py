"""How values are written on a page: texts as data, times, amounts, documents.

In: values as the database has them. Out: text that is escaped where it stands (`finalize` is
applied to every expression of a template), or markup of our own. Invariant: no character of a value
steers the page: control characters and those that change the direction of writing are shown by
their number, and secrets are masked.
"""

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from markupsafe import Markup

from worker.cli.terminal import times
from worker.cli.terminal.output import STYLES, compact_json, indented_json
from worker.masking import mask, masked

DOCUMENT_CHARACTERS_MAX = 20_000
LINE_CHARACTERS_MAX = 200
ID_CHARACTERS = 12

# C0 without \t and \n, DEL, C1; marks of direction, of no width, of lines; byte order marks, tags.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e"
    "\u2060-\u2064\u2066-\u206f\ufeff"
    "\U000e0000-\U000e007f]"
)


def finalize(value: Any) -> Any:
    """What a template writes for a value; it is escaped afterwards."""
    if value is None:
        return ""
    if isinstance(value, Markup):
        return value
    if isinstance(value, str):
        return plain(value)
    return value


def plain(text: str) -> str:
    """`text` without secrets, its hidden characters shown by their numbers."""
    return _HIDDEN.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", mask(str(text)))


def document(value: Any) -> str:
    """A JSON value, or a text, over several lines; a very long one is cut."""
    text = value if isinstance(value, str) else indented_json(masked(value))
    if len(text) <= DOCUMENT_CHARACTERS_MAX:
        return text
    return f"{text[:DOCUMENT_CHARACTERS_MAX]}…\n({len(text):,} characters in all)"


def editable(value: Any) -> str | None:
    """A JSON value for a form to change; None where the page would not show all of it as it is:
    what comes back would be stars in place of a secret.
    """
    text = indented_json(value)
    return text if len(text) <= DOCUMENT_CHARACTERS_MAX and plain(text) == text else None


def line(value: Any) -> str:
    """A value in one short line."""
    text = value if isinstance(value, str) else compact_json(masked(value))
    text = " ".join(text.split())
    return text if len(text) <= LINE_CHARACTERS_MAX else text[: LINE_CHARACTERS_MAX - 1] + "…"


def ago(instant: datetime | None, now: datetime) -> Markup:
    """ "3 min ago", with the exact time for who points at it."""
    if instant is None:
        return Markup("")
    exact = f"{instant.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        instant.isoformat(), exact, times.ago(instant, now)
    )


def took(began: datetime | None, ended: datetime | None, now: datetime) -> str:
    """How long it took, or has taken until now."""
    return "" if began is None else times.span(((ended or now) - began).total_seconds())


def short(id: UUID | str) -> str:
    """The end of an id, which tells ids of the same millisecond apart."""
    return str(id)[-ID_CHARACTERS:]


def number(value: int | float | Decimal | None) -> str:
    """ "1,234"; empty for None."""
    if value is None:
        return ""
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}"


def money(value: Decimal | None, unknown: int = 0) -> str:
    """An amount in USD; "?" if none is known, "+" if some are not."""
    if value is None:
        return "?" if unknown else "0"
    digits = f"{value:,.2f}" if value == 0 or abs(value) >= 10 else f"{value.normalize():,f}"
    if "." in digits and len(digits.split(".")[1]) > 4:
        digits = f"{value:,.4f}" if abs(value) >= Decimal("0.001") else f"{value:,.7f}".rstrip("0")
    return digits + ("+" if unknown > 0 else "")


def price(value: Decimal | None) -> str:
    """What one call cost in USD; "?" if nobody knows."""
    return "?" if value is None else money(value)


def amount(value: Decimal, unit: str) -> str:
    """An amount of a budget: tokens, or USD."""
    return f"{value:,.0f}" if unit == "tokens" else money(value)


def size(count: int) -> str:
    """Bytes as "12 MB", in powers of 1,024 as PostgreSQL writes them."""
    value, unit = float(count), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1_024:
            break
        value, unit = value / 1_024, larger
    digits = 0 if unit == "bytes" or value >= 10 else 1
    return f"{value:,.{digits}f} {unit}"


def colour(status: str) -> str:
    """The class for a status: its colour in the terminal."""
    return "s-" + STYLES.get(status, "dim").rpartition(" ")[2]

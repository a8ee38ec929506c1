"""Charts as SVG: bars over time, a share of a whole, a span of time.

In: numbers. Out: markup of our own, drawn with attributes and classes alone, because the page's
policy forbids inline styles. Each has its numbers in words, for those who cannot see it.
"""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal

from markupsafe import Markup

WIDTH = 1_000
HEIGHT = 56
THIN = 4

Number = int | float | Decimal


def bars(values: Sequence[Number], titles: Sequence[str], colour: str, label: str) -> Markup:
    """A bar for each value, the highest as high as the chart; each has a title on hover."""
    highest = max([float(value) for value in values], default=0.0)
    width = WIDTH / max(1, len(values))
    parts = [
        _bar(place * width, width, float(value), highest, title, colour)
        for place, (value, title) in enumerate(zip(values, titles, strict=True))
    ]
    return Markup(
        '<svg class="chart" viewBox="0 0 {} {}" preserveAspectRatio="none" role="img"'
        ' aria-label="{}">{}</svg>'
    ).format(WIDTH, HEIGHT, label, Markup("").join(parts))


def _bar(
    left: float, width: float, value: float, highest: float, title: str, colour: str
) -> Markup:
    height = max(2.0, value / highest * HEIGHT) if value > 0 and highest else 1.0
    return Markup(
        '<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}">'
        "<title>{}</title></rect>"
    ).format(
        f"f-{colour}" if value > 0 else "f-line",
        left + width * 0.12,
        HEIGHT - height,
        width * 0.76,
        height,
        title,
    )


def share(part: Number, reserved: Number, whole: Number, label: str) -> Markup:
    """How much of a whole is used, and reserved beside it."""
    total = float(whole) or 1.0
    used = min(1.0, float(part) / total)
    held = min(1.0 - used, float(reserved) / total)
    colour = "red" if used + held >= 1 else "yellow" if used + held >= 0.8 else "green"
    return Markup(
        '<svg class="meter" viewBox="0 0 1000 8" preserveAspectRatio="none" role="img"'
        ' aria-label="{}"><rect class="f-line" width="1000" height="8" rx="4"/>'
        '<rect class="f-{}" width="{:.1f}" height="8" rx="4"/>'
        '<rect class="f-dim" x="{:.1f}" width="{:.1f}" height="8"/></svg>'
    ).format(label, colour, used * WIDTH, used * WIDTH, held * WIDTH)


def progress(part: Number, whole: Number, label: str) -> Markup:
    """How much of a whole is done."""
    width = min(1.0, float(part) / (float(whole) or 1.0)) * WIDTH
    return Markup(
        '<svg class="meter" viewBox="0 0 1000 8" preserveAspectRatio="none" role="img"'
        ' aria-label="{}"><rect class="f-line" width="1000" height="8" rx="4"/>'
        '<rect class="f-accent" width="{:.1f}" height="8" rx="4"/></svg>'
    ).format(label, width)


def spans(
    pieces: Sequence[tuple[datetime, datetime, str, str]], began: datetime, ended: datetime
) -> Markup:
    """One line of a timeline: pieces of time with their colours and titles."""
    whole = max((ended - began).total_seconds(), 0.001)
    parts: list[Markup] = []
    for start, end, colour, title in pieces:
        left = (start - began).total_seconds() / whole * WIDTH
        width = max(THIN, (end - start).total_seconds() / whole * WIDTH)
        parts.append(
            Markup(
                '<rect class="f-{}" x="{:.1f}" y="3" width="{:.1f}" height="12" rx="2">'
                "<title>{}</title></rect>"
            ).format(colour, min(left, WIDTH - THIN), width, title)
        )
    return Markup(
        '<svg class="time" viewBox="0 0 1000 18" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="f-line" y="8.5" width="1000" height="1"/>{}</svg>'
    ).format(Markup("").join(parts))


def mark(colour: str) -> Markup:
    """A square of a legend."""
    return Markup(
        '<svg viewBox="0 0 10 10" aria-hidden="true"><rect class="f-{}" width="10" height="10" '
        'rx="2"/></svg>'
    ).format(colour)


def parts(shares: Sequence[tuple[Number, str, str]]) -> Markup:
    """The parts of a sum of about one, side by side."""
    left, made = 0.0, Markup("")
    whole = max(1.0, sum(float(value) for value, _, _ in shares))
    for value, colour, title in shares:
        width = max(0.0, float(value)) / whole * WIDTH
        made += Markup(
            '<rect class="f-{}" x="{:.1f}" width="{:.1f}" height="8"><title>{}</title></rect>'
        ).format(colour, left, width, title)
        left += width
    return Markup(
        '<svg class="meter" viewBox="0 0 1000 8" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="f-line" width="1000" height="8" rx="4"/>{}</svg>'
    ).format(made)

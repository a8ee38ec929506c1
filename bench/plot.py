"""Two kinds of plot, as SVG written by hand: bars, and lines over rounds.

They follow the reader's light or dark scheme; Jobsworth's bar or line has the accent colour.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

# No wider, so that labels stay readable when it is scaled down to a telephone's width.
WIDTH = 480
PADDING = 16
TITLE_HEIGHT = 44
BAR_HEIGHT, BAR_STEP = 8, 36
LINES_HEIGHT = 260
LEGEND_COLUMNS, LEGEND_STEP = 2, 22
AXIS_WIDTH = 36
AXIS_HEIGHT = 52

# Plain classes, no CSS variables, which other viewers than browsers do not support.
STYLE = """
text { font: 14px system-ui, sans-serif; }
.title { font-weight: 600; }
.end { text-anchor: end; }
.middle { text-anchor: middle; }
.range { stroke-width: 1.5; }
polyline { fill: none; stroke-width: 2; stroke-linejoin: round; }
"""


@dataclass(frozen=True, slots=True)
class Colours:
    """One scheme; `series` begins with the accent, which is Jobsworth's."""

    ground: str
    text: str
    soft: str
    faint: str
    bar: str
    series: tuple[str, ...]

    def style(self) -> str:
        rules = [
            f".ground {{ fill: {self.ground}; }}",
            f"text {{ fill: {self.text}; }}",
            f".soft {{ fill: {self.soft}; }}",
            f".faint {{ stroke: {self.faint}; }}",
            f".range {{ stroke: {self.text}; }}",
            f".bar {{ fill: {self.bar}; }}",
            f".ours {{ fill: {self.series[0]}; }}",
            *(f".s{n} {{ stroke: {colour}; }}" for n, colour in enumerate(self.series)),
        ]
        return "\n".join(rules)


LIGHT = Colours(
    ground="#ffffff",
    text="#1f2328",
    soft="#57606a",
    faint="#d0d7de",
    bar="#afb8c1",
    series=(
        *("#0969da", "#bc4c00", "#1a7f37", "#8250df"),
        *("#bf3989", "#9a6700", "#57606a", "#1b7c83"),
    ),
)
DARK = Colours(
    ground="#0d1117",
    text="#e6edf3",
    soft="#8b949e",
    faint="#30363d",
    bar="#6e7681",
    series=(
        *("#4493f8", "#f0883e", "#3fb950", "#ab7df8"),
        *("#f778ba", "#d29922", "#8b949e", "#39c5cf"),
    ),
)
SCHEMES = f"{LIGHT.style()}\n@media (prefers-color-scheme: dark) {{\n{DARK.style()}\n}}\n"
SERIES_MAX = len(LIGHT.series)


@dataclass(frozen=True, slots=True)
class Bar:
    """A value with its range; `ours` gives it the accent."""

    label: str
    value: float
    low: float
    high: float
    words: str
    ours: bool


@dataclass(frozen=True, slots=True)
class Line:
    """One value per round."""

    label: str
    values: tuple[float, ...]


def bars(title: str, rows: Sequence[Bar]) -> str:
    """Horizontal bars from zero, each below its label and with a thin line over its range."""
    height = TITLE_HEIGHT + len(rows) * BAR_STEP + PADDING
    longest = max(row.high for row in rows) or 1
    return _svg(title, height, _bar_rows(rows, (WIDTH - 2 * PADDING) / longest))


def lines(title: str, series: Sequence[Line], across: str) -> str:
    """Lines over rounds, the vertical axis from zero; the first series has the accent."""
    shown = [line for line in series if line.values][:SERIES_MAX]
    legend_rows = math.ceil(len(shown) / LEGEND_COLUMNS)
    height = TITLE_HEIGHT + LINES_HEIGHT + AXIS_HEIGHT + legend_rows * LEGEND_STEP + PADDING
    return _svg(title, height, _line_parts(shown, across))


def _bar_rows(rows: Sequence[Bar], scale: float) -> Iterator[str]:
    for number, row in enumerate(rows):
        base = TITLE_HEIGHT + number * BAR_STEP + 14
        top = base + 6
        middle = top + BAR_HEIGHT / 2
        kind = "ours" if row.ours else "bar"
        yield _text(PADDING, base, row.label)
        yield _text(WIDTH - PADDING, base, row.words, "end")
        yield (
            f'<rect class="{kind}" x="{PADDING}" y="{top}" width="{row.value * scale:.1f}"'
            f' height="{BAR_HEIGHT}" rx="2"/>'
        )
        if row.high > row.low:
            low, high = PADDING + row.low * scale, PADDING + row.high * scale
            yield _rule("range", low, middle, high, middle)


def _line_parts(series: Sequence[Line], across: str) -> Iterator[str]:
    left, bottom = PADDING + AXIS_WIDTH, TITLE_HEIGHT + LINES_HEIGHT
    right = WIDTH - PADDING
    top_value = max(value for line in series for value in line.values) * 1.05
    rounds = max(len(line.values) for line in series)
    across_scale = (right - left) / max(1, rounds - 1)
    up_scale = LINES_HEIGHT / top_value
    for tick in _ticks(top_value):
        at = bottom - tick * up_scale
        yield _rule("faint", left, at, right, at)
        yield _text(left - 8, at + 4, f"{tick:,g}", "end soft")
    for tick in sorted({1, rounds, *range(5, rounds, 5)}):
        yield _text(left + (tick - 1) * across_scale, bottom + 18, str(tick), "middle soft")
    yield _text((left + right) / 2, bottom + 33, across, "middle soft")
    # Ours last, so that it lies on top.
    for number, line in reversed(tuple(enumerate(series))):
        points = " ".join(
            f"{left + place * across_scale:.1f},{bottom - value * up_scale:.1f}"
            for place, value in enumerate(line.values)
        )
        yield f'<polyline class="s{number}" points="{points}"/>'
        row, column = divmod(number, LEGEND_COLUMNS)
        begin = PADDING + column * (WIDTH - 2 * PADDING) / LEGEND_COLUMNS
        middle = bottom + AXIS_HEIGHT + (row + 0.5) * LEGEND_STEP
        yield f'<polyline class="s{number}" points="{begin},{middle} {begin + 20},{middle}"/>'
        yield _text(begin + 26, middle + 5, line.label)


def _ticks(top: float) -> list[float]:
    step = 10 ** math.floor(math.log10(top))
    for part in (5, 2, 1):
        if top / (step / part) <= 6:
            step /= part
            break
    return [number * step for number in range(int(top / step) + 1)]


def _svg(title: str, height: float, parts: Iterator[str]) -> str:
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"'
        f' width="{WIDTH}" height="{height}" role="img">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}{SCHEMES}</style>\n"
        f'<rect class="ground" width="{WIDTH}" height="{height}" rx="6"/>\n'
        f"{_text(PADDING, 25, title, 'title')}\n{body}\n</svg>\n"
    )


def _text(x: float, y: float, words: str, kind: str = "") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(words)}</text>'


def _rule(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'

"""Draws lines over time as SVG: panels one above the other on the same horizontal axis. Pure: numbers in, text out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Final
from xml.sax.saxutils import escape

WIDTH: Final = 800
PANEL_HEIGHT: Final = 180
LEFT, RIGHT, TOP, GAP, BOTTOM = 70, 20, 50, 40, 50
COLOURS: Final = ("#c0392b", "#2c6fbb", "#3a8f3a", "#8e5ea2", "#b8860b", "#555555")
"""Told apart also in grey and by most colour-blind people; lines after the last one start again with the first."""
TICKS_MAX: Final = 8


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """Points from left to right; where y is nan, the line is broken."""

    label: str
    points: Sequence[tuple[float, float]]


@dataclasses.dataclass(frozen=True, slots=True)
class Panel:
    title: str
    lines: Sequence[Line]


@dataclasses.dataclass(frozen=True, slots=True)
class _Scale:
    """Maps values to pixels."""

    low: float
    high: float
    from_px: float
    to_px: float

    def px(self, value: float) -> float:
        return self.from_px + (value - self.low) / (self.high - self.low) * (self.to_px - self.from_px)


def draw(title: str, x_title: str, panels: Sequence[Panel], marks: Sequence[tuple[float, str]] = ()) -> str:
    """Return an SVG document. `marks`: positions on the horizontal axis where a dashed line with a name is drawn."""
    height = TOP + len(panels) * (PANEL_HEIGHT + GAP) - GAP + BOTTOM
    xs = [x for panel in panels for line in panel.lines for x, _ in line.points] + [x for x, _ in marks]
    low, high = (min(xs), max(xs)) if xs else (0.0, 1.0)
    across = _Scale(low, high if high > low else low + 1.0, LEFT, WIDTH - RIGHT)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        _text(LEFT, 20, title, 'font-size="14" font-weight="bold"'),
    ]
    for number, panel in enumerate(panels):
        top = TOP + number * (PANEL_HEIGHT + GAP)
        parts += _panel(panel, across, top, marks, named=number == 0)
    bottom = height - BOTTOM
    parts += [_text(across.px(tick), bottom + 16, _number(tick), 'text-anchor="middle"') for tick in _ticks(across)]
    parts.append(_text(WIDTH / 2, bottom + 36, x_title, 'text-anchor="middle"'))
    return "\n".join([*parts, "</svg>", ""])


def _panel(
    panel: Panel, across: _Scale, top: float, marks: Sequence[tuple[float, str]], *, named: bool
) -> Iterator[str]:
    bottom = top + PANEL_HEIGHT
    values = [y for line in panel.lines for _, y in line.points if math.isfinite(y)]
    up = _Scale(0.0, max(values, default=0.0) * 1.05 or 1.0, bottom, top)
    yield _text(LEFT, top - 6, panel.title, 'font-weight="bold"')
    for tick in _ticks(up):
        y = up.px(tick)
        yield f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#dddddd"/>'
        yield _text(LEFT - 6, y + 4, _number(tick), 'text-anchor="end"')
    for x, label in marks:
        yield f'<path d="M{across.px(x):.1f} {top}V{bottom}" stroke="#888888" stroke-dasharray="4 3"/>'
        if named:
            yield _text(across.px(x) + 4, top + 12, label, 'fill="#555555"')
    end = float(WIDTH - RIGHT)
    for number, line in enumerate(panel.lines):
        colour = COLOURS[number % len(COLOURS)]
        yield f'<path d="{_path(line, across, up)}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
    for number, line in reversed(list(enumerate(panel.lines))):
        yield _text(end, top - 6, line.label, f'text-anchor="end" fill="{COLOURS[number % len(COLOURS)]}"')
        end -= 7 * len(line.label) + 14  # about the width of the label
    yield f'<path d="M{LEFT} {top}V{bottom}H{WIDTH - RIGHT}" fill="none" stroke="black"/>'


def _path(line: Line, across: _Scale, up: _Scale) -> str:
    steps: list[str] = []
    command = "M"
    for x, y in line.points:
        if not math.isfinite(y):
            command = "M"
            continue
        steps.append(f"{command}{across.px(x):.1f} {up.px(y):.1f}")
        if command == "M":
            steps.append("h0.1")  # a point between two gaps would otherwise not be seen
        command = "L"
    return "".join(steps)


def _ticks(scale: _Scale) -> list[float]:
    """Return round values within a scale: multiples of 1, 2 or 5 times a power of ten."""
    rough = (scale.high - scale.low) / TICKS_MAX
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.ceil(scale.low / step - 1e-9), math.floor(scale.high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{round(value, 9):g}"


def _text(x: float, y: float, text: str, attributes: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {attributes}>{escape(text)}</text>'

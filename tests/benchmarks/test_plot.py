"""benchmarks.plot: the drawings are SVG, and show what they were given."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from benchmarks import plot
from benchmarks.plot import LEFT, PANEL_HEIGHT, RIGHT, TOP, WIDTH, Line, Panel

SVG = "{http://www.w3.org/2000/svg}"


def texts(drawing: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(drawing).iter(f"{SVG}text")]


def coloured(drawing: str, colour: str) -> str:
    """Return the path of the line with this colour."""
    paths = ElementTree.fromstring(drawing).iter(f"{SVG}path")
    return next(path.attrib["d"] for path in paths if path.attrib.get("stroke") == colour)


def test_titles_labels_and_marks_are_written_and_escaped() -> None:
    panel = Panel("calls <per> s", [Line("a & b", [(0, 1), (1, 2)])])

    found = texts(plot.draw('say "hello" & <go>', "seconds", [panel], [(0.5, "killed")]))

    assert {'say "hello" & <go>', "calls <per> s", "a & b", "killed", "seconds"} <= set(found)


def test_the_first_and_last_value_lie_at_the_edges_and_zero_at_the_bottom() -> None:
    path = coloured(plot.draw("", "", [Panel("", [Line("", [(-1, 0), (2, 100)])])]), plot.COLOURS[0])

    numbers = [float(number) for number in re.findall(r"\d+\.\d", path)]
    assert numbers[:2] == [LEFT, TOP + PANEL_HEIGHT]
    assert numbers[-2] == WIDTH - RIGHT
    assert TOP < numbers[-1] < TOP + 0.1 * PANEL_HEIGHT


def test_a_line_is_broken_where_there_is_no_value() -> None:
    points = [(0, 1), (1, 2), (2, math.nan), (3, math.nan), (4, 1), (5, math.inf), (6, 3)]

    path = coloured(plot.draw("", "", [Panel("", [Line("", points)])]), plot.COLOURS[0])

    assert (path.count("M"), path.count("L")) == (3, 1)
    assert "nan" not in path
    assert "inf" not in path


@pytest.mark.parametrize("points", [[], [(0, 0)], [(3, 0), (3, 0)], [(0, math.nan)], [(0, 1e-9), (1, 2e12)]])
def test_whatever_is_given_there_is_a_drawing(points: list[tuple[float, float]]) -> None:
    drawing = plot.draw("", "", [Panel("one", [Line("x", points)]), Panel("two", [])])

    assert "nan" not in drawing
    assert texts(drawing)


def test_ticks_are_round_and_within_the_axis() -> None:
    found = texts(plot.draw("", "seconds", [Panel("", [Line("", [(-0.5, 0), (1.5, 8_000)])])]))

    assert {"-0.5", "0", "0.5", "1", "1.5"} <= set(found)
    assert {"2,000", "8,000"} <= set(found)

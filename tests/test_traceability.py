"""Keeps the catalogue and the tests together: every cited id exists, and every case said to be shown has its test."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

from protocol import limits
from tests.cases import CASES, SHOWN
from tests.catalogue import rows
from tests.promises import NOT_YET_SHOWN, PROMISES

TESTS = Path(__file__).parent


def cited_by(source: str) -> set[tuple[str, str]]:
    """Return (marker, id) for every `mark.case("...")` and `mark.promise("...")` in a test file."""
    found: set[tuple[str, str]] = set()
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ("case", "promise")
        ):
            holder = node.func.value
            if isinstance(holder, ast.Attribute) and holder.attr == "mark":
                found.update((node.func.attr, ast.literal_eval(argument)) for argument in node.args)
    return found


def citations(marker: str) -> dict[str, list[str]]:
    """Return the test files that cite each id."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for path in sorted(TESTS.rglob("test_*.py")):
        for kind, cited in cited_by(path.read_text(encoding="utf-8")):
            if kind == marker:
                found[cited].append(path.relative_to(TESTS).as_posix())
    return dict(found)


def test_citations_are_found_however_the_marker_is_put_on():
    source = """
import pytest
pytestmark = pytest.mark.promise("R15")
@pytest.mark.case("A-01", "A-02")
@pytest.mark.parametrize("size", [pytest.param(1, marks=pytest.mark.case("A-03"))])
def test_it(size): ...
"""

    assert cited_by(source) == {("promise", "R15"), ("case", "A-01"), ("case", "A-02"), ("case", "A-03")}


def test_the_catalogue_is_complete_and_numbered_without_gaps():
    numbers = {family: [case.id for case in CASES.values() if case.family == family] for family in "ABCD"}

    assert {family: len(ids) for family, ids in numbers.items()} == {"A": 30, "B": 35, "C": 32, "D": 32}
    for family, ids in numbers.items():
        assert ids == [f"{family}-{number:02}" for number in range(1, len(ids) + 1)]
    assert list(PROMISES) == [f"R{number:02}" for number in range(1, 25)]


def test_every_case_says_what_happens_and_on_which_level_it_is_shown():
    for case in CASES.values():
        assert case.stimulus, case.id
        assert case.outcome, case.id
        assert case.levels, case.id
        assert case.levels <= set("uspf"), case.id
    for promise in PROMISES.values():
        assert promise.text, promise.id
        assert promise.number, promise.id
        assert promise.source, promise.id


@pytest.mark.parametrize(("marker", "known"), [("case", CASES), ("promise", PROMISES)])
def test_every_cited_id_exists(marker: str, known: dict[str, object]):
    unknown = {cited: files for cited, files in citations(marker).items() if cited not in known}

    assert not unknown, f"not in docs/reliability.md: {unknown}"


def test_every_case_said_to_be_shown_has_a_test():
    assert set(CASES) >= SHOWN
    untested = sorted(SHOWN - set(citations("case")))

    assert not untested, f"no test cites {', '.join(untested)}; write one, with @pytest.mark.case"


def test_every_promise_has_a_test_or_a_reason_why_not():
    untested = sorted(set(PROMISES) - set(citations("promise")) - set(NOT_YET_SHOWN))

    assert not untested, f"no test cites {', '.join(untested)}; write one, with @pytest.mark.promise"


def test_a_promise_that_has_a_test_is_not_called_untested():
    assert set(PROMISES) >= set(NOT_YET_SHOWN)
    tested = sorted(set(NOT_YET_SHOWN) & set(citations("promise")))

    assert not tested, f"{', '.join(tested)} has a test now: take it out of NOT_YET_SHOWN in tests/promises.py"


def test_the_bounds_on_the_page_are_those_in_the_code():
    units = {"": 1, "bytes": 1, "s": 1, "KiB": limits.KIB, "KiB/s": limits.KIB, "MiB": limits.MIB, "%": 0.01}
    stated = {
        constant.strip("`"): float(match[1]) * units[match[2]]
        for _, value, constant in (cells for cells in rows(r"[^`]+") if len(cells) == 3)
        if (match := re.fullmatch(r"(\d+) ?(\S*)", value)) and constant.startswith("`")
    }

    assert len(stated) > 20
    assert stated == {name: getattr(limits, name, None) for name in stated}

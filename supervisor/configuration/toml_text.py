"""Read TOML: the standard library's parser for the values, and a second look for the lines, which it does not tell."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator
from typing import Final, cast

from supervisor.configuration.document import TextError
from supervisor.configuration.problems import Path

STATEMENT_LINES_MAX: Final = 200
"""A value that goes on for longer is given up on: what follows is told by its table's line."""
_PLACE: Final = re.compile(r"\s*\((?:at line (\d+), column \d+|at end of document)\)$")


def read(text: str) -> tuple[object, Callable[[Path], int]]:
    """Return the values and where they are. Errors: `TextError`."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        place = _PLACE.search(message)
        line = int(place[1]) if place and place[1] else text.count("\n") + 1
        raise TextError(line, _PLACE.sub("", message)) from None
    return values, _Lines(text).line_of


class _Lines:
    """Looks for lines only when the first is asked for, which is when something is wrong."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._found: dict[Path, int] | None = None

    def line_of(self, path: Path) -> int:
        if self._found is None:
            self._found = {}
            for where, line in _statements(self._text):
                for length in range(1, len(where) + 1):
                    self._found.setdefault(where[:length], line)
        return self._found.get(path, 0)


def _statements(text: str) -> Iterator[tuple[Path, int]]:
    """Yield each key that the text gives a value, with the line where that begins.

    A statement is over as soon as the parser takes it by itself, so strings and lists of many lines cannot deceive.
    """
    table: Path = ()
    counts: dict[Path, int] = {}
    lines = text.split("\n")
    at = 0
    while at < len(lines):
        start = at
        statement, at = _statement(lines, at)
        if statement is None:
            continue
        header = lines[start].lstrip().startswith("[")
        keys = list(_keys(statement, header=header))
        if header:
            table = keys[0]
            if lines[start].lstrip().startswith("[["):
                count = counts[table] = counts.get(table, -1) + 1
                table = (*table, count)
            yield table, start + 1
        else:
            for key in keys:
                yield (*table, *key), start + 1


def _statement(lines: list[str], at: int) -> tuple[dict[str, object] | None, int]:
    """Return the statement that begins in this line, None if none does, and the line after it."""
    for end in range(at + 1, min(at + STATEMENT_LINES_MAX, len(lines)) + 1):
        try:
            return tomllib.loads("\n".join(lines[at:end])) or None, end
        except tomllib.TOMLDecodeError:
            continue
    return None, at + 1


def _keys(values: dict[str, object], *, header: bool) -> Iterator[Path]:
    """Yield the path of each value; of a table's header, the path of the table."""
    for key, value in values.items():
        inner = cast("list[dict[str, object]]", value)[0] if header and isinstance(value, list) else value
        if isinstance(inner, dict) and inner:
            for rest in _keys(cast("dict[str, object]", inner), header=header):
                yield (key, *rest)
        else:
            yield (key,)

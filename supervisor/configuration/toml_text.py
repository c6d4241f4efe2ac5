"""Read TOML: the standard library's parser for the values, and a second look for the lines, which it does not tell."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
            for statement in _statements(self._text):
                for where in statement.paths:
                    for length in range(1, len(where) + 1):
                        self._found.setdefault(where[:length], statement.start + 1)
        return self._found.get(path, 0)


@dataclass(frozen=True, slots=True)
class _Statement:
    """A table's header, or a key with its value. Lines count from 0; `end` is the one after the last."""

    paths: list[Path]
    """What it gives a value; of a header, the table."""
    start: int
    end: int
    is_header: bool


def _statements(text: str) -> Iterator[_Statement]:
    """Yield the statements of a text that is TOML.

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
        is_header = lines[start].lstrip().startswith("[")
        keys = list(_keys(statement, header=is_header))
        if not is_header:
            yield _Statement([(*table, *key) for key in keys], start, at, is_header=False)
            continue
        table = keys[0]
        if lines[start].lstrip().startswith("[["):
            count = counts[table] = counts.get(table, -1) + 1
            table = (*table, count)
        yield _Statement([table], start, at, is_header=True)


def without(text: str, path: Path) -> str:
    """Return the text without the statements about what is below this path; only comments between those go, too.

    The caller has to see whether the text still means what it should.
    """
    lines = text.split("\n")
    kept = [True] * len(lines)
    last_end = 0
    """Of the statement before, if it is left out and belongs to the same table."""
    for statement in _statements(text):
        leaves = all(one[: len(path)] == path for one in statement.paths)
        if leaves:
            begin = last_end if last_end and not statement.is_header else statement.start
            kept[begin : statement.end] = [False] * (statement.end - begin)
        last_end = statement.end if leaves else 0
    return "\n".join(line for line, keep in zip(lines, kept, strict=True) if keep)


def _statement(lines: list[str], at: int) -> tuple[dict[str, object] | None, int]:
    """Return the statement that begins in this line, None if none does, and the line after it."""
    for end in range(at + 1, min(at + STATEMENT_LINES_MAX, len(lines)) + 1):
        try:
            return tomllib.loads("\n".join(lines[at:end]).replace("\r", "")) or None, end
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

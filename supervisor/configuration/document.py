"""A configuration file's text as plain values, each with the line it stands in. Pure; each format has a file."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast

from supervisor.configuration.problems import ConfigFileError, Path, Problem, WholeFileError, problem

DEPTH_MAX: Final = 32
VALUES_MAX: Final = 100_000
"""YAML can name a value many times over; a file of a page can mean gigabytes."""
_DEEP: Final = f"is nested more than {DEPTH_MAX} levels deep"


class Format(enum.Enum):
    TOML = "TOML"
    YAML = "YAML"
    JSON = "JSON"


_SUFFIXES: Final = {
    ".toml": Format.TOML,
    ".yaml": Format.YAML,
    ".yml": Format.YAML,
    ".json": Format.JSON,
    ".jsonc": Format.JSON,
}


class TextError(ValueError):
    """The text is not of its format. `line` counts from 1; the message repeats none of it that could be a secret."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.line = line


class _ShapeError(ValueError):
    """The values are not such as a configuration has."""

    def __init__(self, path: Path, text: str) -> None:
        super().__init__(text)
        self.path = path


@dataclass(frozen=True, slots=True)
class Document:
    file: str
    """As messages name it."""
    format: Format
    values: dict[str, object]
    """dict, list, str, int, float, bool and None only; TOML's dates are texts."""
    line_of: Callable[[Path], int]
    """The line of a value, or that of the nearest one around it whose line is known."""

    def problem(self, path: Path, text: str) -> Problem:
        return problem(self.line_of(path), path, text)


def format_of(file: str, text: str = "") -> Format:
    """Return the format that the file's name says; of one that says none, what the text looks like."""
    for suffix, known in _SUFFIXES.items():
        if file.lower().endswith(suffix):
            return known
    return Format.JSON if text.lstrip().startswith("{") else Format.TOML


def parse(file: str, text: str) -> Document:
    """Return what the text says. Errors: `ConfigFileError`."""
    known = format_of(file, text)
    try:
        values, places = _reader(known)(text)
    except TextError as error:
        raise ConfigFileError(file, [problem(error.line, (), f"this is no {known.value}: {error}")]) from None
    except RecursionError:
        raise WholeFileError(file, _DEEP) from None
    if not isinstance(values, dict):
        raise WholeFileError(file, 'holds no keys; write for example: [servers.main] and below it url = "..."')
    line_of = _nearest(places)
    try:
        plain = _plain(cast("object", values), (), DEPTH_MAX, [VALUES_MAX])
    except _ShapeError as error:
        raise ConfigFileError(file, [problem(line_of(error.path), error.path, str(error))]) from None
    return Document(file, known, cast("dict[str, object]", plain), line_of)


def _reader(known: Format) -> Callable[[str], tuple[object, Callable[[Path], int]]]:
    # A reader costs 10 to 40 ms to load, and nobody needs all three.
    if known is Format.TOML:
        from supervisor.configuration import toml_text

        return toml_text.read
    if known is Format.YAML:
        from supervisor.configuration import yaml_text

        return yaml_text.read
    from supervisor.configuration import json_text

    return json_text.read


def _plain(value: object, path: Path, depth: int, budget: list[int]) -> object:
    """Return a copy of plain types, however the reader's own are made. Errors: `_ShapeError`."""
    budget[0] -= 1
    if budget[0] < 0:
        raise _ShapeError(path[:2], f"means more than {VALUES_MAX} values")
    if depth < 0:
        raise _ShapeError(path[:2], _DEEP)
    if isinstance(value, dict):
        copy: dict[str, object] = {}
        for key, item in cast("dict[object, object]", value).items():
            if not isinstance(key, str):
                raise _ShapeError(path, "has a key that is no text; put it into quotes")
            copy[str(key)] = _plain(item, (*path, str(key)), depth - 1, budget)
        return copy
    if isinstance(value, list):
        items = enumerate(cast("list[object]", value))
        return [_plain(item, (*path, at), depth - 1, budget) for at, item in items]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    return float(value) if isinstance(value, float) else str(value)


def _nearest(line_of: Callable[[Path], int]) -> Callable[[Path], int]:
    def nearest(path: Path) -> int:
        for length in range(len(path), 0, -1):
            if line := line_of(path[:length]):
                return line
        return 0

    return nearest

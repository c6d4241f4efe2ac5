"""Read JSON, also with the comments and trailing commas that editors' settings have. Duplicate keys are refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Final, NoReturn

from supervisor.configuration.document import TextError
from supervisor.configuration.problems import Path

_TOKEN: Final = re.compile(
    r"""(?P<string>"(?:[^"\\\n]|\\.)*")|(?P<comment>//[^\n]*|/\*.*?\*/)|(?P<mark>[{}\[\],:])"""
    r"""|(?P<space>\s+)|(?P<other>[^\s"{}\[\],:/]+|.)""",
    re.DOTALL,
)


def read(text: str) -> tuple[object, Callable[[Path], int]]:
    """Return the values and where they are. Errors: `TextError`."""
    plain = without_comments(text)
    try:
        values: object = json.loads(plain, object_pairs_hook=_object, parse_constant=_no_constant)
    except _Duplicate as error:
        raise TextError(_line_of_duplicate(plain), f"the key {_shown(error.key)} is there twice") from None
    except json.JSONDecodeError as error:
        raise TextError(error.lineno, error.msg) from None
    except ValueError:
        raise TextError(0, "it has a number that nobody can read") from None
    found = dict(_places(plain))
    return values, lambda path: found.get(path, 0)


def has_comments(text: str) -> bool:
    return any(match.lastgroup == "comment" for match in _TOKEN.finditer(text))


def without_comments(text: str) -> str:
    """Return the text as strict JSON, each line where it was."""
    pieces: list[str] = []
    comma = -1
    """Where among the pieces the last comma is, if nothing but space came after it."""
    for match in _TOKEN.finditer(text):
        piece = match[0]
        if match.lastgroup == "comment":
            piece = "\n" * piece.count("\n")
        elif match.lastgroup != "space":
            if piece in "]}" and comma >= 0:
                pieces[comma] = ""
            comma = len(pieces) if piece == "," else -1
        pieces.append(piece)
    return "".join(pieces)


class _Duplicate(ValueError):
    def __init__(self, key: str) -> None:
        super().__init__()
        self.key = key


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise _Duplicate(key)
        found[key] = value
    return found


def _no_constant(text: str) -> NoReturn:
    raise ValueError(text)


def _shown(key: str) -> str:
    return ascii(key if len(key) <= 80 else key[:77] + "...")


def _line_of_duplicate(text: str) -> int:
    seen: set[Path] = set()
    for path, line in _places(text):
        if path in seen:
            return line
        seen.add(path)
    return 0


def _places(text: str) -> Iterator[tuple[Path, int]]:
    """Yield the path and line of each member and item of a text that is JSON."""
    line = 1
    path: list[str | int] = []
    """The key or position that is current at each level; of an object before its first key, ""."""
    wants_key = False
    for match in _TOKEN.finditer(text):
        piece = match[0]
        line_here = line
        line += piece.count("\n")
        if match.lastgroup == "space":
            continue
        if wants_key and match.lastgroup == "string":
            path[-1] = json.loads(piece)
            wants_key = False
            yield tuple(path), line_here
            continue
        match piece:
            case "{":
                path.append("")
                wants_key = True
            case "[":
                path.append(0)
                yield tuple(path), line_here
            case "}" | "]":
                path.pop()
                wants_key = False
            case ",":
                last = path[-1]
                wants_key = isinstance(last, str)
                if isinstance(last, int):
                    path[-1] = last + 1
                    yield tuple(path), line_here
            case _:
                pass

"""Read YAML 1.2 (`yes` is a text, and no tag makes an object). Duplicate keys are refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, Final, cast

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from supervisor.configuration.document import DEPTH_MAX, VALUES_MAX, TextError
from supervisor.configuration.problems import Path

_DUPLICATE: Final = re.compile(r'found duplicate key "?([A-Za-z0-9_.-]{1,80})"? ')


BRACKETS_MAX: Final = 100
"""Open at a time. The parser takes a time for them that grows with the square: three thousand take eight seconds."""


def editor() -> Any:  # ruamel's own methods are only partly typed
    """Return what reads and writes while keeping comments, order and quotes."""
    yaml = YAML(typ="rt")
    yaml.preserve_quotes = True
    yaml.width = 10_000  # it would otherwise fold what the user has written in one line
    return yaml


def read(text: str) -> tuple[object, Callable[[Path], int]]:
    """Return the values and where they are. Errors: `TextError`."""
    if _open_brackets(text) > BRACKETS_MAX:
        raise TextError(0, "it opens more brackets than anybody needs")
    try:
        values: object = editor().load(text)
    except DuplicateKeyError as error:
        # Its message has the values in it, which may be secrets.
        key = _DUPLICATE.match(str(cast("Any", error).problem))
        name = f"the key {key[1]!r}" if key else "a key"
        raise TextError(_line(error), f"{name} is there twice") from None
    except MarkedYAMLError as error:
        raise TextError(_line(error), _told(error)) from None
    except (YAMLError, ValueError):
        raise TextError(0, "it cannot be read") from None
    found: dict[Path, int] = {}
    for count, (path, line) in enumerate(_places(values, ())):
        if count > VALUES_MAX:
            break  # document.py refuses it
        found[path] = line
    return values, lambda path: found.get(path, 0)


def _open_brackets(text: str) -> int:
    most = now = 0
    for match in re.finditer(r"[\[{]|[\]}]", text):
        now = now + 1 if match[0] in "[{" else max(0, now - 1)
        most = max(most, now)
    return most


def _line(error: MarkedYAMLError) -> int:
    fault = cast("Any", error)
    mark = fault.problem_mark or fault.context_mark
    return int(mark.line) + 1 if mark is not None else 0


def _told(error: MarkedYAMLError) -> str:
    """Return what is wrong without what was found, which may be (half of) a secret."""
    fault = cast("Any", error)
    problem = str(fault.problem or fault.context or "it cannot be read")
    return re.sub(r"""(['"]).*\1""", "...", problem.split("\n")[0])


def _places(value: object, path: Path) -> Iterator[tuple[Path, int]]:
    if len(path) > DEPTH_MAX:
        return
    if isinstance(value, CommentedMap):
        members = cast("Any", value)
        for key in members:
            place = members.lc.data.get(key) if members.lc.data else None  # what "<<" merges in has no place of its own
            if place:
                yield (*path, key), place[0] + 1
            yield from _places(members[key], (*path, key))
    elif isinstance(value, CommentedSeq):
        for at, item in enumerate(cast("Any", value)):
            place = cast("Any", value).lc.data.get(at) if cast("Any", value).lc.data else None
            if place:
                yield (*path, at), place[0] + 1
            yield from _places(item, (*path, at))


def without(text: str, line: int, indent: int) -> str:
    """Return the text without the member that begins in this line (from 1), and with the comments around it.

    `indent`: of its key. The caller has to see whether the text still means what it should.
    """
    lines = text.split("\n")
    end = line
    for at in range(line, len(lines)):
        content = lines[at].lstrip(" ")
        if content and not content.startswith("#"):
            if len(lines[at]) - len(content) <= indent:
                break
            end = at + 1
    return "\n".join(lines[: line - 1] + lines[end:])

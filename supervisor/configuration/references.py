"""Secrets by reference: `${env:NAME}`, `${file:PATH}` and `${keyring:service/user}` in a text. Pure.

Settings hold the references; what they stand for is looked up only when a worker is told its orders (lookup.py), so a
value is in no list, log or file of ours. `$${` stands for `${` itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from supervisor.config import ConfigError

KINDS: Final = ("env", "file", "keyring")
REFERENCES_MAX: Final = 16
"""In one text."""
_MARK: Final = re.compile(r"\$\$\{|\$\{([^{}]*)(\}?)")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_SYNTAX: Final = "write ${env:NAME}, ${file:/path} or ${keyring:service/user}, or $${ for the characters themselves"


@dataclass(frozen=True, slots=True)
class Reference:
    kind: str
    """One of `KINDS`."""
    what: str
    """A variable's name, an absolute path (or one that begins with ~/), or "service/user"."""

    def __str__(self) -> str:
        return f"${{{self.kind}:{self.what}}}"


LookUp = Callable[[Reference], str]
"""Returns what a reference stands for. Errors: `ConfigError` that names the reference, never the value."""


def references(text: str) -> tuple[Reference, ...]:
    """Return the references in the text. Errors: `ConfigError` if something looks like one and is none."""
    found = tuple(part for part in _parts(text) if isinstance(part, Reference))
    if len(found) > REFERENCES_MAX:
        raise ConfigError(f"has more than {REFERENCES_MAX} references")
    return found


def resolved(text: str, look_up: LookUp) -> str:
    """Return the text with the values in place of the references. Errors: those of `look_up`."""
    return "".join(look_up(part) if isinstance(part, Reference) else part for part in _parts(text))


def resolved_url(url: str, look_up: LookUp) -> str:
    """Return a URL with the values, percent-encoded, in place of the references in its query."""
    return resolved(url, lambda reference: quote(look_up(reference), safe=""))


def literal(text: str) -> str:
    """Return how to write the text so that nothing in it is a reference."""
    return text.replace("${", "$${")


def check_url_references(url: str) -> None:
    """Refuse references outside of the query: the rest of a URL is shown in messages."""
    path, _, _ = url.partition("?")
    references(url)
    if references(path):
        raise ConfigError("may have references after its '?' only; host and path are shown in messages")


def _parts(text: str) -> Iterator[str | Reference]:
    end = 0
    for match in _MARK.finditer(text):
        yield text[end : match.start()]
        end = match.end()
        yield "${" if match[1] is None else _reference(match[1], closed=bool(match[2]))
    yield text[end:]


def _reference(inner: str, *, closed: bool) -> Reference:
    kind, colon, what = inner.partition(":")
    if not closed:
        raise ConfigError(f"has a reference without its '}}'; {_SYNTAX}")
    if not colon and _NAME.fullmatch(inner):
        raise ConfigError(f"has ${{{inner}}}; write ${{env:{inner}}}")
    if kind not in KINDS or not colon:
        raise ConfigError(f"has a reference of an unknown kind; {_SYNTAX}")
    fault = ""
    if kind == "env" and not _NAME.fullmatch(what):
        fault = "a variable's name has letters, digits and '_'"
    elif kind == "file" and (not what.startswith(("/", "~/")) or "\0" in what):
        fault = "the path must begin with / or ~/"
    elif kind == "keyring" and not all(what.partition("/")[::2]):
        fault = "name service and user, with a / between them"
    if fault:
        raise ConfigError(f"has a ${{{kind}:...}} that cannot be looked up: {fault}")
    return Reference(kind, what)

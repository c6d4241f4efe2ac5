"""Render log lines: one line each, never longer than its bound, nothing in it that acts on a terminal, no secrets.

Text from clients and servers ends up in logs, so all of it is taken for hostile: a line break would forge a line, an
escape sequence would drive the reader's terminal, a bidirectional mark would turn the text around. Pure, and shared by
the root and the workers; each has its own way of writing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec

HUMAN_LINE_BYTES_MAX: Final = 4096
"""PIPE_BUF on Linux: a line of this size goes into a pipe whole or not at all, and never mixes with another's."""
JSON_LINE_BYTES_MAX: Final = 8192
TEXT_CHARS_MAX: Final = 16_384
"""More of a single text is not even looked at, which bounds the time spent on it."""
HIDDEN: Final = "[redacted]"
PROGRAM: Final = "mcp-bulkhead"

_UNPRINTABLE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # C0 and C1 controls
    "\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"  # invisible, or turning text around
    "\ud800-\udfff"  # lone surrogates, which no encoder takes
    "\U000e0000-\U000e007f]"  # tags: invisible, and read by some models
)
_SHORT: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}

_HEADER: Final = r"(?:proxy-)?authorization|(?:set-)?cookie"
_KEY: Final = (
    r"x-api-key|api[-_]?key|(?:access|refresh|id|session|auth)[-_]?token|token|mcp-session-id"
    r"|(?:client[-_]?)?secret|password|passwd|private[-_]?key"
)
_SECRET_FIELD: Final = re.compile(rf"(?:.*[-_.])?(?:{_HEADER}|{_KEY})", re.IGNORECASE | re.DOTALL)
_QUOTED: Final = r"""b?\\?"[^"\r\n]*"?|b?\\?'[^'\r\n]*'?"""
_NAMED_SECRET: Final = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    rf"""(?P<header>(?:{_HEADER})\\?["']?[ \t]*[:=][ \t]*)(?:{_QUOTED}|[^\r\n"']+)"""
    rf"""|(?P<key>(?:{_KEY})\\?["']?[ \t]*[:=][ \t]*)(?!\[redacted\])(?:{_QUOTED}|[^\s"',;&]+)"""
    r")",
    re.IGNORECASE,
)
_SHAPED_SECRET: Final = re.compile(
    r"(?<![A-Za-z0-9_.-])(?:"
    r"[Bb]earer[ \t]+[A-Za-z0-9._~+/=-]+|Basic[ \t]+[A-Za-z0-9+/=]{8,}"  # RFC 6750, RFC 7617
    r"|eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?"  # a JSON Web Token
    r"|mb1\.[A-Za-z0-9._-]+"  # our own session ids
    r"|(?:sk|gh[oprsu]|xox[abp]|glpat)[-_][A-Za-z0-9_-]{16,}"  # keys of well-known services
    r")"
)
_URL: Final = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]{0,30}://)([^\s\"'<>]*[^\s\"'<>.,;:!?)\]}])")
"""What ends a sentence or closes a bracket at the end of a URL belongs to the text around it."""


def clean(text: str) -> str:
    """Return the text with every character that is not plainly visible written as an escape."""
    return _UNPRINTABLE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    if character in _SHORT:
        return _SHORT[character]
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def redact_url(url: str) -> str:
    """Return the URL without user information and without the values of its query."""
    scheme, mark, rest = url.partition("://")
    return scheme + mark + _redact_after_scheme(rest) if mark else url


def _redact_after_scheme(rest: str) -> str:
    rest, fragment_mark, _ = rest.partition("#")
    rest, query_mark, query = rest.partition("?")
    authority, slash, path = rest.partition("/")
    if "@" in authority:
        authority = f"{HIDDEN}@{authority.rpartition('@')[2]}"
    names = [part.partition("=")[0] for part in query.split("&")] if query_mark else []
    hidden_query = "&".join(f"{name}={HIDDEN}" for name in names)
    return authority + slash + path + query_mark + hidden_query + (f"#{HIDDEN}" if fragment_mark else "")


def redact(text: str) -> str:
    """Return the text without what looks like a secret: in URLs, after a telling name, or of a telling shape."""
    text = _URL.sub(lambda match: match[1] + _redact_after_scheme(match[2]), text)
    text = _NAMED_SECRET.sub(lambda match: (match["header"] or match["key"]) + HIDDEN, text)
    return _SHAPED_SECRET.sub(HIDDEN, text)


def safe(text: str) -> str:
    """Return the text as it may be shown: bounded, redacted, and without hidden characters."""
    shown = clean(redact(text[:TEXT_CHARS_MAX]))
    return shown if len(text) <= TEXT_CHARS_MAX else shown + "..."


def human_line(text: str) -> bytes:
    """Return the text as a line for people, at most `HUMAN_LINE_BYTES_MAX` bytes with its end."""
    line = f"{PROGRAM}: {safe(text)}".encode()
    return _cut(line, HUMAN_LINE_BYTES_MAX - 1) + b"\n"


def dropped(count: int) -> str:
    """Return what is told when lines can be written again."""
    return f"{count} log lines were dropped before this one"


def _cut(line: bytes, bytes_max: int) -> bytes:
    if len(line) <= bytes_max:
        return line
    return line[: bytes_max - 3].decode(errors="ignore").encode() + b"..."


def json_line(fields: Mapping[str, object]) -> bytes:
    """Return the fields as one JSON object in a line of at most `JSON_LINE_BYTES_MAX` bytes with its end.

    Texts are cleaned and redacted; of a field whose name says that it is a secret, only the name is written. If the
    line is too long, long texts are shortened, and at last only the fields every line has are kept.
    """
    for chars_max in (TEXT_CHARS_MAX, 2048, 256):
        line = msgspec.json.encode({safe(name): _value(name, value, chars_max) for name, value in fields.items()})
        if len(line) < JSON_LINE_BYTES_MAX:
            return line + b"\n"
    common = {name: _value(name, fields[name], 256) for name in ("timestamp", "level", "event") if name in fields}
    return msgspec.json.encode({**common, "cut": True}) + b"\n"


def _value(name: str, value: object, chars_max: int) -> str | int | float | bool | None:
    if value is None or isinstance(value, bool | float):
        return value
    if _SECRET_FIELD.fullmatch(name[:256]):
        return HIDDEN
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return value
    text = safe(value if isinstance(value, str) else repr(value))
    return text if len(text) <= chars_max else text[:chars_max] + "..."

"""Finds out whose resource a URI names, where servers keep the URIs they chose.

URIs go through unchanged, since they also stand inside of results and texts. Only where two servers have the same one,
the second is given an alias that says whose it is; and where there are several servers, tools name their pages so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

_PAGE: Final = "ui://"
_PAGE_ALIAS: Final = re.compile(r"ui://mcp-bulkhead\.([A-Za-z0-9][A-Za-z0-9_-]*)/(.+)", re.DOTALL)
_ALIAS: Final = re.compile(r"mcp-bulkhead://([A-Za-z0-9][A-Za-z0-9_-]*)/(.+)", re.DOTALL)
_EXPRESSION: Final = re.compile(r"\{[^{}]*\}")
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_OF_CLIENT: Final = "client\0"
"""What no URI begins with."""


def alias(server: str, uri: str) -> str:
    """Return another URI for a server's resource or template, which cannot be anybody else's.

    Pages of tools keep their scheme: clients that show them take no other one (io.modelcontextprotocol/ui).
    """
    if uri.startswith(_PAGE):
        return f"{_PAGE}mcp-bulkhead.{server}/{uri[len(_PAGE) :]}"
    return f"mcp-bulkhead://{server}/{uri}"


def read_alias(uri: str) -> tuple[str, str] | None:
    """Return the server and the URI behind an alias, None if it is none."""
    page = _PAGE_ALIAS.fullmatch(uri)
    if page is not None:
        return page[1], _PAGE + page[2]
    found = _ALIAS.fullmatch(uri)
    return (found[1], found[2]) if found else None


def matches(template: str, uri: str) -> bool:
    """Whether a URI could be made from a template (RFC 6570).

    What an expression may expand to is not checked: a server reads its own URIs, all we need to know is whose they are.
    So the literal parts must be there in their order, which is found out in one pass.
    """
    first, *others = _EXPRESSION.split(template)
    if not others:
        return uri == template
    if not uri.startswith(first):
        return False
    last = others.pop()
    at = len(first)
    for literal in others:
        found = uri.find(literal, at)
        if found < 0:
            return False
        at = found + len(literal)
    return len(uri) - len(last) >= at and uri.endswith(last)


def covering(uri: str) -> Iterator[str]:
    """Yield the URIs whose subscribers are to hear of an update of this one: itself, and those it is a part of.

    "This might be a sub-resource of the one that the client actually subscribed to" (all revisions, schema).
    """
    yield uri
    for at in range(len(uri) - 1, 0, -1):
        if uri[at] in "/?#":
            yield uri[: at + 1]
            yield uri[:at]


def scheme(uri: str) -> str:
    """Return the scheme in lower case (RFC 3986 section 3.1), "" if there is none."""
    found = _SCHEME.match(uri)
    return found[1].lower() if found else ""


def of_client(client: int, uri: str) -> str:
    """Return what stands for a resource as one client has it (protocol/clients.py), where each has its own."""
    return f"{_OF_CLIENT}{client:x}\0{uri}"


def read_client(text: str) -> tuple[int, str]:
    """Return the client's number and the URI; 0 and the text itself if it is everybody's."""
    if not text.startswith(_OF_CLIENT):
        return 0, text
    client, _, uri = text[len(_OF_CLIENT) :].partition("\0")
    return int(client, 16), uri

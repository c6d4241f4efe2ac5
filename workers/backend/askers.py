"""What is known of a legacy server's tools: which of them ask something without naming the call it belongs to.

A tool is known from the first of its calls that has ended without such a question, or in which there was one. What has
asked once counts as asking from then on.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from workers.backend.calls import BackendCall

KNOWN_MAX: Final = 1000
NAME_CHARACTERS_MAX: Final = 128
"""Longer names count as one, so that what is kept is bounded."""
_NAMED: Final = frozenset({"tools/call", "prompts/get"})
"""Methods whose names stand for code of the server. A server's resources are read by the same code, or nearly."""


class Askers:
    """Of one server. Those that were called least lately are forgotten first."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str], bool] = OrderedDict()

    def is_known(self, call: BackendCall) -> bool:
        return _what(call) in self._known

    def asks(self, call: BackendCall) -> bool:
        return self._known.get(_what(call), False)

    def note(self, call: BackendCall, *, asks: bool) -> None:
        """A call has ended without having asked, or the server has asked in it."""
        what = _what(call)
        self._known[what] = asks or self._known.get(what, False)
        self._known.move_to_end(what)
        if len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)


def _what(call: BackendCall) -> tuple[str, str]:
    header = call.header
    return header.method, header.name[:NAME_CHARACTERS_MAX] if header.method in _NAMED else ""

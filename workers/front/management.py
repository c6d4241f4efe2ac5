"""The management tools on the front's side: checks what a client asks for, has the root do it, and words the answer.

The root is the only one who can start or stop anything, so a front only hands requests on (`protocol.control.Manage`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from protocol import management
from protocol.control import Manage, Managed
from protocol.jsonrpc import Object
from protocol.limits import MANAGE_DEADLINE_S, MANAGE_OUTSTANDING_MAX
from protocol.management import ArgumentError
from protocol.versions import Era
from workers.front.calls import Reply
from workers.reactor import Reactor

SWEEP_S: Final = 1.0
STRUCTURED_SINCE: Final = "2025-06-18"
"""The revision that brought `structuredContent` and `outputSchema`. Revisions are dates, so they compare as text."""


class _Waiting(msgspec.Struct, eq=False):
    """A client's request that the root works on."""

    answer: Callable[[bytes], None]
    deadline: float
    parts: list[bytes] = msgspec.field(default_factory=list[bytes])


class Management:
    """Serves the management tools. `names`: their public names, in the order of `management.TOOL_NAMES`; or none."""

    def __init__(self, reactor: Reactor, names: Sequence[str], tell_root: Callable[[Manage], None]) -> None:
        self._reactor = reactor
        self._tell_root = tell_root
        self._tools = dict(zip(names, management.TOOL_NAMES, strict=True)) if names else {}
        self.names = frozenset(names)
        self._rendered = {
            structured: [
                (public, management.render(tool, public, with_output_schema=structured))
                for public, tool in self._tools.items()
            ]
            for structured in (False, True)
        }
        self._waiting: dict[int, _Waiting] = {}
        self._next_number = 1
        self._sweep = reactor.every(SWEEP_S, self._look_at_deadlines)

    def tools(self, version: str) -> Sequence[tuple[str, bytes]]:
        """Return public names and items for `tools/list` of this revision."""
        return self._rendered[version >= STRUCTURED_SINCE]

    def call(self, public: str, params: Object, reply: Reply, era: Era, version: str, modern_meta: bytes) -> None:
        """Serve a call. `modern_meta`: members of `_meta` for results of the modern era."""

        def answer(outcome: bytes) -> None:
            result = management.result(outcome, structured=version >= STRUCTURED_SINCE)
            if era is Era.MODERN:
                result = b'{"resultType":"complete",%b,"_meta":{%b}}' % (result[1:-1], modern_meta)
            reply.result(result)

        try:
            request = management.request_from(self._tools[public], params.get("arguments") or b"{}")
        except ArgumentError as error:
            answer(management.failure(str(error)))
            return
        if len(self._waiting) >= MANAGE_OUTSTANDING_MAX:
            answer(management.failure("too many management requests are under way; try again in a moment"))
            return
        number = self._next_number
        self._next_number += 1
        self._waiting[number] = _Waiting(answer, self._reactor.now + MANAGE_DEADLINE_S)
        self._sweep.wake()
        self._tell_root(Manage(number, request))

    def managed(self, order: Managed) -> None:
        """The root has answered, or begun to."""
        waiting = self._waiting.get(order.number)
        if waiting is None:
            return  # its time was over
        waiting.parts.append(order.part)
        if order.is_last:
            del self._waiting[order.number]
            waiting.answer(b"".join(waiting.parts))

    def _look_at_deadlines(self) -> bool:
        now = self._reactor.now
        for number, waiting in list(self._waiting.items()):
            if waiting.deadline <= now:
                del self._waiting[number]
                waiting.answer(management.failure("the proxy did not do it in time; it may still be doing it"))
        return bool(self._waiting)

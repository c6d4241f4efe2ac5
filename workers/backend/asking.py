"""Finds the call that a legacy server's question belongs to when it came on no call's stream.

That is so on a pipe, and on the GET stream of a session: nothing there says which call a question is about. Asking the
wrong client would show one person another's business (D-07), so nothing is guessed:

Rule 1: if all calls under way in the session are of one client, it is that client's question.
Rule 2: else it waits until that is so, and is refused after `UNCLEAR_QUESTION_S`; after `UNCLEAR_FURTHER_S` if another
one waits already, because their calls may be waiting for one another: the end of one makes clear whose the other is.
Rule 3: a call that was given up counts as under way for as long: the server may not have heard of that yet.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import TYPE_CHECKING, Final

import trio

from protocol.errors import INTERNAL_ERROR
from protocol.jsonrpc import Raw, Reply
from protocol.limits import QUESTIONS_OPEN_MAX, UNCLEAR_FURTHER_S, UNCLEAR_QUESTION_S
from workers.reactor import Reactor

if TYPE_CHECKING:
    from workers.backend.calls import BackendCall

LOOK_S: Final = 0.02
"""Whether it has become clear whose question it is. Calls end often, and few questions wait, so they look."""
_NOBODYS: Final = "several clients are being served, and nothing says which of them this is for; ask again later"


class Asking:
    """The questions of one session. `calls` returns what is under way in it, oldest first."""

    def __init__(
        self,
        reactor: Reactor,
        calls: Callable[[], Iterable[BackendCall]],
        *,
        unasked: Callable[[Reply], None],
        refuse: Callable[[bytes, int, str], None],
    ) -> None:
        self._reactor = reactor
        self._calls = calls
        self._unasked = unasked
        self._refuse = refuse
        self._left: list[tuple[Hashable, float]] = []
        """Clients of calls that were given up, and until when they count."""
        self._unclear = 0

    def asked(self, request: Reply) -> None:
        """Have the question asked; without any call it is nobody's."""
        calls = self._under_way()
        if call := self._asked_in(calls):
            call.asked(request)
        elif not calls:
            self._unasked(request)
        elif self._unclear < QUESTIONS_OPEN_MAX:
            wait_s = UNCLEAR_FURTHER_S if self._unclear else UNCLEAR_QUESTION_S
            self._unclear += 1
            self._reactor.start_soon(self._ask_once_clear, request, wait_s)
        else:
            self._refuse_unclear(request)

    def withdrawn(self, params: Raw | None) -> bool:
        """The server cancels something. Return whether it was a question."""
        return any(call.is_question_withdrawn(params) for call in self._calls())

    def page_is_over(self, notification: Reply) -> None:
        """The server says of a page that it has served its purpose. The page names the call."""
        for call in self._under_way():
            call.noted(notification)

    def given_up(self, call: BackendCall) -> None:
        """Nobody waits for this call any more, but the server may still be at it."""
        now = trio.current_time()
        self._left = [each for each in self._left if each[1] > now]
        self._left.append((call.client, now + UNCLEAR_QUESTION_S))

    def is_left_to(self, client: Hashable) -> bool:
        """Whether nobody else has given up a call that the server may still be at."""
        now = trio.current_time()
        return all(left == client or until <= now for left, until in self._left)

    def _under_way(self) -> list[BackendCall]:
        return list(self._calls())

    def _asked_in(self, calls: list[BackendCall]) -> BackendCall | None:
        """Return the call to ask in: the newest, as questions mostly come at the beginning."""
        now = trio.current_time()
        clients = {call.client for call in calls} | {client for client, until in self._left if until > now}
        return calls[-1] if calls and len(clients) == 1 else None

    async def _ask_once_clear(self, request: Reply, wait_s: float) -> None:
        until = trio.current_time() + wait_s
        try:
            while (call := self._asked_in(self._under_way())) is None and trio.current_time() < until:  # noqa: ASYNC110
                await trio.sleep(LOOK_S)
        finally:
            self._unclear -= 1
        if call is not None:
            call.asked(request)
        else:
            self._refuse_unclear(request)

    def _refuse_unclear(self, request: Reply) -> None:
        assert request.id is not None
        self._refuse(request.id, INTERNAL_ERROR, _NOBODYS)

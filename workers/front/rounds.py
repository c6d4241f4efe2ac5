"""Multi round-trip requests of modern clients: what they carry from one request to the next (2026-07-28, basic).

The front keeps nothing about them: all is in the `requestState`, signed (protocol/request_state.py), so that any front
can serve the next request.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from protocol.errors import INTERNAL_ERROR, INVALID_PARAMS
from protocol.input_required import are_accepted, with_answers, with_state
from protocol.jsonrpc import RpcError, decode_object
from protocol.limits import INTERACTION_S
from protocol.link import AGAIN, Payload
from protocol.request_state import StateFacts, digest, seal, unseal
from workers.front.calls import FrontCall

PRINCIPAL: Final = ""
"""Whose requests these are: clients are not told apart by who they are."""
_AGAIN: Final = "make the request again from the start, without requestState and inputResponses"


class Rounds:
    """Gives out states and takes them back."""

    def __init__(self, key: bytes, wall_clock: Callable[[], float] = time.time) -> None:
        self._key = key
        self._wall_clock = wall_clock

    def input_required(self, place: tuple[str, str], call: FrontCall, interaction: int, result: Payload) -> bytes:
        """Return an `InputRequiredResult` of a server as its client gets it: with a state of ours in place of its own.

        `place`: the server's public name, and which replica it was, "" if it is none.

        Where there is nothing to come back with there is no state either. Errors: `RpcError` if it is no JSON object.
        """
        state = decode_object(result, "the result").get("requestState")
        if state is None and not interaction:
            return bytes(result)
        facts = StateFacts(
            server=place[0],
            principal=PRINCIPAL,
            request=call.digest or digest(call.method, call.name, call.payload),
            expires_at=int(self._wall_clock() + INTERACTION_S),
            interaction=interaction,
            state=bytes(state) if state is not None else b"",
            replica=place[1],
        )
        return with_state(result, seal(self._key, facts))

    def resume(self, server: str, call: FrontCall) -> None:
        """Make the call, which is addressed already, go on where its state says. Errors: `RpcError` -32602."""
        retry = call.retry
        assert retry is not None
        call.digest = digest(call.method, call.name, call.payload)
        if retry.state is None:
            call.payload = with_answers(call.payload, retry.responses, b"")
            return
        facts = unseal(self._key, retry.state)
        if facts is None:
            raise RpcError(INVALID_PARAMS, f"requestState was not given out by this proxy, or was changed: {_AGAIN}")
        if (facts.server, facts.principal, facts.request) != (server, PRINCIPAL, call.digest):
            raise RpcError(INVALID_PARAMS, f"requestState belongs to another request: {_AGAIN}")
        if facts.expires_at < self._wall_clock():
            text = f'requestState has expired: server "{server}" does not wait any more, and the call was cancelled'
            raise RpcError(INVALID_PARAMS, f"{text}; its side effects may remain. To try once more, {_AGAIN}")
        call.replica = facts.replica
        if facts.interaction == AGAIN:
            if not are_accepted(retry.responses):
                raise RpcError(INTERNAL_ERROR, f'server "{server}" wants a page to be visited first, and it was not')
        elif facts.interaction:
            call.interaction = facts.interaction
            call.payload = retry.responses or b"{}"
        else:
            call.payload = with_answers(call.payload, retry.responses, facts.state)

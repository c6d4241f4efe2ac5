"""Clients that have a connection of their own with a server over WebSocket or HTTP+SSE, which there is a session."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from protocol import link
from protocol.clients import number_of
from protocol.versions import Era
from tests.peers.sse_server import SsePeer
from tests.peers.websocket_server import Json, WebSocketPeer, Wire
from tests.waiting import eventually
from tests.workers.backend.harness import Backend
from tests.workers.backend.test_sse import rig as sse_rig
from tests.workers.backend.test_websocket import rig as websocket_rig

ALICE, BOB = number_of(b"alice", Era.LEGACY), number_of(b"bob", Era.LEGACY)
KINDS = ["websocket", "sse", "sse that is found out"]


def rig(kind: str, answer: Any) -> AbstractAsyncContextManager[tuple[WebSocketPeer | SsePeer, Backend]]:
    options: Json = {"is_isolated": True, "sessions_max": 4}
    if kind == "websocket":
        return websocket_rig(WebSocketPeer(on={"tools/call": answer}), **options)
    return sse_rig(SsePeer(on={"tools/call": answer}), transport="sse" if kind == "sse" else "", **options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.promise("R18")
async def test_each_client_has_a_connection_of_its_own_which_ends_with_it(kind: str):
    said: dict[int, list[str]] = {}
    wires: list[Wire] = []

    async def remember(wire: Wire, request: Json) -> None:
        if wire.number not in said:
            wires.append(wire)
        texts = said.setdefault(wire.number, [])
        texts.append(request["params"]["arguments"]["text"])
        await wire.result(request, {"content": [{"type": "text", "text": " ".join(texts)}]})

    async def told(one: Backend, client: int, text: str) -> str:
        return (await one.front.call("note", {"text": text}, era=Era.LEGACY, client=client).done()).text

    async with rig(kind, remember) as (peer, one):
        assert await told(one, ALICE, "a1") == "a1"
        assert await told(one, BOB, "b1") == "b1"
        assert await told(one, ALICE, "a2") == "a1 a2"
        assert len(peer.wires) == 3  # with that of the lists

        one.front.send(link.ClientGone(ALICE))

        async def ended() -> bool:
            return one.vitals[-1].sessions == 1

        await eventually(ended, "one session is left")
        assert await told(one, BOB, "b2") == "b1 b2"
        assert await told(one, ALICE, "a3") == "a3"
        assert len(said) == 3

        await wires[1].hang_up()  # Bob's
        assert await told(one, ALICE, "a4") == "a3 a4"

"""Many calls through a server that does something else wrong each time: each ends once, and none is executed twice."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import trio
import trio.testing

from protocol.versions import Era
from tests.peers.raw_server import RawServer, Reply, Request, hang_up, hang_up_half_way, with_id, with_status
from tests.workers.backend.harness import rig
from workers.backend import breaker

CALLS = 240
AT_ONCE = 24


class Chaos:
    """Answers each request in one of many ways; keeps count of what was executed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.executed: Counter[str] = Counter()

    async def answer(self, request: Request, reply: Reply) -> None:
        text = request.params["arguments"]["text"]
        if self.random.random() < 0.2:
            # Refusals by somebody who has executed nothing.
            status = self.random.choice([404, 405, 429, 503, 401, 307])
            await with_status(status, b"no", "text/plain")(request, reply)
            return
        self.executed[text] += 1
        broken = [
            hang_up,
            hang_up_half_way,
            with_id("b3-1"),
            with_status(500),
            with_status(202),
            self.garbage,
            self.mute,
        ]
        if self.random.random() < 0.3:
            await self.random.choice(broken)(request, reply)
            return
        result = {"content": [{"type": "text", "text": text}]}
        if self.random.random() < 0.5:
            await reply.result(result)
        else:
            await self.stream(request, reply, result)
        if self.random.random() < 0.2:
            await reply.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" if self.random.random() < 0.5 else b"?")
        if self.random.random() < 0.2:
            await hang_up(request, reply)

    async def stream(self, request: Request, reply: Reply, result: dict[str, object]) -> None:
        own_id = request.message["id"]
        await reply.start_events()
        for step in range(self.random.randrange(3)):
            await reply.notify("notifications/progress", {"progressToken": own_id, "progress": step})
        await reply.event({"jsonrpc": "2.0", "id": "nobody", "result": {}})
        await reply.event({"jsonrpc": "2.0", "id": own_id, "result": {"resultType": "complete", **result}})
        await reply.event({"jsonrpc": "2.0", "id": own_id, "result": {"late": True}})
        await reply.end_events()

    async def garbage(self, request: Request, reply: Reply) -> None:
        await reply.raw(self.random.randbytes(200))
        await hang_up(request, reply)

    async def mute(self, request: Request, reply: Reply) -> None:
        await reply.start_events()
        await reply.end_events()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("server_era", ["legacy", "modern", "dual"])
@pytest.mark.case("B-03", "B-06", "B-07", "B-12", "B-16")
@pytest.mark.promise("R04", "R18")
async def test_every_call_ends_once_with_its_own_answer_and_is_executed_at_most_once(
    server_era: str, seed: int, monkeypatch: pytest.MonkeyPatch
):
    # Half of what this server answers is wrong. The breaker would spare it most of the calls.
    monkeypatch.setattr(breaker, "CONSECUTIVE_MAX", CALLS)
    monkeypatch.setattr(breaker, "SUCCESS_SHARE_MIN", 0.0)
    chaos = Chaos(seed)
    server = RawServer(era=server_era, on={"tools/call": chaos.answer})
    async with rig(server) as (_server, one):
        await one.front.ask_list().done()
        free = trio.CapacityLimiter(AT_ONCE)
        good = 0

        async def call(number: int) -> None:
            nonlocal good
            async with free:
                era = chaos.random.choice(list(Era))
                outcome = await one.front.call(arguments={"text": str(number)}, era=era, progress=True).done()
                if outcome.payload and b'"content"' in outcome.payload:
                    assert outcome.text == str(number)
                    good += 1
                else:
                    assert outcome.fault.message

        async with trio.open_nursery() as nursery:
            for number in range(CALLS):
                nursery.start_soon(call, number)

        assert good > CALLS / 4
        assert max(chaos.executed.values()) == 1
        server.on.clear()
        await trio.testing.wait_all_tasks_blocked()  # until the last connections that were hung up on are noticed
        assert (await one.front.call(arguments={"text": "calm"}).done()).text == "calm"
        await trio.testing.wait_all_tasks_blocked()
        assert not one.front.unexpected

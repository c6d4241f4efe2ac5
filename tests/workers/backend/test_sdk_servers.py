"""A worker and servers of the official SDK: real processes, both eras, alone and together."""

from __future__ import annotations

import json

import pytest
import trio

from protocol.errors import OUTCOME_UNKNOWN, SERVER_UNAVAILABLE
from protocol.versions import Era
from tests.conftest import StartServer
from tests.workers.backend.harness import backend

SERVERS = pytest.mark.parametrize("server_era", ["dual", "legacy", "modern"])
CLIENTS = pytest.mark.parametrize("era", [Era.LEGACY, Era.MODERN], ids=["legacy client", "modern client"])
START_S = 30.0  # a server that has just crashed imports the SDK again


def leg_of(server_era: str, client: Era) -> Era:
    return {"legacy": Era.LEGACY, "modern": Era.MODERN}.get(server_era, client)


@SERVERS
@CLIENTS
async def test_every_pair_of_eras_lists_and_calls(sdk_servers: dict[str, str], server_era: str, era: Era):
    with trio.fail_after(60):
        async with backend(sdk_servers[server_era]) as one:
            listing = await one.front.ask_list(era).done()
            assert {"echo", "whoami", "slow", "structured"} <= set(listing.names)
            assert listing.listing.leg is leg_of(server_era, era)

            outcome = await one.front.call("whoami", era=era).done()
            assert (outcome.text, outcome.era) == (server_era, leg_of(server_era, era))
            assert (await one.front.wait_state("ready")).instructions == f"I am {server_era}."
            text = "Grüße \u2028 \U0001f600 " + "x" * 1_000_000
            assert (await one.front.call("echo", {"text": text}, era=era).done()).text == text
            failed = await one.front.call("fail", era=era).done()
            assert failed.result["isError"] is True
            structured = (await one.front.call("structured", {"city": "Bern"}, era=era).done()).result
            assert structured["structuredContent"]["winds"] == ["NW", "Föhn"]


@SERVERS
@CLIENTS
async def test_progress_and_logs_of_a_call_come_before_its_answer(
    sdk_servers: dict[str, str], server_era: str, era: Era
):
    with trio.fail_after(60):
        async with backend(sdk_servers[server_era]) as one:
            outcome = await one.front.call(
                "slow", {"seconds": 0.2}, era=era, progress=True, log_level="info", timeout_s=8
            ).done()

            assert outcome.text == f"{server_era} slept"
            steps = [params["progress"] for method, params in outcome.events if method == "notifications/progress"]
            said = [params["data"] for method, params in outcome.events if method == "notifications/message"]
            assert steps == list(range(1, 11))
            assert said == [f"{server_era} starts", f"{server_era} is done"]


@SERVERS
async def test_what_the_server_refuses_is_its_own_error(sdk_servers: dict[str, str], server_era: str):
    with trio.fail_after(60):
        async with backend(sdk_servers[server_era]) as one:
            outcome = await one.front.call(method="no/such/method", params=b"{}").done()
            assert outcome.fault.code == -32601
            assert json.loads(outcome.payload)["code"] == -32601
            assert (await one.front.call("whoami").done()).text == server_era


@SERVERS
async def test_many_calls_at_once_get_their_own_answers(sdk_servers: dict[str, str], server_era: str):
    with trio.fail_after(60):
        async with backend(sdk_servers[server_era]) as one:
            calls = [
                one.front.call("echo", {"text": f"{era.name} {number}"}, era=era, timeout_s=20)
                for number in range(30)
                for era in Era
            ]
            for number, call in enumerate(calls):
                assert (await call.done()).text == f"{list(Era)[number % 2].name} {number // 2}"


@pytest.mark.parametrize("server_era", ["legacy", "modern"])
@pytest.mark.case("B-01", "B-03")
async def test_a_server_that_crashes_in_a_call_is_found_again_when_it_is_restarted(
    server: StartServer, server_era: str
):
    crashing = await server(era=server_era, name="mortal")
    with trio.fail_after(START_S):
        async with backend(crashing.url) as one:
            fault = (await one.front.call("crash").done()).fault
            assert (fault.code, fault.sent) == (OUTCOME_UNKNOWN, True)
            while (fault := (await one.front.call("whoami").done()).fault).sent:
                # A connection that was opened just before the crash may still be there to be tried.
                assert fault.code == OUTCOME_UNKNOWN
            assert fault.code == SERVER_UNAVAILABLE
            await one.front.wait_state("backoff")

            await trio.to_thread.run_sync(crashing.restart)
            await one.front.wait_state("ready")
            assert (await one.front.call("whoami").done()).text == "mortal"
            assert "echo" in (await one.front.ask_list().done()).names


@pytest.mark.case("B-33")
async def test_a_server_restarted_behind_our_back_is_used_as_if_nothing_had_happened(server: StartServer):
    mortal = await server(era="legacy", name="mortal")
    with trio.fail_after(START_S):
        async with backend(mortal.url) as one:
            assert (await one.front.call("whoami").done()).text == "mortal"
            await trio.to_thread.run_sync(mortal.restart)
            assert (await one.front.call("whoami").done()).text == "mortal"
            assert (await one.front.ask_list().done()).names

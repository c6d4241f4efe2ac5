"""Clients over TLS: who gets in, under which names, and what happens when the certificate is another one."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from protocol.control import ReadCertificate
from protocol.limits import HANDSHAKE_NEWS_MAX, HANDSHAKE_NEWS_PERIOD_S, HEADERS_DEADLINE_S
from tests.peers.certificates import Authority
from tests.waiting import eventually
from tests.workers.scripted import Client, Front, Json, advance, bounded, http, modern_post, running_front
from workers.front import certificate as certificate_module
from workers.front import doors

RESULT: Json = {"content": []}


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@asynccontextmanager
async def client(front: Front, context: ssl.SSLContext, name: str = "localhost") -> AsyncIterator[Client]:
    tcp = await trio.open_tcp_stream("127.0.0.1", front.port)
    stream = trio.SSLStream(tcp, context, server_hostname=name, https_compatible=True)
    try:
        with bounded():
            await stream.do_handshake()
        yield Client(stream)  # type: ignore[arg-type]
    finally:
        await trio.aclose_forcefully(stream)


def serial(one: Client) -> str:
    return one.stream.getpeercert()["serialNumber"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("version", ["2025-11-25", "2026-07-28"])
async def test_clients_are_served_as_without_tls(authority: Authority, version: str):
    async with (
        running_front(certificate=authority.server) as front,
        client(front, authority.client_context()) as one,
    ):
        if version == "2025-11-25":
            await one.initialize(version)
            await one.call()
        else:
            await one.modern_call()
        call, _ = await front.main.call()
        large = {"content": [{"type": "text", "text": "x" * 3_000_000}]}
        front.main.answer(call, large)
        assert (await one.answer()).json["result"] == large


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
async def test_nothing_older_than_tls_1_2_is_spoken(authority: Authority):
    async with running_front(certificate=authority.server) as front:
        for version in (ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2):
            context = authority.client_context()
            context.set_ciphers("ALL:@SECLEVEL=0")
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = version
            if version is ssl.TLSVersion.TLSv1_2:
                async with client(front, context) as one:
                    assert one.stream.version() == "TLSv1.2"  # type: ignore[attr-defined]
            else:
                with pytest.raises(trio.BrokenResourceError) as refused:
                    async with client(front, context):
                        pass
                assert "alert protocol version" in str(refused.value.__cause__)


@pytest.mark.case("D-02")
async def test_the_names_in_the_certificate_are_those_under_which_clients_may_come(authority: Authority):
    own = authority.issue("own", "proxy.example", "*.tools.example", "::1", "192.0.2.7", "localhost")
    async with running_front(certificate=own, allowed_hosts=["also.example"]) as front:
        async with client(front, authority.client_context()) as one:
            for host, status in (
                ("proxy.example", 200),
                ("PROXY.example:8443", 200),
                ("a.tools.example", 200),
                ("[::1]", 200),
                ("192.0.2.7", 200),
                ("also.example", 200),
            ):
                await one.send(modern_post("server/discover", headers={"host": host}))
                assert (await one.answer()).status == status, host
        for host in ("evil.example", "tools.example", "a.b.tools.example", ".tools.example", "*.tools.example"):
            async with client(front, authority.client_context()) as one:
                await one.send(modern_post("server/discover", headers={"host": host}))
                assert (await one.answer()).status in (400, 421), host


async def test_a_certificate_that_changes_is_shown_from_the_next_connection_on(
    authority: Authority, mock_clock: MockClock
):
    mock_clock.rate = 0
    shown = authority.issue("shown", "localhost")
    async with running_front(certificate=shown) as front:
        async with client(front, authority.client_context()) as early:
            first = serial(early)
            authority.issue("shown", "localhost", "new.example")
            await advance(mock_clock, certificate_module.LOOK_S)
            async with client(front, authority.client_context()) as late:
                assert serial(late) != first
                await late.send(modern_post("server/discover", headers={"host": "new.example"}))
                assert (await late.answer()).status == 200
            await early.send(modern_post("server/discover"))
            assert (await early.answer()).status == 200, "who is connected already notices nothing"

        await trio.Path(shown).write_text("half a certifi")
        await advance(mock_clock, certificate_module.LOOK_S)
        async with client(front, authority.client_context()) as still:
            await still.send(http("GET", path="/healthz"))
            assert (await still.answer()).status == 200
        (told,) = front.log.take_errors_of("tls_cert")
        assert told.endswith("the certificate that was read before is kept")


async def test_an_order_has_the_certificate_read_at_once(authority: Authority, autojump_clock: MockClock):
    shown = authority.issue("shown", "localhost")
    async with running_front(certificate=shown) as front:
        authority.issue("shown", "localhost", "new.example")
        front.worker.obey(ReadCertificate())
        ((_, fields),) = [one for one in front.log.of("info") if one[0].startswith("another certificate")]
        assert fields["names"] == "localhost, new.example"


async def test_a_front_whose_certificate_cannot_be_read_serves_as_soon_as_it_can(
    authority: Authority, mock_clock: MockClock
):
    missing = authority.folder / "late.pem"
    async with running_front(certificate=str(missing)) as front:
        (told,) = front.log.take_errors_of("tls_cert")
        assert told == f"tls_cert {missing} cannot be read: No such file or directory; nobody can connect"
        with pytest.raises((trio.BrokenResourceError, OSError)):
            async with client(front, authority.client_context()):
                pass
        authority.issue("late", "localhost")
        await advance(mock_clock, certificate_module.LOOK_S)
        async with client(front, authority.client_context()) as one:
            await one.send(modern_post("server/discover"))
            assert (await one.answer()).status == 200


async def test_clients_are_warned_of_a_certificate_that_they_will_refuse(authority: Authority):
    async with running_front(certificate=authority.issue("old", "localhost", expired=True)) as front:
        ((told, fields),) = front.log.of("warning")
        assert told == "clients may refuse the certificate"
        assert "expired" in fields["reason"]


@pytest.mark.case("A-18", "A-22")
async def test_only_so_many_handshakes_are_under_way_and_each_has_its_time(
    authority: Authority, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(doors, "HANDSHAKES_MAX", 2)
    async with running_front(certificate=authority.server) as front:
        idle = [await front.client() for _ in range(2)]
        await idle[0].send(b"\x16\x03\x01")
        with pytest.raises((trio.BrokenResourceError, OSError)):
            async with client(front, authority.client_context()):
                pass
        await advance(mock_clock, HEADERS_DEADLINE_S + 2)
        for one in idle:
            assert await one.closed() in (b"", b"<reset>")
        trusting = authority.client_context()
        async with client(front, trusting) as first, client(front, trusting), client(front, trusting):
            assert front.connections == 3, "handshakes that are over do not count"
            await first.send(http("GET", path="/healthz"))
            assert (await first.answer()).status == 200


def failures(front: Front) -> list[str]:
    """Why handshakes failed, as the log has it; each is told with the address of its client."""
    told = [fields for event, fields in front.log.of("info") if event == "a TLS handshake with a client failed"]
    assert all(fields["peer"] == "127.0.0.1" for fields in told)
    return [fields["reason"] for fields in told]


@pytest.mark.case("A-16")
@pytest.mark.parametrize("body", [b"", b"x" * 300_000])
async def test_a_client_without_tls_is_told_to_use_https_and_harms_nobody(authority: Authority, body: bytes):
    async with running_front(certificate=authority.server) as front:
        plain = await front.client()
        await plain.send(http("POST", body=body))
        answer = await plain.answer()
        assert (answer.status, answer.headers["connection"]) == (400, "close")
        assert answer.headers["content-type"].startswith("text/plain")
        assert b"This port speaks HTTPS: use https://" in answer.body
        await plain.close()
        async with client(front, authority.client_context()) as one:
            await one.send(http("GET", path="/healthz"))
            assert (await one.answer()).status == 200
        assert failures(front) == ["it spoke plain HTTP, and was told to use https://"]


@pytest.mark.case("A-16")
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
async def test_why_a_handshake_failed_is_in_the_log_in_plain_words(authority: Authority):
    def connect(context: ssl.SSLContext) -> None:
        # With the standard library, because trio does not send the alert that says why.
        with socket.create_connection(("127.0.0.1", front.port), 5) as tcp, pytest.raises(ssl.SSLError):
            context.wrap_socket(tcp, server_hostname="localhost")

    async with running_front(certificate=authority.server) as front:
        for begin in (b"HELO proxy\r\n", b"\x16\x03\x01\x02\x00\x01"):
            other = await front.client()
            await other.send(begin)
            if begin.startswith(b"HELO"):
                assert b"HTTP" not in await other.closed()
            else:
                await trio.testing.wait_all_tasks_blocked()
                await other.close()
        (await front.client()).reset()  # without a word: nothing to tell
        old = authority.client_context()
        old.set_ciphers("ALL:@SECLEVEL=0")
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
        for context in (old, ssl.create_default_context()):
            await trio.to_thread.run_sync(connect, context)

        async def all_told() -> bool:
            return len(failures(front)) == 4

        await eventually(all_told, "each of the four is in the log")

    assert set(failures(front)) == {
        "what it sent is no TLS",
        "the client went away in the middle of it",
        "it knows neither TLS 1.2 nor 1.3",
        "it does not trust whoever has signed our certificate",
    }


async def test_a_handshake_that_never_ends_is_told_when_its_time_is_over_and_silence_is_not(
    authority: Authority, mock_clock: MockClock
):
    async with running_front(certificate=authority.server) as front:
        silent, slow = await front.client(), await front.client()
        await slow.send(b"\x16\x03\x01")
        await trio.testing.wait_all_tasks_blocked()
        await advance(mock_clock, HEADERS_DEADLINE_S + 2)
        for one in (silent, slow):
            assert await one.closed() in (b"", b"<reset>")

        assert failures(front) == ["it was not over after 10 s"]


@pytest.mark.case("D-24")
async def test_however_many_handshakes_fail_only_some_are_told_and_how_many_were_not(
    authority: Authority, mock_clock: MockClock
):
    async def fail() -> None:
        one = await front.client()
        await one.send(b"HELO proxy\r\n")
        await one.closed()

    async with running_front(certificate=authority.server) as front:
        for _ in range(HANDSHAKE_NEWS_MAX + 5):
            await fail()
        assert len(failures(front)) == HANDSHAKE_NEWS_MAX
        await advance(mock_clock, HANDSHAKE_NEWS_PERIOD_S, step_s=5)
        await fail()
        assert front.log.of("info")[-1][1]["untold"] == 5


@pytest.mark.case("A-16")
async def test_a_client_that_speaks_tls_to_a_plain_port_is_refused_and_the_log_says_so(authority: Authority):
    async with running_front() as front:
        with pytest.raises(trio.BrokenResourceError):
            async with client(front, authority.client_context()):
                pass
        told = [fields for event, fields in front.log.of("info") if event == "a client spoke TLS to a port without it"]
        assert told == [{"peer": "127.0.0.1", "reason": "this port speaks plain HTTP: use http://"}]

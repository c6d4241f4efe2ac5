"""Host and Origin: who may speak to us at all."""

from __future__ import annotations

import pytest

from protocol.http1 import HttpError, Request
from tests.workers.scripted import Front, http, modern_post, post, running_front
from workers.front.gate import Gate

GATE = Gate(["example.com", "2001:DB8::1", "Proxy.Internal"], ["https://app.example.com"])


def request(host: str, origin: str | None = None, *, repeated: tuple[bytes, ...] = ()) -> Request:
    headers = {b"host": host.encode("latin-1")}
    if origin is not None:
        headers[b"origin"] = origin.encode("latin-1")
    return Request(b"POST", b"/mcp", headers, repeated, True, False, None)


def verdict(host: str = "localhost", origin: str | None = None, gate: Gate = GATE, **more: tuple[bytes, ...]) -> int:
    """Return the status a request is refused with, 0 if it may pass. Asked twice: what passed once is remembered."""
    found: list[int] = []
    asked = request(host, origin, **more)
    for _ in range(2):
        try:
            gate.check(asked)
            found.append(0)
        except HttpError as error:
            found.append(error.status)
    assert found[0] == found[1]
    return found[0]


@pytest.mark.case("D-02")
@pytest.mark.parametrize(
    "host",
    [
        "localhost", "LOCALHOST", "localhost:8080", "127.0.0.1", "127.0.0.1:1", "127.0.0.1:65535", "[::1]", "[::1]:80",
        "example.com", "example.com:443", "EXAMPLE.com", "[2001:db8::1]", "[2001:DB8::1]:80", "proxy.internal",
    ],
)  # fmt: skip
def test_hosts_that_are_ours_pass(host: str):
    assert verdict(host) == 0


@pytest.mark.case("D-02", "D-03")
@pytest.mark.parametrize(
    "host",
    [
        "evil.com", "localhost.", "localhost.evil.com", "127.0.0.1.nip.io", "127.0.0.2", "0.0.0.0", "0", "127.1",
        "2130706433", "[::]", "[::ffff:127.0.0.1]", "::1", "[::1", "[fe80::1%lo]", "example.com.", "sub.example.com",
        "example.com:0", "example.com:65536", "example.com:999999", "example.com:", "example.com:80:80", "",
        "evil.com@localhost", "localhost@evil.com", "localhost,evil.com", "localhost evil.com", "localhost/",
        "l\xf6calhost", "localhost\n", "localhost:80\n",
    ],
)  # fmt: skip
def test_every_other_host_is_misdirected(host: str):
    assert verdict(host) == 421


@pytest.mark.case("D-01")
@pytest.mark.parametrize(
    "origin",
    [
        None, "http://localhost", "http://localhost:3000", "https://127.0.0.1:8443", "http://[::1]:80",
        "https://app.example.com",
    ],
)  # fmt: skip
def test_pages_of_this_machine_and_allowed_ones_pass_and_so_does_no_page(origin: str | None):
    assert verdict(origin=origin) == 0


@pytest.mark.case("D-01", "D-03")
@pytest.mark.parametrize(
    "origin",
    [
        "null", "", "http://evil.com", "http://localhost.evil.com", "http://localhost@evil.com", "http://evil.com@localhost",
        "http://localhost:0", "http://localhost:99999", "http://localhost:", "http://localhost/", "http://localhost?x",
        "HTTP://LOCALHOST", "http://LOCALHOST", "file://localhost", "chrome-extension://localhost", "localhost",
        "http://localhost, http://evil.com", "http://localhost http://evil.com", "https://example.com",
        "http://app.example.com", "https://app.example.com:443", "https://app.example.com.evil.com", "http://localhost\n",
    ],
)  # fmt: skip
def test_pages_from_elsewhere_are_forbidden(origin: str):
    assert verdict(origin=origin) == 403


@pytest.mark.case("D-01")
def test_two_origins_are_forbidden_even_if_the_first_has_passed_before():
    assert verdict(origin="http://localhost") == 0
    assert verdict(origin="http://localhost", repeated=(b"origin",)) == 403


def test_a_foreign_host_is_named_before_a_foreign_origin():
    assert verdict("evil.com", "http://evil.com") == 421


def test_what_has_passed_one_gate_has_not_passed_another():
    asked = request("example.com")
    GATE.check(asked)

    with pytest.raises(HttpError, match="421"):
        Gate([], []).check(asked)


# --- through a socket ------------------------------------------------------------------------------------------------
@pytest.mark.case("D-01", "D-02", "D-03")
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "rebound.evil.com"}, 421),
        ({"origin": "http://evil.com"}, 403),
        ({"origin": "http://localhost\r\norigin: http://localhost"}, 403),
        ({"origin": "null", "content-type": "text/plain"}, 403),
    ],
)
async def test_a_foreign_page_is_refused_before_anything_else_and_gets_no_permission(
    front: Front, headers: dict[str, str], status: int
):
    async with await front.client() as client:
        await client.send(post(b"[" * 100, headers))
        answer = await client.answer()
        assert await client.closed() == b""

    assert answer.status == status
    assert answer.json["error"]["code"] == -32600
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.case("D-03")
async def test_a_preflight_gets_no_permission(front: Front):
    headers = {"origin": "http://evil.com", "access-control-request-method": "POST"}
    async with await front.client() as client:
        await client.send(http("OPTIONS", headers))
        answer = await client.answer()

    assert answer.status == 403
    assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_names_given_by_the_user_pass():
    allowed = {"allowed_hosts": ["mcp.test"], "allowed_origins": ["https://page.test"]}
    async with running_front(**allowed) as front, await front.client() as client:
        await client.send(post(b"{}", {"host": "mcp.test", "origin": "https://page.test"}))

        assert (await client.answer()).status == 400  # it is no message, but it was looked at


async def test_a_connection_whose_head_has_passed_is_refused_once_the_rules_are_others(front: Front):
    async with await front.client() as client:
        for _ in range(3):
            await client.modern("server/discover")
            assert (await client.answer()).status == 200
        for router in front.worker._doors._network:
            router.rules = Gate(["mcp.test"], [])
        headers = {"host": "mcp.test"}
        await client.send(modern_post("server/discover", headers=headers))
        assert (await client.answer()).status == 200
        for router in front.worker._doors._network:
            router.rules = Gate([], [])

        await client.send(modern_post("server/discover", headers=headers))
        assert (await client.answer()).status == 421
        assert await client.closed() == b""

"""What is said when a server does not answer as it should."""

from __future__ import annotations

import email.utils
import socket

import pytest

from protocol.errors import INTERNAL_ERROR, OVERLOADED, SERVER_UNAVAILABLE
from protocol.http1 import ResponseHead
from workers.backend.answers import Answer
from workers.backend.endpoint import Endpoint
from workers.backend.faults import Failure, Faults, Says, quoted, retry_after_ms

NOW = 1_800_000_000.0
FAULTS = Faults("main", Endpoint("http://user-facing.example:8000/mcp?key=canary"))


def failure(status: int, **headers: str) -> Failure:
    fields = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    return FAULTS.of_answer(Answer(ResponseHead(status, fields, None, keep_alive=True), None, b'"1"', is_empty=True))


@pytest.mark.parametrize(
    ("value", "expected_ms"),
    [
        ("0", 0),
        ("7", 7_000),
        ("60", 60_000),
        ("61", 60_000),
        ("1000000000", 60_000),
        ("9" * 5000, 60_000),
        (email.utils.formatdate(NOW + 20, usegmt=True), 20_000),
        (email.utils.formatdate(NOW + 1e8, usegmt=True), 60_000),
        (email.utils.formatdate(NOW - 20, usegmt=True), 0),
        ("Sun, 06 Nov 1994 08:49:37", 0),
        ("-5", 0),
        ("1.5", 0),
        ("soon", 0),
        ("٣", 0),
        ("", 0),
        ("Fri, 31 Dec 9999 99:99:99 GMT", 0),
    ],
)
@pytest.mark.case("B-12")
def test_advice_to_retry_is_read_in_both_forms_and_clamped_to_a_minute(value: str, expected_ms: int):
    assert retry_after_ms(value.encode(), NOW) == expected_ms


@pytest.mark.case("B-12")
def test_overload_and_outage_carry_the_advice():
    assert failure(429, retry_after="7") == Failure(
        OVERLOADED,
        'server "main" limits the rate of requests (HTTP 429): try again in 7 s',
        sent=True,
        retry_after_ms=7000,
        says=Says.THROTTLES,
    )
    assert failure(503) == Failure(
        SERVER_UNAVAILABLE,
        'server "main" is unavailable for now (HTTP 503): try again later',
        sent=True,
        says=Says.BROKEN,
    )
    assert failure(500).code == INTERNAL_ERROR


@pytest.mark.case("B-14")
def test_a_redirect_is_described_by_the_configured_host_only():
    told = failure(307, location="http://169.254.169.254/secret")

    assert told.final
    assert "user-facing.example" in told.message
    assert "169.254" not in told.message
    assert "canary" not in told.message


@pytest.mark.case("B-14")
@pytest.mark.parametrize("location", ["/mcp/?key=canary#x", "http://User-facing.example:8000/mcp/?key=canary"])
def test_a_redirect_within_the_server_is_not_followed_but_named(location: str):
    told = failure(307, location=location)

    assert told.final
    assert "redirects to its path /mcp/ (HTTP 307), which is not followed: configure its final URL" in told.message
    assert "canary" not in told.message


@pytest.mark.case("B-14")
@pytest.mark.parametrize(
    "location",
    ["", "//evil.example/x", "https://user-facing.example:8000/x", "http://user-facing.example/x", "x", "/a\\x", "/ü"],
)
def test_a_redirect_that_may_lead_to_another_server_is_not_described(location: str):
    assert "redirects elsewhere" in failure(307, location=location).message


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.case("B-13")
def test_missing_authorization_is_said_without_the_servers_words(status: int):
    told = failure(status, www_authenticate='Bearer realm="' + "x" * 100_000)

    assert told.final
    assert "needs authorization" in told.message
    assert len(told.message) < 200


@pytest.mark.case("B-13", "D-25")
def test_what_is_missing_is_said_with_what_to_do_about_it_and_no_secret():
    challenge = 'Bearer resource_metadata="https://auth.example/.well-known/x?key=canary", error="canary"'
    told = failure(401, www_authenticate=challenge)
    assert told.message == (
        'server "main" needs authorization (HTTP 401) (Bearer; see auth.example), '
        "and the proxy has none for it: configure its header Authorization"
    )

    configured = Faults("main", Endpoint("http://user-facing.example/mcp", [("authorization", "Bearer canary")]))
    expired = configured.unauthorized(401, challenge.encode())
    assert "and does not accept the header Authorization that is configured" in expired
    assert expired.endswith("a new value counts after mcp-bulkhead ctl restart main")
    forbidden = configured.unauthorized(403, b"")
    assert forbidden.startswith("needs authorization (HTTP 403), and the header Authorization that is configured does")
    assert "canary" not in expired + forbidden


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionRefusedError(), "refused the connection (user-facing.example:8000): is it running?"),
        (socket.gaierror(-2, "unknown"), 'the name "user-facing.example" does not resolve'),
        (TimeoutError(), "did not accept a connection within 5 s"),
        (OSError(113, "no route"), "EHOSTUNREACH"),
    ],
)
@pytest.mark.case("B-01")
def test_a_server_that_cannot_be_reached_is_named_with_what_to_check(error: OSError, words: str):
    told = FAULTS.unreachable(error)

    assert told.message.startswith('server "main" ')
    assert words in told.message
    assert (told.down, told.sent, told.code) == (True, False, SERVER_UNAVAILABLE)


@pytest.mark.case("D-24")
def test_what_is_quoted_in_the_log_is_short_and_cannot_forge_a_line():
    text = quoted(b"<html>\r\n\x1b[31m" + "\u202e".encode() + b"x" * 1000)

    assert len(text) < 200
    assert text.isascii()
    assert text.isprintable()


@pytest.mark.parametrize(
    ("url", "host", "port", "authority", "target"),
    [
        ("http://localhost:8000/mcp", "localhost", 8000, b"localhost:8000", b"/mcp"),
        ("http://example.com", "example.com", 80, b"example.com", b"/"),
        ("http://example.com:80/a/b?c=d", "example.com", 80, b"example.com", b"/a/b?c=d"),
        ("http://[::1]:9/x", "::1", 9, b"[::1]:9", b"/x"),
        ("https://example.com/x", "example.com", 443, b"example.com", b"/x"),
        ("unix:///run/x.sock:/a?b=c", "localhost", 0, b"localhost", b"/a?b=c"),
    ],
)
def test_an_address_is_taken_apart(url: str, host: str, port: int, authority: bytes, target: bytes):
    endpoint = Endpoint(url)

    assert (endpoint.host, endpoint.port, endpoint.authority, endpoint.target) == (host, port, authority, target)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/",
        "example.com",
        "http:///x",
        "http://u:p@example.com/",
        "http://example.com/ä",
        "http://h:x/",
    ],
)
def test_an_unusable_address_is_refused(url: str):
    with pytest.raises(ValueError, match=r"URL|[Pp]ort"):
        Endpoint(url)

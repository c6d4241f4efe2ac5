"""Servers that are not simply at a port: behind TLS, behind Unix sockets, behind proxies."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

from protocol.control import Proxy, Route
from protocol.errors import OUTCOME_UNKNOWN, SERVER_UNAVAILABLE
from protocol.http1 import ResponseHead
from protocol.link import Payload
from protocol.versions import Era
from tests.peers.certificates import Authority
from tests.peers.forward_proxy import ForwardProxy
from tests.peers.raw_server import HangUpError, RawServer, Reply, Request
from tests.workers.backend.harness import Backend, backend, rig
from tests.workers.scripted import RecordingLog, bounded
from workers.backend import way
from workers.backend.endpoint import Endpoint
from workers.backend.exchange import Exchange
from workers.backend.faults import Failure, Faults
from workers.backend.pool import Pool
from workers.backend.way import Way
from workers.reactor import Reactor
from workers.tls import TlsStream

BOTH = pytest.mark.parametrize("era", [Era.LEGACY, Era.MODERN], ids=["legacy", "modern"])


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def trusting(authority: Authority) -> Route:
    return Route(ca_file=authority.file)


# --- https -----------------------------------------------------------------------------------------------------------
@BOTH
async def test_a_server_behind_tls_is_used_as_any_other_and_its_connection_is_kept(
    authority: Authority, trusting: Route, era: Era
):
    server = RawServer(tls=authority.server_context())
    async with rig(server, route=trusting) as (server, one):
        for text in ("first", "x" * 1_000_000, "third"):
            assert (await one.front.call(era=era, arguments={"text": text}).done()).text == text
        assert (await one.front.ask_list(era).done()).names == ["echo"]

        _, *calls = server.received("tools/call")
        assert len({request.connection for request in calls}) == 1


async def test_a_server_at_one_of_its_addresses_is_still_called_by_its_name(
    authority: Authority, trusting: Route, nursery: trio.Nursery
):
    asked: list[str | None] = []
    context = authority.server_context()
    context.sni_callback = lambda sock, name, context: asked.append(name)
    server = await nursery.start(RawServer(host="127.0.0.9", tls=context).serve)  # which "localhost" does not lead to
    url = f"https://localhost:{server.port}/mcp"
    async with backend(url, route=msgspec.structs.replace(trusting, address="127.0.0.9")) as one:
        assert (await one.front.call(arguments={"text": "hello"}).done()).text == "hello"
    hosts = {request.headers["host"] for request in server.requests}
    assert (hosts, set(asked)) == ({f"localhost:{server.port}"}, {"localhost"})

    async with backend(url, route=msgspec.structs.replace(trusting, address="127.0.0.8")) as one:
        fault = (await one.front.call(arguments={"text": "hello"}).done()).fault
        assert f"refused the connection (localhost:{server.port} at 127.0.0.8)" in fault.message


async def test_events_come_through_tls_as_they_are_sent(authority: Authority, trusting: Route):
    released = trio.Event()

    async def tell(request: Request, reply: Reply) -> None:
        await reply.start_events()
        await reply.notify("notifications/progress", {"progressToken": request.message["id"], "progress": 1})
        await released.wait()
        await reply.event({"jsonrpc": "2.0", "id": request.message["id"], "result": {"content": []}})
        await reply.end_events()

    server = RawServer(era="legacy", tls=authority.server_context(), on={"tools/call": tell})
    async with rig(server, route=trusting) as (_, one):
        call = one.front.call(era=Era.LEGACY, progress=True)
        await call.wait_events(1)
        released.set()

        assert (await call.done()).result == {"content": []}


async def test_a_server_that_wants_a_certificate_is_shown_ours(authority: Authority):
    server = RawServer(tls=authority.server_context(client_certificates=True))
    async with rig(server, route=Route(None, authority.file, authority.client)) as (_, one):
        assert (await one.front.call(arguments={"text": "hello"}).done()).text == "hello"


Behave = Callable[[socket.socket], None]


@contextmanager
def doorkeeper(behave: Behave) -> Iterator[int]:
    """Listen, and let each connection be dealt with in a thread; return the port."""

    def serve() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return  # the test is over
            sock.settimeout(5)
            with sock, suppress(OSError):
                behave(sock)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)
    assert not thread.is_alive()


def shake_hands(context: ssl.SSLContext) -> Behave:
    """Do what OpenSSL does by itself, alerts included, and read what comes until the end."""

    def behave(sock: socket.socket) -> None:
        with context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False) as secured:
            with suppress(ssl.SSLError):
                secured.do_handshake()
            # Closing now would reset the connection, and the alert could be lost on its way.
            socket.socket.shutdown(secured, socket.SHUT_WR)
            while socket.socket.recv(secured, 1000):
                pass

    return behave


async def refusal(behave: Behave, route: Route) -> str:
    """Return what is said of a call that cannot be sent, and check that the server is said to be out of reach."""
    with doorkeeper(behave) as port, trio.fail_after(60):
        async with backend(f"https://127.0.0.1:{port}/mcp", route=route) as one:
            fault = (await one.front.call().done()).fault
            state = await one.front.wait_state("backoff")
    assert state.detail == fault.message
    assert (fault.code, fault.sent) == (SERVER_UNAVAILABLE, False)
    assert fault.message.startswith('server "main" ')
    return fault.message


def old(context: ssl.SSLContext) -> ssl.SSLContext:
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    return context


def only_1_2(context: ssl.SSLContext) -> ssl.SSLContext:
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


def for_http2(context: ssl.SSLContext) -> ssl.SSLContext:
    context.set_alpn_protocols(["h2"])
    return context


def answer_plainly(sock: socket.socket) -> None:
    sock.recv(1000)
    sock.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


def insist_on_http_2(sock: socket.socket) -> None:
    sock.recv(4000)
    sock.send(b"\x15\x03\x03\0\x02\x02\x78")  # an alert (RFC 8446, section 6): fatal, no_application_protocol


def hang_up_at_once(sock: socket.socket) -> None:
    sock.recv(1000)


def never_answer(sock: socket.socket) -> None:
    while sock.recv(1000):
        pass


WRONG: dict[str, tuple[Callable[[Authority], Behave], str]] = {
    "expired": (
        lambda a: shake_hands(a.server_context(a.issue("expired", "127.0.0.1", expired=True))),
        "has a certificate that has expired",
    ),
    "wrong name": (
        lambda a: shake_hands(a.server_context(a.issue("other", "other.example"))),
        "has a certificate for another name than 127.0.0.1",
    ),
    "wants a certificate": (
        lambda a: shake_hands(a.server_context(client_certificates=True)),
        "CERTIFICATE_REQUIRED): if it wants a certificate, set client_cert and client_key",
    ),
    "wants a certificate, TLS 1.2": (
        lambda a: shake_hands(only_1_2(a.server_context(client_certificates=True))),
        "HANDSHAKE_FAILURE): if it wants a certificate, set client_cert and client_key",
    ),
    "too old": (lambda a: shake_hands(old(a.server_context())), "speaks only versions of TLS older than 1.2"),
    "HTTP/2 alone": (lambda _: insist_on_http_2, "does not speak HTTP/1.1 (127.0.0.1:"),
    "no TLS": (lambda _: answer_plainly, "does not speak TLS on that port"),
    "hangs up": (lambda _: hang_up_at_once, "closed the connection in the TLS handshake"),
}


@pytest.mark.case("B-15")
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
@pytest.mark.parametrize("what", WRONG)
async def test_what_is_wrong_with_tls_is_said_and_no_request_is_sent(authority: Authority, trusting: Route, what: str):
    make, words = WRONG[what]

    assert words in await refusal(make(authority), trusting)


HTTP_2: dict[str, tuple[Callable[[Authority], Behave], str]] = {
    "wants a certificate": (
        lambda a: shake_hands(for_http2(a.server_context(client_certificates=True))),
        "CERTIFICATE_REQUIRED): if it wants a certificate, set client_cert and client_key",
    ),
    "neither": (lambda _: insist_on_http_2, "speaks neither HTTP/1.1 nor HTTP/2 on that port"),
}


@pytest.mark.case("B-15")
@pytest.mark.parametrize("what", HTTP_2)
async def test_what_is_wrong_with_tls_is_said_as_well_where_http_2_is_offered(
    authority: Authority, trusting: Route, what: str
):
    make, words = HTTP_2[what]

    assert words in await refusal(make(authority), msgspec.structs.replace(trusting, http2=True))


@pytest.mark.case("B-15")
async def test_an_authority_that_is_not_trusted_is_said_to_be_unknown(authority: Authority, tmp_path: Path):
    told = await refusal(shake_hands(authority.server_context()), Route(ca_file=Authority(tmp_path).file))

    assert "has a certificate of an unknown authority" in told
    assert "name its file in ca_file" in told


@pytest.mark.case("B-15")
async def test_a_certificate_of_ours_that_is_not_accepted_is_said_to_be_the_reason(
    authority: Authority, tmp_path: Path
):
    stranger = Authority(tmp_path).client
    behave = shake_hands(authority.server_context(client_certificates=True))

    assert "does not accept our certificate" in await refusal(behave, Route(None, authority.file, stranger))


@pytest.mark.case("B-15")
async def test_a_handshake_that_does_not_come_to_its_end_is_given_up(trusting: Route, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(way, "TLS_HANDSHAKE_S", 0.05)

    assert "did not finish the TLS handshake" in await refusal(never_answer, trusting)


async def test_a_file_that_cannot_be_used_is_named(tmp_path: Path):
    told = await refusal(never_answer, Route(ca_file=str(tmp_path / "none.pem")))

    assert f"its ca_file {tmp_path}/none.pem cannot be read: No such file or directory; correct the" in told


@pytest.mark.case("B-15")
async def test_an_answer_that_tls_did_not_see_the_end_of_is_no_answer(authority: Authority, trusting: Route):
    async def cut_off(request: Request, reply: Reply) -> None:
        await reply.head(200, ("Content-Type", "application/json"), ("Connection", "close"))  # as long as it lasts
        await reply.raw(b'{"jsonrpc":"2.0","id":%b,"result":{}}' % json.dumps(request.message["id"]).encode())
        assert isinstance(reply.stream, trio.SSLStream)
        await reply.stream.transport_stream.aclose()
        raise HangUpError

    server = RawServer(era="legacy", tls=authority.server_context(), on={"tools/call": cut_off})
    async with rig(server, route=trusting) as (_, one):
        fault = (await one.front.call().done()).fault

    assert (fault.code, fault.sent) == (OUTCOME_UNKNOWN, True)


async def test_later_connections_go_on_with_the_session_of_the_first(authority: Authority, trusting: Route):
    reused: list[bool] = []

    async def note(request: Request, reply: Reply) -> None:
        assert isinstance(reply.stream, trio.SSLStream)
        reused.append(reply.stream.session_reused)
        await reply.result({"content": []})
        raise HangUpError

    server = RawServer(era="modern", tls=authority.server_context(), on={"tools/call": note})
    async with rig(server, route=trusting) as (_, one):
        for _ in range(2):
            await one.front.call().done()

    assert reused[1]


# --- Unix sockets ----------------------------------------------------------------------------------------------------
@BOTH
async def test_a_server_behind_a_unix_socket_is_used_as_any_other(tmp_path: Path, era: Era):
    async with rig(RawServer(unix=str(tmp_path / "server.sock"))) as (server, one):
        for text in ("first", "second"):
            assert (await one.front.call(era=era, arguments={"text": text}).done()).text == text

        request = server.requests[-1]
        assert (request.target, request.headers["host"]) == ("/mcp", "localhost")


@pytest.mark.case("B-01")
async def test_a_unix_socket_without_a_server_is_said_to_be_so(tmp_path: Path):
    path = tmp_path / "server.sock"
    for words in ("does not exist; is it running?", "has nobody listening on it; is it running?"):
        with trio.fail_after(60):
            async with backend(f"unix://{path}:/mcp") as one:
                fault = (await one.front.call().done()).fault
        assert fault.message == f'server "main" cannot be reached: the socket {path} {words}'
        assert not fault.sent
        if not path.exists():
            with socket.socket(socket.AF_UNIX) as left_behind:
                left_behind.bind(str(path))


# --- proxies ---------------------------------------------------------------------------------------------------------
SECRET = "Basic bWU6aHVudGVyMmNhbmFyeQ=="


@asynccontextmanager
async def before(server: RawServer, route: Route, **answers: str) -> AsyncIterator[tuple[ForwardProxy, Backend]]:
    """Run a proxy before this server, and a worker that goes through it."""
    async with trio.open_nursery() as nursery:
        with trio.fail_after(60):
            proxy = await nursery.start(ForwardProxy(**answers).serve)
            running = await nursery.start(server.serve)
            way_there = Proxy("127.0.0.1", proxy.port, SECRET)
            url = running.url.replace("127.0.0.1", "localhost")
            async with backend(url, route=msgspec.structs.replace(route, proxy=way_there)) as one:
                yield proxy, one
        nursery.cancel_scope.cancel()


async def test_a_proxy_is_given_the_whole_url_and_its_password(authority: Authority):
    async with before(RawServer(), Route()) as (proxy, one):
        assert (await one.front.call(arguments={"text": "hello"}).done()).text == "hello"

        assert {request.line for request in proxy.requests} == {f"POST http://localhost:{proxy.last_port}/mcp HTTP/1.1"}
        assert {request.headers["proxy-authorization"] for request in proxy.requests} == {SECRET}


async def test_a_proxy_before_tls_is_asked_for_a_tunnel_and_sees_nothing_else(authority: Authority, trusting: Route):
    server = RawServer(tls=authority.server_context())
    async with before(server, trusting) as (proxy, one):
        assert (await one.front.call(arguments={"text": "hello"}).done()).text == "hello"

        assert {request.line for request in proxy.requests} == {f"CONNECT localhost:{server.port} HTTP/1.1"}
        assert {request.headers["proxy-authorization"] for request in proxy.requests} == {SECRET}
    assert all("proxy-authorization" not in request.headers for request in server.requests)


@pytest.mark.case("D-25")
@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("HTTP/1.1 407 Who are you?", "answered with HTTP 407; name a user in its URL"),
        ("HTTP/1.1 403 No", "answered with HTTP 403; check its settings"),
        ("SSH-2.0-OpenSSH", "did not answer as a proxy does; check its settings"),
        ("HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200", "sent something that the server cannot have said; check its settings"),
    ],
)
async def test_a_tunnel_that_is_refused_is_said_to_be_the_proxys_fault(
    authority: Authority, trusting: Route, answer: str, words: str
):
    async with before(RawServer(tls=authority.server_context()), trusting, tunnel=answer) as (proxy, one):
        fault = (await one.front.call().done()).fault

        assert fault.message == f'server "main" cannot be reached: the proxy 127.0.0.1:{proxy.port} {words}'
        assert not fault.sent


async def test_a_proxy_that_wants_another_password_is_told_apart_from_the_server():
    async with before(RawServer(), Route(), plain="HTTP/1.1 407 Who are you?\r\nContent-Length: 0") as (_, one):
        assert "the proxy before it needs authorization (HTTP 407)" in (await one.front.call().done()).fault.message


async def test_a_proxy_that_is_not_there_is_said_to_be_so():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with trio.fail_after(60):
        async with backend("http://server.example/mcp", route=Route(Proxy("127.0.0.1", port))) as one:
            fault = (await one.front.call().done()).fault

    words = f"cannot be reached: the proxy before it refused the connection (127.0.0.1:{port}): is it running?"
    assert fault.message == f'server "main" {words}'


@pytest.mark.case("D-16")
async def test_a_public_name_with_a_private_address_is_configured_as_such_or_refused(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
):
    server = await nursery.start(RawServer().serve)

    async def look_up(host: str, port: int, **_: object) -> list[object]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(trio.socket, "getaddrinfo", look_up)
    for host, route in (("mcp.example.com", Route(allow_private=True)), ("search", Route()), ("a.internal", Route())):
        async with backend(f"http://{host}:{server.port}/mcp", route=route) as one:
            assert (await one.front.call(arguments={"text": "hello"}).done()).text == "hello"
    connections = server.connections
    for route in (Route(), Route(address="127.0.0.1")):  # as one of several that the name has
        async with backend(f"http://mcp.example.com:{server.port}/mcp", route=route) as one:
            fault = (await one.front.call().done()).fault
        assert (fault.code, fault.sent) == (SERVER_UNAVAILABLE, False)
        assert 'the name "mcp.example.com" leads to a private address' in fault.message
        assert "allow_private = true" in fault.message
    assert server.connections == connections


# --- connections that have died --------------------------------------------------------------------------------------
class Once(Exchange):
    """A request that must not be sent twice."""

    def __init__(self, marks: list[str]) -> None:
        super().__init__(repeatable=False)
        self.request = (b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}",)
        self.marks = marks
        self.done = trio.Event()

    def writing(self) -> None:
        self.marks.append("sent")

    def unwritten(self) -> None:
        self.marks.append("not sent")

    def answered(self, head: ResponseHead, body: Payload) -> bool:
        self.marks.append("answered")
        self.done.set()
        return True

    def failed(self, failure: Failure) -> None:
        self.marks.append(failure.message)
        self.done.set()


@pytest.mark.case("B-03")
async def test_a_request_on_a_connection_that_is_known_to_have_died_was_not_sent_and_is_sent_on_another(
    reactor: Reactor, log: RecordingLog
):
    """The kernel knows, but the loop has not been told yet."""
    endpoint = Endpoint("http://localhost/mcp")
    peers: list[socket.socket] = []

    class Near(Way):
        async def connect(self) -> tuple[socket.socket, TlsStream | None]:
            ours, theirs = socket.socketpair()
            peers.append(theirs)
            return ours, None

    faults = Faults("main", endpoint)
    pool = Pool(reactor, Near(reactor, endpoint), faults, log, connected=lambda: None, used=lambda: None)
    ok = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    marks: list[str] = []
    for _ in range(2):  # the second request shows that connections are kept
        exchange = Once(marks)
        pool.submit(exchange)
        await trio.testing.wait_all_tasks_blocked(0.01)
        peers[0].send(ok)
        with bounded():
            await exchange.done.wait()
        pool.keeps_alive = True

    marks.clear()
    peers[0].close()
    exchange = Once(marks)
    pool.submit(exchange)
    await trio.testing.wait_all_tasks_blocked(0.01)
    peers[1].send(ok)
    with bounded():
        await exchange.done.wait()

    assert marks == ["sent", "not sent", "sent", "answered"]
    assert len(peers) == 2
    peers[1].close()
    pool.close()

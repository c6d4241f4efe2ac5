"""TLS on streams of the reactor; the other ends are the standard library's and trio's."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
import trio
from cryptography.hazmat.primitives import serialization
from trio.testing import wait_all_tasks_blocked

from protocol.limits import STREAM_BUFFER_HIGH_BYTES
from tests.peers.certificates import Authority
from tests.workers.scripted import Recorder, bounded
from workers import tls
from workers.reactor import Reactor
from workers.tls import ContextError, TlsStream

LARGE = os.urandom(3_000_000)


class Peer:
    """The other end: TLS as trio does it. Closed after the test."""

    sockets: ClassVar[list[socket.socket]] = []

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, *, server_side: bool) -> None:
        self.sockets.append(sock)
        sock.setblocking(False)
        self.sock = trio.socket.from_stdlib_socket(sock)
        name = None if server_side else "localhost"
        self.tls = trio.SSLStream(trio.SocketStream(self.sock), context, server_side=server_side, server_hostname=name)

    async def send(self, data: bytes) -> None:
        await self.tls.send_all(data)

    async def read(self, count: int) -> bytes:
        with bounded():
            found = bytearray()
            while len(found) < count and (data := await self.tls.receive_some(65536)):
                found += data
            return bytes(found)


@pytest.fixture(autouse=True)
def _close_peers() -> Iterator[None]:
    yield
    while Peer.sockets:
        Peer.sockets.pop().close()


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


async def client(reactor: Reactor, authority: Authority) -> tuple[TlsStream, Recorder, Peer]:
    """Return a client's stream after the handshake, its handler, and the server it is connected to."""
    ours, theirs = socket.socketpair()
    peer = Peer(theirs, authority.server_context(), server_side=True)
    handler = Recorder()
    with bounded():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.tls.do_handshake)
            stream = await tls.connect(reactor, ours, tls.client_context(authority.file), "localhost")
    stream.handler = handler
    stream.resume_reading()
    return stream, handler, peer


async def server(reactor: Reactor, authority: Authority) -> tuple[TlsStream, Recorder, Peer]:
    """The same for a server's stream."""
    ours, theirs = socket.socketpair()
    handler = Recorder()
    context = tls.server_context(authority.server)
    stream = TlsStream(reactor, ours, handler, context, server_side=True, secured=handler.changed)
    peer = Peer(theirs, authority.client_context(), server_side=False)
    with bounded():
        await peer.tls.do_handshake()
    await handler.until(lambda: stream.is_secured)
    return stream, handler, peer


SIDES = [client, server]


@pytest.mark.parametrize("side", SIDES)
async def test_bytes_travel_both_ways_encrypted(reactor: Reactor, authority: Authority, side):
    stream, handler, peer = await side(reactor, authority)

    await peer.send(b"to the stream")
    assert await handler.until_received(13) == b"to the stream"
    stream.writelines((b"and ", bytearray(b"back "), memoryview(b"again")))

    assert await peer.read(14) == b"and back again"
    assert stream.is_secured
    assert peer.tls.version() == "TLSv1.3"
    assert peer.tls.selected_alpn_protocol() is None


@pytest.mark.parametrize("side", SIDES)
async def test_much_at_once_arrives_whole_and_in_order(reactor: Reactor, authority: Authority, side):
    stream, handler, peer = await side(reactor, authority)

    stream.writelines((LARGE, b"and a little"))
    assert stream.buffered > STREAM_BUFFER_HIGH_BYTES
    assert await peer.read(len(LARGE) + 12) == LARGE + b"and a little"
    await handler.until_told("drained")
    with bounded():
        await peer.send(LARGE)
    assert await handler.until_received(len(LARGE)) == LARGE


class Inner:
    """In place of the socket's stream: keeps what is written, and refuses it from the write with this number on."""

    def __init__(self, refused_from: int = 1000) -> None:
        self.written: list[bytes] = []
        self.refused_write = False
        self._refused_from = refused_from

    def write(self, data: bytes) -> None:
        self.refused_write = len(self.written) >= self._refused_from
        self.written.append(data)


async def test_much_at_once_is_encrypted_piece_by_piece(reactor: Reactor, authority: Authority):
    stream, _, _ = await client(reactor, authority)
    real, stream._inner = stream._inner, Inner()  # pyright: ignore[reportAttributeAccessIssue]
    stream.writelines((b"first", LARGE, b"last"))
    sizes = [len(data) for data in stream._inner.written]
    stream._inner = real
    stream.abort()

    assert max(sizes) <= tls.PIECE_BYTES + 2 * tls.RECORD_BYTES_MAX
    assert len(LARGE) < sum(sizes) < len(LARGE) * 1.01


@pytest.mark.parametrize(("refused_from", "refused"), [(0, True), (1, False), (3, False)])
async def test_what_was_begun_to_be_sent_does_not_count_as_refused(
    reactor: Reactor, authority: Authority, refused_from: int, refused: bool
):
    """A request of which the kernel has taken a piece may not be made again."""
    stream, _, _ = await client(reactor, authority)
    real, stream._inner = stream._inner, Inner(refused_from)  # pyright: ignore[reportAttributeAccessIssue]
    stream.write(LARGE)
    was_refused = stream.refused_write
    stream._inner = real
    stream.abort()

    assert was_refused is refused


async def test_large_bodies_are_decrypted_straight_into_their_buffer(reactor: Reactor, authority: Authority):
    stream, handler, peer = await client(reactor, authority)
    place = bytearray(len(LARGE))
    filled = 0

    def move_on(count: int) -> None:
        nonlocal filled
        filled += count
        stream.into = memoryview(place)[filled:] if filled < len(place) else None

    handler.on_into = move_on
    stream.into = memoryview(place)
    with bounded():
        await peer.send(LARGE + b"the rest")

    assert await handler.until_received(8) == b"the rest"
    assert place == LARGE


async def test_it_does_not_matter_how_records_are_cut_on_their_way(reactor: Reactor, authority: Authority):
    """A server gets the whole conversation of its client byte by byte."""
    ours, theirs = socket.socketpair()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    end = authority.client_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    handler = Recorder()
    context = tls.server_context(authority.server)
    stream = TlsStream(reactor, ours, handler, context, server_side=True, secured=handler.changed)
    peer = trio.socket.from_stdlib_socket(theirs)

    async def drip() -> None:
        for byte in outgoing.read():
            await peer.send(bytes([byte]))
            await trio.lowlevel.checkpoint()

    with peer, bounded():
        while not end.version() or not stream.is_secured:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                await drip()
                incoming.write(await peer.recv(65536))
            else:
                await drip()
                await handler.until(lambda: stream.is_secured)
        end.write(b"first ")
        end.write(b"second")
        await drip()

        assert await handler.until_received(12) == b"first second"


async def test_a_paused_stream_hands_nothing_on_until_it_is_resumed_also_of_what_had_come(
    reactor: Reactor, authority: Authority
):
    stream, handler, peer = await client(reactor, authority)
    handler.on_data = lambda _: stream.pause_reading()

    with bounded():
        await peer.send(b"a" * tls.RECORD_BYTES_MAX + b"b" * tls.RECORD_BYTES_MAX)  # records that are read together
        await handler.until_received(1)
        await wait_all_tasks_blocked()
    assert handler.received == b"a" * tls.RECORD_BYTES_MAX

    handler.on_data = lambda _: None
    stream.resume_reading()
    assert (await handler.until_received(2 * tls.RECORD_BYTES_MAX)).endswith(b"b")


# --- the end ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("side", SIDES)
async def test_an_end_that_is_announced_is_told_as_one(reactor: Reactor, authority: Authority, side):
    stream, handler, peer = await side(reactor, authority)

    await peer.send(b"last words")
    with bounded():
        await peer.tls.aclose()
    await handler.until_told("eof")
    stream.close()
    await handler.until_told("closed")

    assert handler.received == b"last words"
    assert (handler.told, handler.error) == (["eof", "closed"], None)


@pytest.mark.case("B-15")
@pytest.mark.parametrize("side", SIDES)
async def test_an_end_that_is_not_announced_is_an_error(reactor: Reactor, authority: Authority, side):
    _, handler, peer = await side(reactor, authority)

    await peer.send(b"the first half")
    peer.sock.close()
    await handler.until_told("closed")

    assert handler.received == b"the first half"
    assert handler.told == ["closed"]
    assert isinstance(handler.error, ssl.SSLEOFError | ConnectionResetError)


@pytest.mark.parametrize("end", ["close", "abort", "finish"])
@pytest.mark.parametrize("side", SIDES)
async def test_our_own_end_is_announced(reactor: Reactor, authority: Authority, side, end: str):
    stream, handler, peer = await side(reactor, authority)

    stream.write(b"last words")
    getattr(stream, end)()
    stream.write(b"nothing may follow")

    assert await peer.read(100) == b"last words"  # trio would raise if the end had not been announced
    peer.sock.close()
    if end == "finish":
        await handler.until_told("eof")
        stream.close()
    await handler.until_told("closed")


async def test_a_record_that_was_changed_on_the_way_ends_the_stream(reactor: Reactor, authority: Authority):
    _, handler, peer = await server(reactor, authority)

    await peer.sock.send(b"\x17\x03\x03\x00\x20" + bytes(32))
    await handler.until_told("closed")

    assert not handler.received
    assert isinstance(handler.error, ssl.SSLError)
    with pytest.raises(trio.BrokenResourceError), bounded():
        await peer.read(1)  # the peer has been told why


@pytest.mark.case("A-16")
async def test_who_does_not_speak_tls_to_a_server_that_does_is_cut_off(reactor: Reactor, authority: Authority):
    ours, theirs = socket.socketpair()
    handler = Recorder()
    stream = TlsStream(reactor, ours, handler, tls.server_context(authority.server), server_side=True)
    stream.write(b"too early, so it is dropped")
    with theirs:
        theirs.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await handler.until_told("closed")

        assert b"early" not in theirs.recv(1000)
    assert not handler.received
    assert isinstance(handler.error, ssl.SSLError)


# --- handshakes ------------------------------------------------------------------------------------------------------
async def shake(reactor: Reactor, context: ssl.SSLContext, peer: ssl.SSLContext, name: str = "localhost") -> TlsStream:
    """Shake hands with a server of the standard library's."""
    ours, theirs = socket.socketpair()
    end = Peer(theirs, peer, server_side=True)

    async def be_server() -> None:
        try:
            await end.tls.do_handshake()
            await end.send(b"!")
        except trio.BrokenResourceError:
            end.sock.close()

    with bounded():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(be_server)
            try:
                outcome = await tls.connect(reactor, ours, context, name)
            except OSError as error:
                outcome = error
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    if isinstance(outcome, OSError):
        raise outcome
    return outcome


@pytest.mark.case("B-15")
@pytest.mark.parametrize(
    ("files", "name", "code"),
    [
        (("expired", "localhost"), "localhost", 10),
        (("other", "other.example"), "localhost", 62),
        (("host", "localhost"), "127.0.0.1", 64),
    ],
)
async def test_a_certificate_that_is_expired_or_names_another_is_refused(
    reactor: Reactor, authority: Authority, files: tuple[str, str], name: str, code: int
):
    file, named = files
    certificate = authority.issue(file, named, expired=file == "expired")

    with pytest.raises(ssl.SSLCertVerificationError) as caught:
        await shake(reactor, tls.client_context(authority.file), authority.server_context(certificate), name)

    assert caught.value.verify_code == code


@pytest.mark.case("B-15")
async def test_an_authority_that_nobody_has_named_is_not_trusted(
    reactor: Reactor, authority: Authority, tmp_path: Path
):
    with pytest.raises(ssl.SSLCertVerificationError):
        await shake(reactor, tls.client_context(Authority(tmp_path).file), authority.server_context())


@pytest.mark.case("B-15")
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
async def test_versions_older_than_1_2_are_refused(reactor: Reactor, authority: Authority):
    old = authority.server_context()
    old.minimum_version = ssl.TLSVersion.TLSv1_1
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError):
        await shake(reactor, tls.client_context(authority.file), old)

    newest = authority.server_context()
    newest.maximum_version = ssl.TLSVersion.TLSv1_2
    stream = await shake(reactor, tls.client_context(authority.file), newest)
    stream.abort()


async def test_a_handshake_that_is_given_up_closes_the_connection(reactor: Reactor, authority: Authority):
    ours, theirs = socket.socketpair()
    with theirs, trio.move_on_after(0.01) as patience:
        await tls.connect(reactor, ours, tls.client_context(authority.file), "localhost")
    assert patience.cancelled_caught
    await wait_all_tasks_blocked()
    assert ours.fileno() == -1


async def test_a_peer_that_hangs_up_in_the_handshake_is_an_error(reactor: Reactor, authority: Authority):
    ours, theirs = socket.socketpair()
    theirs.close()
    with pytest.raises(OSError, match=r"."), bounded():
        await tls.connect(reactor, ours, tls.client_context(authority.file), "localhost")


async def test_the_second_connection_goes_on_with_the_session_of_the_first(reactor: Reactor, authority: Authority):
    context, peer = tls.client_context(authority.file), authority.server_context()
    handler = Recorder()
    first = await shake(reactor, context, peer)
    first.handler = handler
    first.resume_reading()
    assert await handler.until_received(1) == b"!"
    session = first.session
    first.abort()
    assert session is not None

    ours, theirs = socket.socketpair()
    end = Peer(theirs, peer, server_side=True)
    with bounded():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(end.tls.do_handshake)
            stream = await tls.connect(reactor, ours, context, "localhost", session)

    assert stream._ssl.session_reused
    stream.abort()
    await wait_all_tasks_blocked()


# --- certificates and keys -------------------------------------------------------------------------------------------
def test_a_server_without_a_certificate_of_its_clients_refuses_them_if_it_wants_one(authority: Authority):
    assert tls.server_context(authority.server).verify_mode is ssl.CERT_NONE
    assert tls.server_context(authority.server, client_ca=authority.file).verify_mode is ssl.CERT_REQUIRED


def test_files_that_cannot_be_used_are_named_with_the_reason(authority: Authority, tmp_path: Path):
    missing, text, encrypted = (str(tmp_path / name) for name in ("missing", "text", "encrypted"))
    Path(text).write_text("no certificate")
    key = serialization.load_pem_private_key(Path(authority.server).read_bytes(), None)
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
    Path(encrypted).write_bytes(key.private_bytes(*form))
    wrong = authority.issue("another", "localhost")

    for make, words in [
        (lambda: tls.client_context(missing), f"ca_file {missing} cannot be read: No such file or directory"),
        (lambda: tls.client_context(text), f"ca_file {text} does not hold what is needed, in PEM form"),
        (lambda: tls.client_context("", missing), f"client_cert {missing} cannot be read: No such file or directory"),
        (
            lambda: tls.client_context("", authority.server, missing),
            f"client_key {missing} cannot be read: No such file or directory",
        ),
        (
            lambda: tls.client_context("", authority.server, wrong),
            f"client_key {wrong} does not belong to the certificate",
        ),
        (lambda: tls.client_context("", authority.server, encrypted), f"client_key {encrypted} is encrypted"),
        (lambda: tls.server_context(text), f"certificate {text} does not hold what is needed, in PEM form"),
    ]:
        with pytest.raises(ContextError) as caught:
            make()
        assert str(caught.value).startswith(words)

"""The admin door: a small REST API over HTTP/1.1 on a Unix socket or a port, for `ctl` and for scripts of the user.

    GET    /v1/status                      how the proxy is (as the tool `proxy_status`)
    GET    /v1/health                      the same in a few numbers (as `proxy_health`)
    GET    /metrics                        all numbers, for Prometheus (text, not JSON)
    GET    /v1/servers                     all servers
    POST   /v1/servers                     add one; the body is a JSON object: name, url, and what else `add` takes
    DELETE /v1/servers/NAME                remove it
    POST   /v1/servers/NAME/enable         also disable, restart, drain, undrain
    POST   /v1/servers/NAME/weight?to=W    give a replica another portion of its group's calls: 3, 5%, default
    GET    /v1/servers/NAME/health         check it now; NAME "all" checks all
    GET    /v1/servers/NAME/logs?lines=N   the last lines about it
    POST   /v1/config/reload               do what the configuration file says now
    GET    /v1/config/reload               tell what that would be
    POST   /v1/config/rollback             undo the last change that the proxy has made to the file

Other bodies are JSON objects in both directions; a status of 400 or more comes with `{"success": false, "error": …}`.

Rule 1: on a Unix socket, whoever is not our own user (or the system's) is turned away before a byte is read. On a port,
every request has to bring the token.
Rule 2: a connection is one task that serves one request at a time, and there are few; none can hold up the root.
"""

from __future__ import annotations

import os
import socket
import traceback
from typing import Final
from urllib.parse import parse_qs, unquote

import msgspec
import trio

from protocol import management
from protocol.http1 import HttpError, RequestParser, response
from protocol.http1 import Request as HttpRequest
from protocol.jsonrpc import Raw, RpcError, decode_object, encode_object
from protocol.limits import ADMIN_CONNECTIONS_MAX, ADMIN_IDLE_S, KIB, MANAGE_ARGUMENTS_BYTES_MAX
from protocol.management import ArgumentError, Request
from supervisor.admin_port import may_enter
from supervisor.admin_socket import peer_uid
from supervisor.exposition import wants_openmetrics
from supervisor.logs import Log
from supervisor.operations import Answer, Operations

READ_BYTES: Final = 16 * KIB
LINGER_S: Final = 1.0
METRICS_PATH: Final = b"/metrics"
_JSON: Final = ((b"content-type", b"application/json"),)
_BY_METHOD: Final = {
    (b"GET", "health"): management.HEALTH,
    (b"GET", "logs"): management.LOGS,
    (b"POST", "enable"): management.ENABLE,
    (b"POST", "disable"): management.DISABLE,
    (b"POST", "restart"): management.RESTART,
    (b"POST", "drain"): management.DRAIN,
    (b"POST", "undrain"): management.UNDRAIN,
    (b"POST", "weight"): management.WEIGHT,
}
"""What may be asked of one server."""


class NoSuchThing(Exception):
    """Nothing is served there, or not with this method."""


class Admin:
    """Serves the connections of one listening socket. `token`: None for a Unix socket."""

    def __init__(self, sock: socket.socket, operations: Operations, log: Log, token: bytes | None = None) -> None:
        self._sock = sock
        self._operations = operations
        self._log = log
        self._token = token
        self._connections = 0
        self._accepting = trio.CancelScope()

    def leave(self) -> None:
        """Accept nobody any more, because another process does, but answer those who are connected."""
        self._accepting.cancel()

    async def serve(self) -> None:
        """Serve until cancelled, or until all have been answered after `leave`."""
        # A copy, because the listener closes its socket when it ends, and this one belongs to who made it.
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(self._sock.dup()))
        async with trio.open_nursery() as connections:
            with self._accepting:
                await trio.serve_listeners(self._accepted, [listener], handler_nursery=connections)

    async def _accepted(self, stream: trio.SocketStream) -> None:
        if self._token is None and not self._is_ours(stream):
            await stream.aclose()
            return
        self._connections += 1
        try:
            async with stream:
                if self._connections <= ADMIN_CONNECTIONS_MAX:
                    await _Connection(stream, self._operations, self._token).serve()
                elif self._connections <= 2 * ADMIN_CONNECTIONS_MAX:
                    await _refuse(stream, 503, "too many connections; try again")
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            pass  # it has gone, or does not read
        except Exception as error:  # noqa: BLE001 - a defect that shows on one connection must not take the root with it
            self._log.error(f"the admin door failed: {error!r}", exception=traceback.format_exc())
        finally:
            self._connections -= 1

    def _is_ours(self, stream: trio.SocketStream) -> bool:
        uid = peer_uid(stream.socket)  # pyright: ignore[reportArgumentType] - has every method of a socket that is used
        if uid in (os.geteuid(), 0):
            return True
        self._log.warning(f"user {uid} was turned away from the admin socket")
        return False


async def _refuse(stream: trio.SocketStream, status: int, why: str, *fields: tuple[bytes, bytes]) -> None:
    """Say why a connection is closed, and give its client time to read it.

    One that is closed with something unread in it is reset, and what was written is lost.
    """
    with trio.move_on_after(LINGER_S):
        await stream.send_all(response(status, (*_JSON, *fields), management.failure(why), close=True))
        await stream.send_eof()
        while await stream.receive_some(READ_BYTES):
            pass


class _Connection:
    """One connection: requests are served in their order, one at a time."""

    def __init__(self, stream: trio.SocketStream, operations: Operations, token: bytes | None) -> None:
        self._stream = stream
        self._operations = operations
        self._token = token
        self._requests: list[HttpRequest] = []
        self._parser = RequestParser(
            lambda request: None, self._requests.append, body_bytes_max=MANAGE_ARGUMENTS_BYTES_MAX
        )

    async def serve(self) -> None:
        while True:
            refusal: HttpError | None = None
            with trio.fail_after(ADMIN_IDLE_S):  # for a whole request: who drips holds a place no longer than others
                while not self._requests and refusal is None:
                    data = await self._stream.receive_some(READ_BYTES)
                    if not data:
                        return
                    try:
                        self._parser.feed(data)
                    except HttpError as error:
                        refusal = error
            for request in self._requests:
                if self._token is not None and not may_enter(request.headers.get(b"authorization", b""), self._token):
                    why = "the admin port needs its token: Authorization: Bearer TOKEN"
                    await _refuse(self._stream, 401, why, (b"www-authenticate", b'Bearer realm="mcp-bulkhead"'))
                    return
                answer = await self._answer(request)
                await self._send(answer, close=not request.keep_alive)
                if not request.keep_alive:
                    return
            self._requests.clear()
            if refusal is not None:
                await _refuse(self._stream, refusal.status, refusal.message)
                return

    async def _answer(self, request: HttpRequest) -> Answer:
        if (request.method, request.target.partition(b"?")[0]) == (b"GET", METRICS_PATH):
            accept = request.headers.get(b"accept", b"")
            return self._operations.metrics(openmetrics=wants_openmetrics(accept))
        try:
            return await self._operations.serve(request_of(request.method, request.target, bytes(request.body)))
        except NoSuchThing as error:
            return Answer(404, management.failure(str(error)))
        except ArgumentError as error:
            return Answer(400, management.failure(str(error)))

    async def _send(self, answer: Answer, *, close: bool) -> None:
        fields = ((b"content-type", answer.content_type),)
        with trio.fail_after(ADMIN_IDLE_S):
            await self._stream.send_all(response(answer.status, fields, answer.body, close=close))


def request_of(method: bytes, target: bytes, body: bytes) -> Request:
    """Return the operation that an HTTP request asks for.

    Errors: `NoSuchThing`; `ArgumentError`.
    """
    path, _, query = target.decode("ascii").partition("?")
    match (method, *path.strip("/").split("/")):
        case (b"GET", "v1", "status"):
            return Request(management.PROXY_STATUS)
        case (b"GET", "v1", "health"):
            return Request(management.PROXY_HEALTH)
        case (b"GET", "v1", "servers"):
            return Request(management.LIST)
        case (b"POST", "v1", "servers"):
            return _addition(body)
        case (b"DELETE", "v1", "servers", name):
            return Request(management.REMOVE, name=unquote(name))
        case (b"POST", "v1", "config", "reload"):
            return Request(management.RELOAD)
        case (b"GET", "v1", "config", "reload"):
            return Request(management.RELOAD, dry_run=True)
        case (b"POST", "v1", "config", "rollback"):
            return Request(management.ROLLBACK)
        case (_, "v1", "servers", name, what) if (method, what) in _BY_METHOD:
            operation = _BY_METHOD[method, what]
            if operation == management.LOGS:
                return Request(operation, name=unquote(name), lines=_lines(query))
            if operation == management.WEIGHT:
                return Request(operation, name=unquote(name), weight=parse_qs(query).get("to", [""])[-1])
            return Request(operation, name=unquote(name))
        case _:
            raise NoSuchThing(f"nothing is served at {method.decode()} {path[:80]}; see docs/management.md")


def _addition(body: bytes) -> Request:
    try:
        members = decode_object(Raw(body), "the body")
    except RpcError as error:
        raise ArgumentError(error.message) from None
    if "operation" in members:
        raise ArgumentError("the body must not name an operation")
    members["operation"] = Raw(msgspec.json.encode(management.ADD))
    return management.request_from(management.MANAGE, encode_object(members))


def _lines(query: str) -> int:
    given = parse_qs(query).get("lines", [str(management.LOG_LINES_USUAL)])[-1]
    if not (given.isascii() and given.isdigit() and len(given) <= 6):
        raise ArgumentError("lines must be a number")
    return int(given)

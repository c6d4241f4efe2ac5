"""Opens MCP clients over HTTP up to the point where all that is left to do is calling."""

from __future__ import annotations

import contextlib
import dataclasses
import ssl
from typing import Final

from benchmarks import messages, wire
from benchmarks.messages import Workload
from benchmarks.wire import ANSWER_WAIT_S, Address, ExchangeError, Response
from protocol.versions import Era

HEAD_BYTES_MAX: Final = 16 * 1024
"""Room in a client's buffer beside the payload."""


@dataclasses.dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a subject takes requests."""

    address: Address
    path: str
    tls: ssl.SSLContext | None = None


class Client:
    """One client: its connection, its legacy session, its prepared request, the call it waits for."""

    __slots__ = (
        "after_id",
        "before_id",
        "call_id",
        "closing",
        "endpoint",
        "fed",
        "filled",
        "memory",
        "peer",
        "response",
        "session",
        "started_ns",
        "view",
    )

    def __init__(self, endpoint: Endpoint, buffer_bytes: int) -> None:
        self.endpoint = endpoint
        self.peer = wire.connect(endpoint.address, endpoint.tls)
        self.session = b""
        self.before_id = b""
        self.after_id = b""
        self.call_id = b""
        """Id of the call in flight; empty if there is none."""
        self.started_ns = 0
        self.memory = bytearray(buffer_bytes)
        self.view = memoryview(self.memory)
        self.filled = 0
        """Bytes of the answer so far."""
        self.response: Response | None = None
        """The answer's parser, once the answer was seen to differ from the pattern."""
        self.fed = 0
        """Bytes of the answer the parser has seen."""
        self.closing = False
        """The subject has said that it closes the connection after this answer."""

    def make_room(self) -> None:
        """Double the buffer: this answer is larger than any that was expected."""
        grown = bytearray(2 * len(self.memory))
        grown[: self.filled] = self.memory[: self.filled]
        self.view.release()
        self.memory = grown
        self.view = memoryview(grown)

    def reconnect(self) -> None:
        """Replace the connection; the session goes on. Raises ExchangeError."""
        self.peer.close()
        self.closing = False
        self.peer = wire.connect(self.endpoint.address, self.endpoint.tls)
        self.peer.setblocking(False)

    @property
    def lost(self) -> bool:
        return wire.has_ended(self.peer)


def open_clients(endpoint: Endpoint, workload: Workload, count: int, public_name: str = "") -> list[Client]:
    """Connect `count` clients and do for each what comes before its first call.

    `public_name` is the tool they call; without it, the first that is offered under the name the workload asks for.
    Raises ExchangeError or ValueError if the subject does not answer as it should; then none is left open."""
    clients: list[Client] = []
    try:
        for _ in range(count):
            client = Client(endpoint, workload.size + HEAD_BYTES_MAX)
            clients.append(client)
            _greet(client, workload.era)
            public_name = public_name or _find_tool(client, workload)
            _prepare_call(client, workload, public_name)
            client.peer.setblocking(False)
    except (ExchangeError, ValueError):
        close_clients(clients)
        raise
    return clients


def close_clients(clients: list[Client]) -> None:
    """End the sessions, as a polite client does, and close the connections."""
    # A session that cannot be ended is the subject's to expire: the measurements are made. Where one fails, all will.
    with contextlib.suppress(ExchangeError, OSError):
        for client in clients:
            if client.session and not client.call_id and not client.closing:
                _end_session(client)
    for client in clients:
        client.peer.close()


def _end_session(client: Client) -> None:
    endpoint = client.endpoint
    client.peer.settimeout(ANSWER_WAIT_S)
    request = wire.request_head(endpoint.address, "DELETE", endpoint.path, _headers(client, Era.LEGACY, ""), 0)
    wire.exchange(client.peer, request)


def _greet(client: Client, era: Era) -> None:
    if era is Era.MODERN:
        _ask(client, era, "server/discover", messages.DISCOVER)
        return
    opened = _ask(client, era, "initialize", messages.INITIALIZE)
    client.session = opened.headers.get(b"mcp-session-id", b"")
    _ask(client, era, "notifications/initialized", messages.INITIALIZED)


def _find_tool(client: Client, workload: Workload) -> str:
    listed = _ask(client, workload.era, "tools/list", messages.list_tools(workload.era)).messages()
    return messages.public_tool_name(listed[-1] if listed else b"", workload.tool)


def _prepare_call(client: Client, workload: Workload, public_name: str) -> None:
    before, after = messages.call_parts(workload, public_name)
    body_bytes = len(before) + messages.CALL_ID_BYTES + len(after)
    headers = _headers(client, workload.era, "tools/call")
    if workload.era is Era.MODERN:
        headers["Mcp-Name"] = public_name
    client.before_id = _post_head(client, headers, body_bytes) + before
    client.after_id = after


def _ask(client: Client, era: Era, method: str, body: bytes) -> Response:
    response = wire.exchange(client.peer, _post_head(client, _headers(client, era, method), len(body)) + body)
    if not 200 <= response.status < 300:
        raise ExchangeError(f"{method} was answered with HTTP {response.status}: {messages.excerpt(response.body)}")
    return response


def _post_head(client: Client, headers: dict[str, str], body_bytes: int) -> bytes:
    return wire.request_head(client.endpoint.address, "POST", client.endpoint.path, headers, body_bytes)


def _headers(client: Client, era: Era, method: str) -> dict[str, str]:
    headers = {"MCP-Protocol-Version": messages.version_of(era)}
    if era is Era.MODERN:
        return headers | {"Mcp-Method": method}
    if method == "initialize":
        return {}
    return headers | ({"Mcp-Session-Id": client.session.decode("ascii")} if client.session else {})

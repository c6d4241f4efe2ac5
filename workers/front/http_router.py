"""HTTP from clients: who may speak to us at all, and which endpoint or page a request is for.

Each server has an endpoint of its own below that of all servers: `/mcp/main` beside `/mcp`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from protocol.errors import INVALID_REQUEST, METHOD_NOT_FOUND
from protocol.forwarded import TrustedProxies
from protocol.http1 import HttpError, Request
from protocol.jsonrpc import RpcError, error_message
from protocol.limits import BODY_BYTES_MAX
from workers.front.endpoints import Endpoints
from workers.front.gate import Gate
from workers.front.health_pages import HealthPages
from workers.front.http_connection import ALLOWED_METHODS, METHOD_NOT_ALLOWED, Connected, HttpConnection, HttpReply
from workers.front.http_edge import JSON_HEADERS, HttpEdge, Serve, is_legacy
from workers.front.sse_edge import MESSAGES_PATH, STREAM_PATH, SseEdge
from workers.logs import Log

UPGRADE_REQUIRED: Final = 426
SHOWN_CHARACTERS_MAX: Final = 80
SERVERS_NAMED_MAX: Final = 20
"""In the answer to a request for one that is not there."""

Move = Callable[[HttpConnection, int, Sequence[Request]], bool]

_CLIENT: Final = "client"
"""In `Request.notes`: its address, as a proxy gives it."""


class HttpRouter:
    """Serves HTTP requests (`workers.front.http_connection.HttpService`)."""

    def __init__(
        self,
        endpoints: Endpoints,
        gate: Gate,
        path: str,
        pages: HealthPages,
        connections: dict[Connected, None],
        connection_gone: Callable[[], None],
        log: Log,
        sse: SseEdge | None,
        websocket_path: str,
        spoke_tls: Callable[[HttpConnection], None],
        move: Move | None = None,
    ) -> None:
        """`sse`: for clients that know HTTP+SSE only; None if they are not served. `spoke_tls`: as in `HttpService`.

        `move`: hands a connection over to another front, if there are any.

        `connections`: all there are, also those of others; `connection_gone` is called after each that ends."""
        self._endpoints = endpoints
        self.rules = gate
        self._path = path.encode()
        self._prefix = self._path.rstrip(b"/") + b"/"
        """What the path of a server's endpoint begins with."""
        self._websocket_path = websocket_path.encode() or None
        self._pages = pages
        self._log = log
        self._connections = connections
        self._connection_gone = connection_gone
        self._sse = sse
        self._move = move
        self.spoke_tls = spoke_tls
        self._edges: dict[str, HttpEdge] = {}
        self._posts_to = object()
        """In `Request.notes`: what serves messages with this head, which is well-formed. Another object, and no note
        that was made before counts any more."""

    def servers_changed(self) -> None:
        """Some endpoints may be gone."""
        self._edges.clear()
        self._posts_to = object()

    # --- HttpService ----------------------------------------------------------------------------------------
    def head(self, request: Request) -> None:
        self.rules.check(request)
        if request.content_length is not None and request.content_length > BODY_BYTES_MAX:
            raise HttpError(413, f"the body is larger than {BODY_BYTES_MAX} bytes")

    def request(self, request: Request, reply: HttpReply) -> None:
        try:
            serve: Serve | None = request.notes.get(self._posts_to)  # pyright: ignore[reportAssignmentType]
            if serve is None:
                serve = self._route(request, reply)
                if serve is None:
                    return
                # All this depends on the head alone, and the client's next one will be the same.
                request.notes.clear()
                request.notes[self._posts_to] = serve
            serve(request, reply)
        except RpcError as error:  # the body is no message at all, so there is nobody to name in the answer but its id
            # 2026-07-28 has no null ids; JSON-RPC, and so the other revisions, do.
            nobody = None if is_legacy(request) else b""
            reply.plain(400, error_message(error.id or nobody, error.code, error.message, error.data), JSON_HEADERS)

    def connection_closed(self, connection: Connected) -> None:
        self._connections.pop(connection, None)
        self._connection_gone()

    def connection_replaced(self, connection: HttpConnection, successor: Connected) -> None:
        self._connections.pop(connection, None)
        self._connections[successor] = None

    def move(self, connection: HttpConnection, front: int, requests: Sequence[Request]) -> bool:
        return self._move is not None and self._move(connection, front, requests)

    # --- where to -------------------------------------------------------------------------------------------
    def _route(self, request: Request, reply: HttpReply) -> Serve | None:
        """Return what serves messages with this head; None if the request has been served already."""
        target = request.target.partition(b"?")[0]
        if request.method == b"HEAD":  # its answer has no body, which could only be taken for the next answer
            reply.plain(METHOD_NOT_ALLOWED, b"", ((b"allow", ALLOWED_METHODS),))
            return None
        if target == self._path:
            name = ""
        elif self._pages.serve(request.method, target, reply) or (
            self._sse is not None and self._routed_sse(self._sse, target, request, reply)
        ):
            return None
        elif target == self._websocket_path:
            self._upgrade(request, reply)
            return None
        elif target.startswith(self._prefix):
            name = target[len(self._prefix) :].decode("latin-1")
        else:
            reply.reject(404, METHOD_NOT_FOUND, f"Nothing is served here; the endpoint is {self._path.decode()}")
            return None
        edge = self._edge(name) if name or target == self._path else None
        if edge is None:
            reply.reject(404, METHOD_NOT_FOUND, self._no_such(name))
            return None
        return edge.serve(request, reply)

    def _routed_sse(self, sse: SseEdge, target: bytes, request: Request, reply: HttpReply) -> bool:
        """Serve a request to the paths of HTTP+SSE: /sse, that of a server such as /sse/main, and /messages."""
        if target == MESSAGES_PATH:
            sse.post(request, reply)
            return True
        if target == STREAM_PATH:
            sse.open(self._endpoints.merged, request, reply)
            return True
        if not target.startswith(STREAM_PATH + b"/"):
            return False
        name = target[len(STREAM_PATH) + 1 :].decode("latin-1")
        endpoint = self._endpoints.find(name) if name else None
        if endpoint is None:
            reply.reject(404, METHOD_NOT_FOUND, self._no_such(name))
        else:
            sse.open(endpoint, request, reply)
        return True

    def _upgrade(self, request: Request, reply: HttpReply) -> None:
        """Go on with WebSocket."""
        if request.method != b"GET":
            reply.reject(METHOD_NOT_ALLOWED, INVALID_REQUEST, "WebSocket begins with GET", ((b"allow", b"GET"),))
            return
        from workers.front.websocket import upgrade  # needed by few, and slow to load

        try:
            upgrade(request, reply, self._endpoints.merged, self._log)
        except HttpError as error:
            wanted = ((b"sec-websocket-version", b"13"),) if error.status == UPGRADE_REQUIRED else ()
            reply.reject(error.status, INVALID_REQUEST, error.message, wanted)

    def _edge(self, name: str) -> HttpEdge | None:
        edge = self._edges.get(name)
        if edge is None and (endpoint := self._endpoints.find(name)) is not None:
            edge = self._edges[name] = HttpEdge(endpoint, self._log)
        return edge

    def _no_such(self, name: str) -> str:
        names = self._endpoints.names
        known = ", ".join(names[:SERVERS_NAMED_MAX])
        more = f" and {len(names) - SERVERS_NAMED_MAX} more" if len(names) > SERVERS_NAMED_MAX else ""
        servers = f"; the servers are {known}{more}" if names else ""
        everything = f"all of them together are at {self._path.decode()}"
        return f"There is no server {name[:SHOWN_CHARACTERS_MAX]!a} here{servers}; {everything}"


class ProxyRouter(HttpRouter):
    """Serves proxies that are trusted to say whom they speak for."""

    proxies: TrustedProxies

    def request(self, request: Request, reply: HttpReply) -> None:
        client = request.notes.get(_CLIENT)
        if not isinstance(client, str):
            client = self.proxies.client(reply.client, request.headers)
        reply.forwarded_for = client
        super().request(request, reply)
        request.notes[_CLIENT] = client

"""Makes a server of the official SDK, which speaks both eras, one that knows only one of them.

legacy  only the handshake revisions; a modern request gets the 400 and -32000 of servers deployed before 2026-07-28
modern  only 2026-07-28; anything else gets 400 and -32022 naming the supported version, GET and DELETE get 405
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from mcp.types.version import HANDSHAKE_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS

HEADER_MISMATCH, UNSUPPORTED_VERSION, SERVER_ERROR = -32020, -32022, -32000
VERSION_KEY = "io.modelcontextprotocol/protocolVersion"

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
Error = dict[str, Any]


class OneEra:
    """An ASGI application in front of another, which never sees what the era it shall not know would send."""

    def __init__(self, app: Any, era: str, look: Callable[[bytes], None] = lambda _body: None) -> None:
        """`look` is shown each message."""
        self.app = app
        self.era = era
        self.look = look

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        raw_header = dict(scope["headers"]).get(b"mcp-protocol-version")
        header = None if raw_header is None else raw_header.decode("latin-1")
        if scope["method"] != "POST":
            if self.era == "modern":
                await respond(send, 405, None)
            elif error := self.refusal(header, None):
                await respond(send, 400, {"jsonrpc": "2.0", "id": None, "error": error})
            else:
                await self.app(scope, receive, send)
            return
        body = await read_all(receive)
        message = parsed(body)
        self.look(body)
        if error := self.refusal(header, message):
            request_id = message.get("id") if self.era == "modern" and isinstance(message, dict) else None
            await respond(send, 400, {"jsonrpc": "2.0", "id": request_id, "error": error})
        else:
            await self.app(scope, replay(body, receive), send)

    def refusal(self, header: str | None, message: Any) -> Error | None:
        """Return the error for a request of the other era."""
        params = message.get("params") if isinstance(message, dict) else None
        claimed = claimed_version(params)
        if self.era == "legacy":
            if header in HANDSHAKE_PROTOCOL_VERSIONS or (header is None and claimed is None):
                return None
            known = ", ".join(HANDSHAKE_PROTOCOL_VERSIONS)
            reason = f"Unsupported protocol version: {header or claimed} (supported versions: {known})"
            return {"code": SERVER_ERROR, "message": f"Bad Request: {reason}"}
        if message is not None and claimed is None and header not in MODERN_PROTOCOL_VERSIONS:
            requested = header or (params if isinstance(params, dict) else {}).get("protocolVersion") or ""
            data = {"supported": list(MODERN_PROTOCOL_VERSIONS), "requested": requested}
            return {"code": UNSUPPORTED_VERSION, "message": "Unsupported protocol version", "data": data}
        if claimed is not None and (header is None or header in HANDSHAKE_PROTOCOL_VERSIONS):
            return {"code": HEADER_MISMATCH, "message": f"MCP-Protocol-Version is {header}, the body says {claimed}"}
        return None


def claimed_version(params: Any) -> Any:
    """The revision that a modern request names in its own envelope; None in any other message."""
    meta = params.get("_meta") if isinstance(params, dict) else None
    return meta.get(VERSION_KEY) if isinstance(meta, dict) else None


def parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


async def read_all(receive: Receive) -> bytes:
    body = b""
    while True:
        event = await receive()
        if event["type"] != "http.request":
            return body
        body += event.get("body", b"")
        if not event.get("more_body", False):
            return body


def replay(body: bytes, receive: Receive) -> Receive:
    """Give the application the body that has been read already."""
    pending = [body]

    async def again() -> Any:
        if pending:
            return {"type": "http.request", "body": pending.pop(), "more_body": False}
        return await receive()

    return again


async def respond(send: Send, status: int, message: dict[str, Any] | None) -> None:
    body = json.dumps(message).encode() if message else b""
    headers = [(b"content-type", b"application/json")] if message else [(b"allow", b"POST")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

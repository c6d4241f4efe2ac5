"""Answers MCP requests of both eras for the backend: sessions, tools, errors; nothing of sockets.

It is strict where a real server would be (sessions of legacy clients, headers of modern ones), so that a subject cannot
win by skipping its duties.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

import msgspec

from benchmarks.messages import payload_text
from protocol.versions import LEGACY_VERSIONS, MODERN_VERSIONS, negotiate_legacy

BLOB_BYTES_MAX: Final = 15 * 1000 * 1000
SESSIONS_MAX: Final = 100_000
HEADER_MISMATCH: Final = -32020
UNSUPPORTED_VERSION: Final = -32022
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
PARSE_ERROR: Final = -32700

SERVER_INFO: Final = b'{"name":"mcp-bulkhead-benchmark-backend","version":"1"}'
TOOLS: Final = (
    b'"tools":[{"name":"echo","description":"Returns its text.","inputSchema":{"type":"object","properties":'
    b'{"text":{"type":"string"}},"required":["text"]}},{"name":"blob","description":"Returns so many bytes of text.",'
    b'"inputSchema":{"type":"object","properties":{"size":{"type":"integer"}},"required":["size"]}},'
    b'{"name":"look","description":"Returns its text, and only reads.","inputSchema":{"type":"object","properties":'
    b'{"text":{"type":"string"}},"required":["text"]},"annotations":{"readOnlyHint":true}}]'
)
UNCACHED: Final = b'"resultType":"complete","ttlMs":0,"cacheScope":"private"'


class _Arguments(msgspec.Struct):
    text: msgspec.Raw = msgspec.Raw()
    size: int = -1


class _Params(msgspec.Struct, rename="camel"):
    name: str = ""
    arguments: _Arguments | None = None
    protocol_version: str = ""
    meta: msgspec.Raw = msgspec.field(default=msgspec.Raw(), name="_meta")


class _Message(msgspec.Struct):
    method: str = ""
    id: msgspec.Raw = msgspec.Raw()
    params: _Params | None = None


_decode = msgspec.json.Decoder(_Message).decode


@dataclasses.dataclass(frozen=True, slots=True)
class Head:
    """What a request's head says, as far as it matters here."""

    method: str
    content_length: int
    version: str
    session: str
    mcp_method: str
    mcp_name: str
    chunked: bool

    def is_call(self, body: bytes) -> bool:
        """Tell whether a request with this head is a call of a tool; legacy clients say so in the body alone."""
        return self.mcp_method == "tools/call" or b'"method":"tools/call"' in body


def parse_head(head: bytes) -> Head:
    """Read a request's head, which ends with an empty line. Raises ValueError if it is none."""
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    method, _, protocol = first.split(" ")
    if not protocol.startswith("HTTP/1."):
        raise ValueError("not HTTP/1")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Head(
        method=method,
        content_length=int(headers.get("content-length", "0")),
        version=headers.get("mcp-protocol-version", ""),
        session=headers.get("mcp-session-id", ""),
        mcp_method=headers.get("mcp-method", ""),
        mcp_name=headers.get("mcp-name", ""),
        chunked="transfer-encoding" in headers,
    )


def http_head(status: str, body_bytes: int, more: bytes = b"") -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Type: application/json\r\n%sContent-Length: %d\r\n\r\n" % (
        status.encode("ascii"),
        more,
        body_bytes,
    )


Parts = Sequence[bytes]
"""An HTTP response, in pieces so that a megabyte is not copied once more to put its head before it."""


class Answers:
    """Answers requests; knows the sessions, nothing of connections."""

    def __init__(self) -> None:
        self._sessions: dict[str, None] = {}
        self._sessions_opened = 0
        self._blobs: dict[int, bytes] = {}

    @property
    def open_sessions(self) -> int:
        return len(self._sessions)

    def to(self, head: Head, body: bytes) -> Parts:
        if head.method != "POST":
            return self._to_other_method(head)
        try:
            message = _decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return self._error(b"null", PARSE_ERROR, "not a JSON-RPC message", "400 Bad Request")
        request_id = bytes(message.id)
        if head.version in MODERN_VERSIONS:
            return self._to_modern(head, message, request_id)
        if head.version and head.version not in LEGACY_VERSIONS:
            supported = msgspec.json.encode({"supported": MODERN_VERSIONS, "requested": head.version})
            return self._error(
                request_id, UNSUPPORTED_VERSION, "unsupported protocol version", "400 Bad Request", supported
            )
        return self._to_legacy(head, message, request_id)

    def _to_other_method(self, head: Head) -> Parts:
        if head.method == "DELETE" and head.session in self._sessions:
            del self._sessions[head.session]
            return (http_head("200 OK", 0),)
        return (http_head("405 Method Not Allowed", 0, b"Allow: POST, DELETE\r\n"),)

    # --- legacy ----------------------------------------------------------------------------------------------

    def _to_legacy(self, head: Head, message: _Message, request_id: bytes) -> Parts:
        if message.method == "initialize":
            return self._initialize(message, request_id)
        if head.session not in self._sessions:
            status = "404 Not Found" if head.session else "400 Bad Request"
            return self._error(request_id, INVALID_REQUEST, "no such session", status)
        if message.method == "tools/call":
            return self._call(message, request_id, b"")
        if not request_id:
            return (http_head("202 Accepted", 0),)
        if message.method == "tools/list":
            return self._result(request_id, TOOLS)
        if message.method == "ping":
            return self._result(request_id, b"")
        return self._error(request_id, METHOD_NOT_FOUND, "unknown method", "200 OK")

    def _initialize(self, message: _Message, request_id: bytes) -> Parts:
        offered = message.params.protocol_version if message.params else ""
        self._sessions_opened += 1
        session = f"session-{self._sessions_opened}"
        self._sessions[session] = None
        if len(self._sessions) > SESSIONS_MAX:
            del self._sessions[next(iter(self._sessions))]
        members = b'"protocolVersion":"%s","capabilities":{"tools":{}},"serverInfo":%s' % (
            negotiate_legacy(offered).encode(),
            SERVER_INFO,
        )
        return self._result(request_id, members, b"Mcp-Session-Id: %s\r\n" % session.encode())

    # --- modern ----------------------------------------------------------------------------------------------

    def _to_modern(self, head: Head, message: _Message, request_id: bytes) -> Parts:
        if not request_id:
            return (http_head("202 Accepted", 0),)
        if message.params is None or not message.params.meta:
            return self._error(request_id, INVALID_PARAMS, "_meta is missing", "400 Bad Request")
        if head.mcp_method != message.method or (
            message.method == "tools/call" and head.mcp_name != message.params.name
        ):
            return self._error(request_id, HEADER_MISMATCH, "headers and body differ", "400 Bad Request")
        if message.method == "tools/call":
            return self._call(message, request_id, b',"resultType":"complete"')
        if message.method == "tools/list":
            return self._result(request_id, TOOLS + b"," + UNCACHED)
        if message.method == "server/discover":
            supported = msgspec.json.encode(MODERN_VERSIONS)
            members = b'"supportedVersions":%s,"capabilities":{"tools":{}},%s' % (supported, UNCACHED)
            info = b',"_meta":{"io.modelcontextprotocol/serverInfo":%s}' % SERVER_INFO
            return self._result(request_id, members + info)
        return self._error(request_id, METHOD_NOT_FOUND, "unknown method", "404 Not Found")

    # --- both ------------------------------------------------------------------------------------------------

    def _call(self, message: _Message, request_id: bytes, more: bytes) -> Parts:
        params = message.params
        arguments = params.arguments if params else None
        text = bytes(arguments.text) if arguments else b""
        if params and arguments and params.name == "blob" and 0 <= arguments.size <= BLOB_BYTES_MAX:
            text = self._blob(arguments.size)
        elif not params or params.name not in ("echo", "look") or not text.startswith(b'"'):
            return self._error(request_id, INVALID_PARAMS, "unknown tool or wrong arguments", "200 OK")
        before = b'{"jsonrpc":"2.0","id":%s,"result":{"content":[{"type":"text","text":' % request_id
        after = b"}]%s}}" % more
        head = http_head("200 OK", len(before) + len(text) + len(after))
        return head + before, text, after

    def _blob(self, size: int) -> bytes:
        if size not in self._blobs:
            self._blobs.clear()
            self._blobs[size] = msgspec.json.encode(payload_text(size))
        return self._blobs[size]

    def _result(self, request_id: bytes, members: bytes, headers: bytes = b"") -> Parts:
        body = b'{"jsonrpc":"2.0","id":%s,"result":{%s}}' % (request_id, members)
        return (http_head("200 OK", len(body), headers) + body,)

    def _error(self, request_id: bytes, code: int, message: str, status: str, data: bytes = b"") -> Parts:
        body = b'{"jsonrpc":"2.0","id":%s,"error":{"code":%d,"message":"%s"%s}}' % (
            request_id or b"null",
            code,
            message.encode(),
            b',"data":' + data if data else b"",
        )
        return (http_head(status, len(body)) + body,)


class _Named(msgspec.Struct):
    name: str = ""


class _Headless(msgspec.Struct):
    method: str = ""
    id: msgspec.Raw = msgspec.Raw()
    params: _Named = msgspec.field(default_factory=_Named)


_decode_headless = msgspec.json.Decoder(_Headless).decode


def answer_alone(answers: Answers, body: bytes) -> bytes:
    """Return the answer to a message of a stateless client that came without a head, b"" to a notification."""
    message = _decode_headless(body)
    if not bytes(message.id):
        return b""
    head = Head("POST", len(body), MODERN_VERSIONS[-1], "", message.method, message.params.name, chunked=False)
    return b"".join(answers.to(head, body)).partition(b"\r\n\r\n")[2]

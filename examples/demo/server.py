"""A small MCP server over Streamable HTTP, in the standard library only, for trying the proxy out.

    python -m examples.demo.server --name main --port 8000

It speaks both eras of the protocol: sessions with `initialize` (2025-06-18 and 2025-11-25; older revisions would need
batches) and stateless requests (2026-07-28). An answer is plain JSON unless something has to be said before it; then it
is an event stream.
"""

from __future__ import annotations

import argparse
import json
import secrets
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from examples.demo.tools import TOOLS, CancelledError, Json, Tool

LEGACY = ("2025-06-18", "2025-11-25")
MODERN = "2026-07-28"
META = "io.modelcontextprotocol/"
LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
BODY_BYTES_MAX = 1024 * 1024
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")

PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS = -32700, -32600, -32601, -32602
HEADER_MISMATCH, UNSUPPORTED_VERSION = -32020, -32022
HTTP_STATUS = {METHOD_NOT_FOUND: 404}


class RpcError(Exception):
    """A request that cannot be served; `data` is the error's own member, if it has one."""

    def __init__(self, code: int, message: str, data: Json | None = None) -> None:
        super().__init__(message)
        self.error: Json = {"code": code, "message": message} | ({"data": data} if data else {})


class Session:
    """What the server remembers of one legacy client."""

    def __init__(self) -> None:
        self.log_level = "info"
        self.running: dict[str | int, threading.Event] = {}
        """Set the event of a request to cancel it."""


class DemoServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, name: str, port: int) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.name = name
        self.sessions: dict[str, Session] = {}

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class Exchange:
    """One request and its answer: JSON if nothing precedes the result, an event stream otherwise."""

    def __init__(self, handler: Handler, request: Json, session: Session | None) -> None:
        self.handler = handler
        self.request = request
        self.session = session
        self.meta: Json = request.get("params", {}).get("_meta", {})
        self.cancelled = threading.Event()
        self.streaming = False

    # --- what tools may do (see `tools.Call`) ----------------------------------------------------------------------
    def progress(self, done: float, total: float, message: str) -> None:
        token = self.meta.get("progressToken")
        if token is not None:
            self.notify("progress", {"progressToken": token, "progress": done, "total": total, "message": message})

    def log(self, level: str, text: str) -> None:
        wanted = self.session.log_level if self.session else self.meta.get(META + "logLevel")
        if wanted in LEVELS and LEVELS.index(level) >= LEVELS.index(wanted):
            self.notify("message", {"level": level, "logger": self.handler.server.name, "data": text})

    def wait(self, seconds: float) -> None:
        if self.cancelled.wait(seconds):
            raise CancelledError

    # --- the wire ----------------------------------------------------------------------------------------------------
    def notify(self, kind: str, params: Json) -> None:
        if not self.streaming:
            self.streaming = True
            self.handler.start_events()
        self.write_event({"jsonrpc": "2.0", "method": f"notifications/{kind}", "params": params})

    def write_event(self, message: Json) -> None:
        try:
            self.handler.write_chunk(b"event: message\ndata: " + encode(message) + b"\n\n")
        except OSError as error:  # in the modern era, closing the stream is how a client cancels
            raise CancelledError from error

    def finish(self, outcome: Json, status: int = 200, headers: dict[str, str] | None = None) -> None:
        message = {"jsonrpc": "2.0", "id": self.request["id"]} | outcome
        if not self.streaming:
            self.handler.send_json(status, message, headers)
            return
        self.write_event(message)
        self.handler.write_chunk(b"")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 120
    server: DemoServer

    # --- HTTP ----------------------------------------------------------------------------------------------------
    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > BODY_BYTES_MAX:
            self.close_connection = True  # whatever follows is not a request
            self.send_json(413 if length.isdecimal() else 411, None)
            return
        body = self.rfile.read(int(length))
        if not self.is_local():
            self.send_json(403, None)
            return
        try:
            message = json.loads(body)
        except ValueError:
            self.send_error_json(400, None, RpcError(PARSE_ERROR, "The body is not JSON."))
            return
        if not is_message(message):
            self.send_error_json(
                400, None, RpcError(INVALID_REQUEST, "One JSON-RPC message with named params, please.")
            )
        elif self.path != "/mcp":
            self.send_json(404, None)
        elif "id" in message:
            self.answer(message)
        else:
            self.take_notification(message)

    def do_DELETE(self) -> None:
        known = self.server.sessions.pop(self.headers.get("Mcp-Session-Id", ""), None)
        self.send_json(204 if known and self.is_local() else 404, None)

    def do_GET(self) -> None:
        self.send_json(405, None, {"Allow": "POST, DELETE"})

    def is_local(self) -> bool:
        """A page on the web must not reach this server through a name it has pointed at 127.0.0.1."""
        host = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
        origin = self.headers.get("Origin")
        return host in LOOPBACK and (origin is None or origin.split("://")[-1].split(":")[0] in LOOPBACK)

    def send_json(self, status: int, message: Json | None, headers: dict[str, str] | None = None) -> None:
        body = encode(message) if message is not None else b""
        self.send_response(status)
        if message is not None:
            self.send_header("Content-Type", "application/json")
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def send_error_json(self, status: int, request_id: Any, error: RpcError) -> None:
        self.send_json(status, {"jsonrpc": "2.0", "id": request_id, "error": error.error})

    def start_events(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Cache-Control", "no-cache")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def write_chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def log_message(self, *args: Any) -> None:
        """Silence: the terminal belongs to the proxy."""

    # --- MCP -----------------------------------------------------------------------------------------------------
    def answer(self, message: Json) -> None:
        header = self.headers.get("MCP-Protocol-Version")
        claimed = message.get("params", {}).get("_meta", {}).get(META + "protocolVersion")
        modern = claimed is not None or (header is not None and header not in LEGACY)
        try:
            if modern:
                self.check_modern(message, header, claimed)
                self.serve_modern(Exchange(self, message, None))
            elif message.get("method") == "initialize":
                self.open_session(Exchange(self, message, Session()))
            else:
                self.serve_legacy(message)
        except RpcError as error:
            code: int = error.error["code"]
            self.send_error_json(HTTP_STATUS.get(code, 400) if modern else 200, message["id"], error)
        except CancelledError:
            self.close_connection = True

    def take_notification(self, message: Json) -> None:
        session = self.server.sessions.get(self.headers.get("Mcp-Session-Id", ""))
        if message.get("method") == "notifications/cancelled" and session is not None:
            running = session.running.get(message.get("params", {}).get("requestId"))
            if running is not None:
                running.set()
        self.send_json(202, None)

    def check_modern(self, message: Json, header: str | None, claimed: Any) -> None:
        """Raise what a stateless request has wrong: its envelope, then its headers, then its version."""
        params = message.get("params", {})
        meta = params.get("_meta", {})
        if not isinstance(claimed, str) or not isinstance(meta.get(META + "clientCapabilities"), dict):
            raise RpcError(INVALID_PARAMS, "_meta must carry the protocol version and the client's capabilities.")
        if header != claimed or self.headers.get("Mcp-Method") != message.get("method"):
            raise RpcError(HEADER_MISMATCH, "MCP-Protocol-Version and Mcp-Method must repeat what the body says.")
        if message.get("method") == "tools/call" and self.headers.get("Mcp-Name") != params.get("name"):
            raise RpcError(HEADER_MISMATCH, "Mcp-Name must repeat the tool's name.")
        if claimed != MODERN:
            data = {"supported": [MODERN], "requested": claimed}
            raise RpcError(UNSUPPORTED_VERSION, "This server does not speak that version.", data)

    def serve_modern(self, exchange: Exchange) -> None:
        method = exchange.request.get("method")
        result: Json = {"resultType": "complete", "_meta": {META + "serverInfo": self.info()}}
        cacheable: Json = {"ttlMs": 60_000, "cacheScope": "public"}
        if method == "server/discover":
            result |= {"supportedVersions": [MODERN], "capabilities": {"tools": {}, "logging": {}}} | cacheable
        elif method == "tools/list":
            result |= {"tools": [tool.listed() for tool in TOOLS.values()]} | cacheable
        elif method == "tools/call":
            result |= call_tool(exchange)
        else:
            raise RpcError(METHOD_NOT_FOUND, f"There is no method {method!r} here.")
        exchange.finish({"result": result})

    def open_session(self, exchange: Exchange) -> None:
        offered = exchange.request.get("params", {}).get("protocolVersion")
        result = {
            "protocolVersion": offered if offered in LEGACY else LEGACY[-1],
            "capabilities": {"tools": {}, "logging": {}},
            "serverInfo": self.info(),
        }
        session_id = secrets.token_urlsafe(16)
        assert exchange.session is not None
        self.server.sessions[session_id] = exchange.session
        exchange.finish({"result": result}, headers={"Mcp-Session-Id": session_id})

    def serve_legacy(self, message: Json) -> None:
        session_id = self.headers.get("Mcp-Session-Id")
        session = self.server.sessions.get(session_id or "")
        if session is None:  # 404 tells a client to initialize again, 400 that it forgot to (transports, 2025-11-25)
            self.send_error_json(
                404 if session_id else 400, message["id"], RpcError(INVALID_REQUEST, "No such session.")
            )
            return
        exchange = Exchange(self, message, session)
        session.running[message["id"]] = exchange.cancelled
        try:
            exchange.finish({"result": self.legacy_result(exchange, session)})
        finally:
            del session.running[message["id"]]

    def legacy_result(self, exchange: Exchange, session: Session) -> Json:
        method, params = exchange.request.get("method"), exchange.request.get("params", {})
        if method == "ping":
            return {}
        if method == "tools/list":
            return {"tools": [tool.listed() for tool in TOOLS.values()]}
        if method == "tools/call":
            return call_tool(exchange)
        if method == "logging/setLevel":
            if params.get("level") not in LEVELS:
                raise RpcError(INVALID_PARAMS, "There is no such log level.")
            session.log_level = params["level"]
            return {}
        raise RpcError(METHOD_NOT_FOUND, f"There is no method {method!r} here.")

    def info(self) -> Json:
        return {"name": f"demo-{self.server.name}", "version": "1.0"}


def call_tool(exchange: Exchange) -> Json:
    """Return the result of a tools/call; a tool that cannot do what was asked answers with `isError`."""
    params = exchange.request.get("params", {})
    tool: Tool | None = TOOLS.get(params.get("name"))
    if tool is None:
        raise RpcError(INVALID_PARAMS, f"There is no tool {params.get('name')!r} here.")
    arguments = params.get("arguments", {})
    fault = tool.fault(arguments)
    if fault:
        return {"content": [{"type": "text", "text": fault}], "isError": True}
    value = tool.run(arguments, exchange)
    text = json.dumps(value, ensure_ascii=False)
    return {"content": [{"type": "text", "text": text}], "structuredContent": value}


def is_message(message: Any) -> bool:
    """Whether this is one request or notification whose parts have the types that everything here relies on."""
    if not isinstance(message, dict) or not isinstance(message.get("method"), str):
        return False
    params = message.get("params", {})
    request_id = message.get("id", 0)
    return (
        isinstance(params, dict)
        and all(isinstance(params.get(name, {}), dict) for name in ("_meta", "arguments"))
        and isinstance(request_id, str | int)
        and not isinstance(request_id, bool)
    )


def encode(message: Json) -> bytes:
    return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()


def main() -> None:
    parser = argparse.ArgumentParser(description="A small MCP server for trying the proxy out.")
    parser.add_argument("--name", default="demo")
    parser.add_argument("--port", type=int, default=8000)
    arguments = parser.parse_args()
    with DemoServer(arguments.name, arguments.port) as server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    main()

"""A client that speaks HTTP by hand: every revision, every header, every byte of an answer in view.

The SDK's client offers only the newest revision of each era and hides what is on the wire. This one hides nothing, and
checks every message it is sent against the official schema of its revision.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests import schemas

Json = dict[str, Any]

MODERN = "2026-07-28"
META = "io.modelcontextprotocol/"
CLIENT_INFO: Json = {"name": "wire", "version": "1.0"}
ACCEPT = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
_NAMED_BY = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"} | dict.fromkeys(
    ("tasks/get", "tasks/update", "tasks/cancel"), "taskId"
)


@dataclass
class Answer:
    """One HTTP response to one POST."""

    response: httpx.Response
    messages: list[Json]
    """Notifications first, the JSON-RPC response last."""

    @property
    def status(self) -> int:
        return self.response.status_code

    @property
    def is_stream(self) -> bool:
        return self.response.headers.get("content-type", "").startswith("text/event-stream")

    @property
    def final(self) -> Json:
        return self.messages[-1]

    @property
    def result(self) -> Json:
        assert "result" in self.final, self.final
        return self.final["result"]

    @property
    def error(self) -> Json:
        assert "error" in self.final, self.final
        return self.final["error"]

    @property
    def notifications(self) -> list[Json]:
        return self.messages[:-1]


@dataclass
class Wire:
    """One client of one revision."""

    http: httpx.AsyncClient
    url: str
    revision: str
    session: str = ""
    capabilities: Json = field(default_factory=dict)
    log_level: str = ""
    _last_id: int = 0

    @property
    def is_modern(self) -> bool:
        return self.revision == MODERN

    async def open(self) -> Answer:
        """Do what a client of this revision does first, and return the answer that says who the server is."""
        if self.is_modern:
            return await self.request("server/discover")
        params = {"protocolVersion": self.revision, "capabilities": self.capabilities, "clientInfo": CLIENT_INFO}
        answer = await self.request("initialize", params)
        self.session = answer.response.headers.get("mcp-session-id", "")
        assert (await self.post({"jsonrpc": "2.0", "method": "notifications/initialized"})).status_code == 202
        return answer

    def headers(self, message: Json) -> dict[str, str]:
        """Return what this revision demands beside the body."""
        found = dict(ACCEPT)
        if self.is_modern:
            method = message.get("method", "")
            found |= {"MCP-Protocol-Version": self.revision, "Mcp-Method": method}
            if name := message.get("params", {}).get(_NAMED_BY.get(method, "")):
                found["Mcp-Name"] = name
        elif self.session:
            found["Mcp-Session-Id"] = self.session
            if self.revision >= "2025-06-18":
                found["MCP-Protocol-Version"] = self.revision
        return found

    def envelope(self, method: str, params: Json | None, progress_token: Any = None) -> Json:
        """Return a request with the next id and, in the modern era, all that `_meta` has to carry."""
        self._last_id += 1
        meta: Json = {} if progress_token is None else {"progressToken": progress_token}
        if self.is_modern:
            meta |= {META + "protocolVersion": self.revision, META + "clientCapabilities": self.capabilities}
            meta |= {META + "clientInfo": CLIENT_INFO}
            meta |= {META + "logLevel": self.log_level} if self.log_level else {}
        whole = {**(params or {}), **({"_meta": meta} if meta else {})}
        return {"jsonrpc": "2.0", "id": self._last_id, "method": method, **({"params": whole} if whole else {})}

    async def post(self, message: Any, headers: dict[str, str] | None = None) -> httpx.Response:
        """Post anything, with the right headers except for those given; a header given as "" is left out."""
        usual = self.headers(message) if isinstance(message, dict) else self.headers({})
        chosen = {name: value for name, value in (usual | (headers or {})).items() if value}
        return await self.http.post(self.url, content=json.dumps(message, ensure_ascii=False).encode(), headers=chosen)

    async def request(
        self,
        method: str,
        params: Json | None = None,
        *,
        progress_token: Any = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """Make one request and return all of its answer, checked."""
        message = self.envelope(method, params, progress_token)
        answer = read(await self.post(message, headers))
        for notification in answer.notifications:
            schemas.validate_notification(self.revision, notification)
        schemas.validate_answer(self.revision, method, answer.final)
        assert answer.final["id"] == message["id"]
        return answer

    async def call(self, name: str, /, *, progress_token: Any = None, **arguments: Any) -> Answer:
        return await self.request("tools/call", {"name": name, "arguments": arguments}, progress_token=progress_token)

    async def tools(self) -> list[Json]:
        """Return the tools of all pages."""
        found: list[Json] = []
        params: Json = {}
        while True:
            result = (await self.request("tools/list", params)).result
            found += result["tools"]
            if "nextCursor" not in result:
                return found
            params = {"cursor": result["nextCursor"]}


def read(response: httpx.Response) -> Answer:
    """Take an HTTP response apart into messages."""
    if response.headers.get("content-type", "").startswith("text/event-stream"):
        return Answer(response, list(events(response.text)))
    return Answer(response, [response.json()] if response.content else [])


def events(text: str) -> list[Json]:
    """Return the messages of an event stream; comments and empty priming events carry none."""
    blocks = text.replace("\r\n", "\n").split("\n\n")
    datas = (
        "\n".join(line[5:].removeprefix(" ") for line in block.split("\n") if line.startswith("data:"))
        for block in blocks
    )
    return [json.loads(data) for data in datas if data]


@asynccontextmanager
async def wire(url: str, revision: str, **options: Any) -> AsyncIterator[Wire]:
    """Connect, without having said anything yet."""
    async with httpx.AsyncClient(timeout=10) as http:
        yield Wire(http, url, revision, **options)

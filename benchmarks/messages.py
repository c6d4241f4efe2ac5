"""Builds what a client of either era says to a server, and judges the answers to its calls."""

from __future__ import annotations

import dataclasses
from typing import Final

import msgspec

from protocol.versions import LATEST_LEGACY, LATEST_MODERN, Era

ECHOED_BYTES_MAX: Final = 64 * 1024
"""Payloads up to this size are sent and echoed; larger ones are only returned, because results are what grows large."""
CLIENT_INFO: Final = b'{"name":"mcp-bulkhead-benchmark","version":"1"}'
MODERN_META: Final = (
    b'"_meta":{"io.modelcontextprotocol/protocolVersion":"%s","io.modelcontextprotocol/clientCapabilities":{},'
    b'"io.modelcontextprotocol/clientInfo":%s}' % (LATEST_MODERN.encode(), CLIENT_INFO)
)
CALL_IDS_FROM: Final = 1_000_000_000
CALL_ID_BYTES: Final = 10
"""Ids of calls have ten digits each, so that all requests of one kind, and all their answers, have the same length."""
OPEN_ID: Final = b"1"
LIST_ID: Final = b"2"

INITIALIZE: Final = (
    b'{"jsonrpc":"2.0","id":%s,"method":"initialize","params":{"protocolVersion":"%s","capabilities":{},"clientInfo":%s}}'
    % (OPEN_ID, LATEST_LEGACY.encode(), CLIENT_INFO)
)
INITIALIZED: Final = b'{"jsonrpc":"2.0","method":"notifications/initialized"}'
DISCOVER: Final = b'{"jsonrpc":"2.0","id":%s,"method":"server/discover","params":{%s}}' % (OPEN_ID, MODERN_META)


@dataclasses.dataclass(frozen=True, slots=True)
class Workload:
    """What every call of a case asks for: a payload of `size` bytes, in the words of `era`."""

    size: int
    era: Era

    @property
    def echoed(self) -> bool:
        return self.size <= ECHOED_BYTES_MAX

    @property
    def tool(self) -> str:
        """The server's own name of the tool that is called."""
        return "echo" if self.echoed else "blob"


def version_of(era: Era) -> str:
    return LATEST_MODERN if era is Era.MODERN else LATEST_LEGACY


def payload_text(size: int) -> str:
    """Return the text of `size` bytes that calls carry: letters only, so that no id can be found in it by accident."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    return (letters * (size // len(letters) + 1))[:size]


def list_tools(era: Era) -> bytes:
    """Return a `tools/list` request with the id LIST_ID."""
    params = MODERN_META if era is Era.MODERN else b""
    return b'{"jsonrpc":"2.0","id":%s,"method":"tools/list","params":{%s}}' % (LIST_ID, params)


def call_parts(workload: Workload, public_name: str) -> tuple[bytes, bytes]:
    """Return the body of a `tools/call` as the bytes before and after its id."""
    arguments = {"text": payload_text(workload.size)} if workload.echoed else {"size": workload.size}
    params = b'"name":%s,"arguments":%s' % (msgspec.json.encode(public_name), msgspec.json.encode(arguments))
    if workload.era is Era.MODERN:
        params += b"," + MODERN_META
    return b'{"jsonrpc":"2.0","id":', b',"method":"tools/call","params":{' + params + b"}}"


NO_JSON: Final = msgspec.Raw()


class _Block(msgspec.Struct):
    type: str
    text: str = ""


class _Result(msgspec.Struct, rename="camel"):
    content: list[_Block] = []
    is_error: bool = False
    result_type: str = "complete"


class _Answer(msgspec.Struct):
    jsonrpc: str
    id: int | str | None = None
    method: str | None = None
    result: _Result | None = None
    error: msgspec.Raw = NO_JSON


class _Tool(msgspec.Struct):
    name: str


class _ToolList(msgspec.Struct):
    tools: list[_Tool]


class _ToolListAnswer(msgspec.Struct):
    result: _ToolList | None = None
    error: msgspec.Raw = NO_JSON


_decode_answer = msgspec.json.Decoder(_Answer).decode
_decode_tool_list = msgspec.json.Decoder(_ToolListAnswer).decode


def fault_in_answer(body: bytes, call_id: bytes, expected_text: str) -> str:
    """Say what is wrong with the answer to a call, or "" if it is the one expected: right id and payload, no error."""
    try:
        answer = _decode_answer(body)
    except msgspec.DecodeError as error:
        return f"not a JSON-RPC answer ({error}): {excerpt(body)}"
    if bytes(answer.error):
        return f"error answer: {excerpt(bytes(answer.error))}"
    if str(answer.id).encode() != call_id or not isinstance(answer.id, int):
        return f"answer to id {answer.id!r} instead of {call_id.decode()}"
    result = answer.result
    if answer.jsonrpc != "2.0" or result is None or result.result_type != "complete":
        return f"no complete result: {excerpt(body)}"
    if result.is_error:
        return f"the tool failed: {excerpt(body)}"
    if len(result.content) != 1 or result.content[0].text != expected_text:
        return f"wrong payload, {sum(len(block.text) for block in result.content)} bytes: {excerpt(body)}"
    return ""


def id_of_answer(body: bytes) -> bytes | None:
    """Return the id a message answers, or None if it is a notification, a request, or unreadable."""
    try:
        answer = _decode_answer(body)
    except msgspec.DecodeError:
        return None
    return None if answer.method is not None or answer.id is None else str(answer.id).encode()


def public_tool_name(body: bytes, tool: str) -> str:
    """Find the name under which a `tools/list` answer offers the server's `tool`: a proxy may prefix it.

    Raises ValueError if the answer is an error or has no such tool."""
    try:
        answer = _decode_tool_list(body)
    except msgspec.DecodeError as error:
        raise ValueError(f"tools/list was not answered with a list ({error}): {excerpt(body)}") from None
    if answer.result is None:
        raise ValueError(f"tools/list failed: {excerpt(body)}")
    names = [found.name for found in answer.result.tools]
    for name in names:
        if name == tool or (name.endswith(tool) and not name[-len(tool) - 1].isalnum()):
            return name
    raise ValueError(f"no tool {tool!r} is offered, only {', '.join(names) or 'none'}")


def excerpt(data: bytes, limit: int = 200) -> str:
    """Return the beginning of some bytes for a message to people."""
    text = data[:limit].decode("utf-8", "replace")
    return repr(text)[1:-1] + ("…" if len(data) > limit else "")

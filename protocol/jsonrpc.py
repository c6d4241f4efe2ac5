"""Turns hostile bytes into JSON-RPC messages and messages into bytes, reading no more than the envelope.

Rule 1: what is accepted here is accepted by any parser behind us, and means the same to it: valid UTF-8, no lone
surrogates, at most `JSON_DEPTH_MAX` levels, and no member twice in any object that we read ourselves. A parser that
takes the first of two `name` members would otherwise run another tool than the one we looked at.
Rule 2: whatever the bytes, the only exception that leaves this file is `RpcError`. msgspec raises three unrelated
families, `DECODE_ERRORS`; whoever decodes catches all of them.
Rule 3: the work is linear in the size of the body, in passes at C speed (A-28, D-31). Only members of an object with
escaped names are looked at one by one, and their number is bounded.

Values stay `msgspec.Raw`: they are views of the body, so a body must not change while its message is in use.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from itertools import accumulate
from typing import Final, Literal, cast

import msgspec
from msgspec import UNSET, UnsetType

from protocol.errors import INVALID_REQUEST, PARSE_ERROR
from protocol.limits import BATCH_MESSAGES_MAX, ID_BYTES_MAX, JSON_DEPTH_MAX, KIB
from protocol.link import Payload

Raw = msgspec.Raw
Object = dict[str, msgspec.Raw]

OBJECT_MEMBERS_MAX: Final = 10_000
"""Members of one object that we read ourselves (envelope, params, `_meta`); the protocol needs a dozen. Hundreds of
thousands fit into a body, and looking at each once more would keep all other clients waiting."""
_UTF8_PORTION_BYTES: Final = 64 * KIB
"""Text is checked in portions: decoding 16 MiB at once would take 64 MiB for a moment if one emoji is in it."""

DECODE_ERRORS: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_encode: Final = msgspec.json.Encoder().encode
_encode_into: Final = msgspec.json.Encoder().encode_into
_anew: Final = bytearray()
"""Where a plain message is written to be compared. To find room for each would take half as long again; so the last
one, which is bounded by `PLAIN_BYTES_MAX`, stays here until the next."""
_decode_members: Final = msgspec.json.Decoder(Object).decode
_decode_string: Final = msgspec.json.Decoder(str).decode
_scan: Final = msgspec.json.Decoder(msgspec.Raw).decode
"""Checks the whole grammar, also escaped surrogates, and builds nothing."""

PLAIN_BYTES_MAX: Final = 64 * KIB
"""Longer messages are not worth an attempt at being read in one pass."""
_FIRST_MEMBER: Final = len(b'{"')
_METHOD: Final = ord("m")
"""What the name of the first member begins with if the order is that of the official SDKs."""
_NOT_PLAIN: Final = (*DECODE_ERRORS, IndexError)
_ABSENT: Final = msgspec.Raw()
_VERSION: Final = msgspec.Raw(b'"2.0"')
_BACKSLASH: Final = ord("\\")
_COMMA: Final = ord(",")
_LF: Final = ord("\n")
_CR: Final = ord("\r")
_BRACE: Final = ord("{")
_END_BRACE: Final = ord("}")
_BRACKET: Final = ord("[")
_SURROGATE: Final = re.compile(rb"\\u[dD]")
_ARRAY: Final = re.compile(rb"[ \t\r\n]*\[")
_KEY: Final = re.compile(rb'("[^"\\]*+(?:\\.[^"\\]*+)*+"):')
"""One member name of compact JSON. The quantifiers are possessive: there is only one way to read it."""
_NOT_STRUCTURE: Final = bytes(set(range(256)) - set(b'[]{}"'))
_STEPS: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
"""Brackets as signed bytes: one level down, one level up."""
_DEPTH_PORTION_BYTES: Final = 4 * KIB
"""Brackets looked at before the first that is too deep ends the work."""


class RpcError(Exception):
    """A message cannot be served; all that an error answer needs.

    `data` is raw JSON or b"". `id` is the raw JSON of the request's id, None if it could not be read; whoever reads on
    in a message whose id is known fills it in.
    """

    def __init__(self, code: int, message: str, data: bytes = b"", request_id: bytes | None = None) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.data = data
        self.id = request_id


class Message(msgspec.Struct, gc=False):
    """One message from a client."""

    id: bytes | None
    """Raw JSON exactly as sent, so "7" and 7 stay different. None for notifications."""
    method: str | None
    """None for responses."""
    params: Object
    """Empty if absent."""
    is_response: bool


class Reply(msgspec.Struct):
    """What a server sent: a response, a notification or a request of its own. Unknown members are skipped."""

    id: bytes | None
    result: msgspec.Raw | None
    error: msgspec.Raw | None
    method: str | None
    params: msgspec.Raw | None


# --- bytes to messages ---------------------------------------------------------------------------------------------
def screen(body: bytes | bytearray) -> None:
    """Refuse a body that must not reach a parser, here or behind us.

    Errors: `RpcError` -32700 for anything but UTF-8 (a byte order mark counts, RFC 8259 section 8.1) and for surrogates
    that are not in pairs, raw or escaped; -32600 for more than `JSON_DEPTH_MAX` levels.
    """
    if not body.isascii():
        _require_utf8(body)
    # Each bracket opens at most one level, so most bodies need no look at where the brackets stand.
    size = len(body)
    # As `count` would, in a third of its time; but it takes as much memory again.
    brackets = size - len(body.replace(b"{", b"")) if size <= PLAIN_BYTES_MAX else body.count(b"{")
    if _BRACKET in body:
        brackets += body.count(b"[")
    if brackets > JSON_DEPTH_MAX and _is_deeper(body, JSON_DEPTH_MAX):
        raise RpcError(INVALID_REQUEST, f"the message is nested too deep (more than {JSON_DEPTH_MAX} levels)")
    if _BACKSLASH in body and _SURROGATE.search(body):
        _require_json(body)


def is_array(body: bytes | bytearray) -> bool:
    """Tell whether a body is a batch, by its first character."""
    return not body.startswith(b"{") and _ARRAY.match(body) is not None  # nearly all are objects


def decode_message(body: bytes | bytearray) -> Message:
    """Read one message. Errors: `RpcError` -32700 or -32600; an array is -32600 (see `decode_batch`)."""
    screen(body)
    if len(body) <= PLAIN_BYTES_MAX:  # nearly all clients write what can be read in one pass
        try:
            plain = (_decode_id_last if body[_FIRST_MEMBER] == _METHOD else _decode_id_first)(body)
        except _NOT_PLAIN:
            return _read_envelope(decode_object(body, "the message"))
        # What gives the same bytes when it is written anew has no member twice, no member that is not named here, and
        # no other spelling of one; so nothing is left that only the general way would find.
        _encode_into(plain, _anew)
        if _anew == body and plain.jsonrpc == "2.0" and plain.method and len(plain.params) <= OBJECT_MEMBERS_MAX:
            if plain.id is UNSET:
                return Message(None, plain.method, plain.params, False)
            request_id = _encode(plain.id)  # exactly as sent, because all is
            if len(request_id) <= ID_BYTES_MAX:
                return Message(request_id, plain.method, plain.params, False)
    return _read_envelope(decode_object(body, "the message"))


def decode_batch(body: bytes | bytearray) -> list[Message | RpcError]:
    """Read an array of messages (2025-03-26). A bad item is an `RpcError` in its place and spoils no other.

    Errors: `RpcError` if the body is no JSON array, is empty or holds more than `BATCH_MESSAGES_MAX` items.
    """
    screen(body)
    try:
        batch = _decode_batch(body)
    except DECODE_ERRORS as error:
        raise _refusal(body, error, "a batch must be a JSON array") from None
    items = [item for item in cast("tuple[Raw, ...]", msgspec.structs.astuple(batch)) if len(item)]
    if not items:
        raise RpcError(INVALID_REQUEST, "the batch is empty")
    if len(items) > BATCH_MESSAGES_MAX:
        raise RpcError(INVALID_REQUEST, f"the batch holds more than {BATCH_MESSAGES_MAX} messages")
    return [_read_item(item) for item in items]


def decode_object(raw: Payload | Raw, what: str = "the object") -> Object:
    """Return the members of a JSON object, values untouched.

    `what` names the object in messages. Errors: `RpcError` -32700 if it is no JSON, -32600 if it is no object, has a
    member twice, however that is spelled, or more than `OBJECT_MEMBERS_MAX`.
    """
    try:
        members = _decode_members(raw)
        if len(members) > OBJECT_MEMBERS_MAX:
            raise RpcError(INVALID_REQUEST, f"{what} has more than {OBJECT_MEMBERS_MAX} members")
        # Written anew, each member comes once: where that gives the same bytes, none was there twice.
        anew = _encode(members)
        if raw != (Raw(anew) if type(raw) is Raw else anew):
            _check_members(raw, what)
    except DECODE_ERRORS as error:
        raise _refusal(raw, error, f"{what} must be a JSON object") from None
    return members


def decode_reply(data: Payload) -> Reply:
    """Read what a server sent, in one scan. Values are views of `data`.

    Errors: `RpcError` -32700 if it is no JSON in UTF-8, -32600 if it is none of response, notification and request; its
    id, if it has a good one, tells which call got no answer. A missing or null id is accepted on errors only: it says
    that the server could not read our request.
    """
    if isinstance(data, memoryview) or not data.isascii():
        _require_utf8(data)
    try:
        wire = _decode_wire_reply(data)
    except DECODE_ERRORS as error:
        raise _refusal(data, error, "the server's message must be a JSON-RPC object") from None
    return _read_reply(wire)


def read_result(data: bytes, own_id: bytes) -> bytes | None:
    """Return the result in a response to this very request, None if `data` is to be read by `decode_reply`.

    The fast path of nearly all answers, which are a result and nothing else. It copies, so it is for short ones.
    `own_id`: a string of ASCII without escapes, as raw JSON.
    """
    try:
        if not data.isascii():
            _require_utf8(data)
        answer = _decode_plain_answer(data)
    except (RpcError, *DECODE_ERRORS):
        return None
    if f'"{answer.id}"'.encode() != own_id:
        return None
    if data[-1] == data[-2] == _END_BRACE:
        # Then the last member is the result, as the others are strings, and it is an object.
        return data[-1 - len(answer.result) : -1]
    result = bytes(answer.result)
    return result if result[0] == _BRACE else None


def is_string_or_integer(text: bytes) -> bool:
    """Tell whether one JSON value, given as valid text without blanks around it, may be an id or a progress token."""
    # Digits alone are an integer: a fraction or an exponent has other characters.
    return text[:1] == b'"' or text.isdigit() or (text[:1] == b"-" and text[1:].isdigit())


# --- messages to bytes ---------------------------------------------------------------------------------------------
encode_object: Final[Callable[[Object], bytes]] = _encode
"""Returns the members as a JSON object: nothing added between them, values byte for byte."""


def one_line(raw: Payload) -> bytes | Payload:
    """Return the same JSON without CR and LF, which would split a line-framed message in two.

    Inside strings they cannot occur, so removing the white space between tokens is enough. Errors: `RpcError` -32700 if
    line ends are in it and it is no JSON.
    """
    data = bytes(raw) if isinstance(raw, memoryview) else raw
    if _LF not in data and _CR not in data:
        return raw
    try:
        return msgspec.json.format(data, indent=-1)
    except DECODE_ERRORS as error:
        raise _not_json(error) from None


def result_parts(request_id: bytes) -> bytes:
    """Return what precedes the result in a response. The caller writes this, the result and b"}"."""
    return b'{"jsonrpc":"2.0","id":%b,"result":' % request_id


def error_message(request_id: bytes | None, code: int, message: str, data: bytes = b"") -> bytes:
    """Return an error response.

    `request_id`: None if it could not be read; the answer then says null (JSON-RPC 2.0, section 5). b"" leaves it out,
    which is what 2026-07-28 has instead.
    """
    tail = b',"data":%b' % data if data else b""
    id_member = b'"id":%b,' % (request_id or b"null") if request_id != b"" else b""
    return b'{"jsonrpc":"2.0",%b"error":{"code":%d,"message":%b%b}}' % (
        id_member,
        code,
        _encode(message),
        tail,
    )


def notification(method: str, params: Payload) -> bytes:
    """Return a notification; `params` is a raw JSON object."""
    return b'{"jsonrpc":"2.0","method":%b,"params":%b}' % (_encode(method), params)


def request(request_id: bytes, method: str, params: Payload) -> bytes:
    """Return a request; `request_id` and `params` are raw JSON."""
    return b'{"jsonrpc":"2.0","id":%b,"method":%b,"params":%b}' % (request_id, _encode(method), params)


# --- screening -----------------------------------------------------------------------------------------------------
def _require_utf8(data: Payload) -> None:
    view, at = memoryview(data), 0
    try:
        while at < len(view):
            portion = view[at : at + _UTF8_PORTION_BYTES]
            at += codecs.utf_8_decode(portion, "strict", at + len(portion) == len(view))[1]
    except UnicodeDecodeError as error:
        raise RpcError(PARSE_ERROR, f"not valid UTF-8 ({error.reason})") from None


def _require_json(data: Payload | Raw) -> None:
    try:
        _scan(data)
    except DECODE_ERRORS as error:
        raise _not_json(error) from None


def _is_deeper(body: bytes | bytearray, levels: int) -> bool:
    """Tell whether brackets outside strings are nested deeper, exactly for all that a parser would read.

    In text that is no JSON it may be wrong, but only beyond the point where every parser stops.
    """
    if _BACKSLASH in body:
        # A quote after an odd number of backslashes ends no string.
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    # Two quotes side by side are an empty string or two strings that touch; neither says where a bracket stands.
    marks = body.translate(None, _NOT_STRUCTURE).replace(b'""', b"")
    if b'"' in marks:
        marks = b"".join(marks.split(b'"')[::2])
    steps, depth = memoryview(marks.translate(_STEPS)).cast("b"), 0
    for at in range(0, len(steps), _DEPTH_PORTION_BYTES):
        depths = list(accumulate(steps[at : at + _DEPTH_PORTION_BYTES], initial=depth))
        if max(depths) > levels:
            return True
        depth = depths[-1]
    return False


def _refusal(data: Payload | Raw, error: Exception, expected: str) -> RpcError:
    """Say what is wrong with text that msgspec did not take: malformed, or well-formed but of another type."""
    if not isinstance(error, msgspec.ValidationError):
        return _not_json(error)
    # msgspec names a wrong type as soon as it meets it, so the rest has not been looked at.
    _require_json(data)
    return RpcError(INVALID_REQUEST, expected)


def _not_json(error: Exception) -> RpcError:
    if isinstance(error, RecursionError):
        return RpcError(INVALID_REQUEST, "the message is nested too deep")
    # msgspec's texts say what and where and quote nothing of the input.
    return RpcError(PARSE_ERROR, f"not valid JSON: {error}")


# --- members that are there twice ------------------------------------------------------------------------------------
def _check_members(raw: Payload | Raw, what: str) -> None:
    compact = msgspec.json.format(memoryview(raw), indent=-1)
    members = _decode_members(compact)
    # Without blanks, only a second copy or an oddly spelled name makes a difference, and the latter has a backslash.
    if compact != _encode(members) and (_BACKSLASH not in compact or _walk_finds_repeat(compact, members)):
        raise RpcError(INVALID_REQUEST, f"{what} has a member twice")


def _walk_finds_repeat(compact: bytes, members: Object) -> bool:
    """Read the members one after another and tell whether one comes twice; for names with escapes in them.

    msgspec keeps the last of several values. A place where the text does not go on with the value that was kept is
    therefore a member that comes again later.
    """
    remaining = dict(members)
    at = 1
    while key := _KEY.match(compact, at):
        value = remaining.pop(_decode_string(key[1]), None)
        end = key.end() + len(value or b"")
        if value is None or compact[key.end() : end] != bytes(value):
            return True
        if compact[end] != _COMMA:
            return end != len(compact) - 1
        at = end + 1
    # Valid JSON never comes here; if something did, refusing it would be right.
    return True


# --- envelopes -----------------------------------------------------------------------------------------------------
class _IdFirst(msgspec.Struct, omit_defaults=True, gc=False):
    """A request or notification with its members in the order of the specification's examples."""

    jsonrpc: str
    id: int | str | UnsetType = UNSET
    method: str = ""
    params: Object = {}


class _IdLast(msgspec.Struct, omit_defaults=True, gc=False):
    """The same in the order of the official SDKs."""

    method: str
    params: Object = {}
    jsonrpc: str = ""
    id: int | str | UnsetType = UNSET


_decode_id_first: Final = msgspec.json.Decoder(_IdFirst).decode
_decode_id_last: Final = msgspec.json.Decoder(_IdLast).decode


def _read_item(raw: Raw) -> Message | RpcError:
    try:
        return _read_envelope(decode_object(raw, "the message"))
    except RpcError as error:
        return error


def _read_envelope(members: Object) -> Message:
    request_id = _read_id(members.get("id"), null_allowed="error" in members)
    try:
        if members.get("jsonrpc") != _VERSION:
            _check_version(members.get("jsonrpc"))
        method = members.get("method")
        if method is None or "result" in members or "error" in members:
            return _read_response(request_id, members)
        params = members.get("params")
        return Message(
            request_id, _read_method(method), {} if params is None else decode_object(params, "params"), False
        )
    except RpcError as error:
        error.id = request_id
        raise


def _read_response(request_id: bytes | None, members: Object) -> Message:
    if sum(name in members for name in ("method", "result", "error")) != 1:
        raise RpcError(INVALID_REQUEST, "a message has exactly one of method, result and error")
    if request_id is None and "result" in members:
        raise RpcError(INVALID_REQUEST, "a result needs the id of its request")
    return Message(request_id, None, {}, True)


def _check_version(raw: Raw | None) -> None:
    try:
        version = None if raw is None else _decode_string(raw)
    except msgspec.ValidationError:
        version = None
    if version != "2.0":
        raise RpcError(INVALID_REQUEST, 'jsonrpc must be "2.0"')


def _read_method(raw: Raw) -> str:
    try:
        method = _decode_string(raw)
    except msgspec.ValidationError:
        method = ""
    if not method:
        raise RpcError(INVALID_REQUEST, "method must be a string that is not empty")
    return method


def _read_id(raw: Raw | None, *, null_allowed: bool = False) -> bytes | None:
    """Return an id as it was sent. It is echoed, so its length is a bound on what we hold for the other side."""
    if raw is None:
        return None
    text = bytes(raw)
    if len(text) > ID_BYTES_MAX:
        raise RpcError(INVALID_REQUEST, f"the id is longer than {ID_BYTES_MAX} bytes")
    if is_string_or_integer(text):
        return text
    if null_allowed and text == b"null":
        return None
    raise RpcError(INVALID_REQUEST, "the id must be a string or an integer")


# --- replies -------------------------------------------------------------------------------------------------------


class _WireReply(msgspec.Struct):
    jsonrpc: str
    id: msgspec.Raw = _ABSENT
    result: msgspec.Raw = _ABSENT
    error: msgspec.Raw = _ABSENT
    method: str = ""
    params: msgspec.Raw = _ABSENT


class _PlainAnswer(msgspec.Struct, forbid_unknown_fields=True):
    """What nearly every answer looks like."""

    jsonrpc: Literal["2.0"]
    id: str
    result: msgspec.Raw


class _ErrorShape(msgspec.Struct):
    code: int
    message: str


_decode_wire_reply: Final = msgspec.json.Decoder(_WireReply).decode
_decode_plain_answer: Final = msgspec.json.Decoder(_PlainAnswer).decode
_decode_error_shape: Final = msgspec.json.Decoder(_ErrorShape).decode


def _read_reply(wire: _WireReply) -> Reply:
    if wire.result is not _ABSENT and wire.error is _ABSENT and not wire.method and wire.params is _ABSENT:
        # Nearly always. Everything else, and all that is wrong with this, takes the long way.
        text = bytes(wire.id)
        is_good_id = text[:1] == b'"' and len(text) <= ID_BYTES_MAX
        if is_good_id and memoryview(wire.result)[0] == _BRACE and wire.jsonrpc == "2.0":
            return Reply(text, wire.result, None, None, None)
    result = wire.result if wire.result is not _ABSENT else None
    error = wire.error if wire.error is not _ABSENT else None
    request_id = _read_id(wire.id, null_allowed=error is not None) if wire.id is not _ABSENT else None
    try:
        if wire.jsonrpc != "2.0":
            raise RpcError(INVALID_REQUEST, 'jsonrpc must be "2.0"')
        if (result is not None) + (error is not None) + bool(wire.method) != 1:
            raise RpcError(INVALID_REQUEST, "a message has exactly one of result, error and method")
        if error is not None:
            _check_error_shape(error)
        elif result is not None:
            _require_object(result, "a result")
            if request_id is None:
                raise RpcError(INVALID_REQUEST, "a result needs the id of its request")
        params = wire.params if wire.params is not _ABSENT else None
        if params is not None:
            _require_object(params, "params")
        return Reply(request_id, result, error, wire.method or None, params)
    except RpcError as fault:
        fault.id = request_id
        raise


def _require_object(raw: Raw, name: str) -> None:
    if memoryview(raw)[0] != _BRACE:
        raise RpcError(INVALID_REQUEST, f"{name} must be an object")


def _check_error_shape(raw: Raw) -> None:
    try:
        _decode_error_shape(raw)
    except DECODE_ERRORS:
        raise RpcError(INVALID_REQUEST, "an error must be an object with an integer code and a message") from None


# One field more than a batch may have: an array of a million items is skipped after that, not built.
_Batch: Final = msgspec.defstruct(
    "_Batch", [(f"item_{number}", msgspec.Raw, _ABSENT) for number in range(BATCH_MESSAGES_MAX + 1)], array_like=True
)
_decode_batch: Final = msgspec.json.Decoder(_Batch).decode

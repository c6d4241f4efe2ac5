"""Takes `_meta` of a request apart and puts it together again (2026-07-28, basic/index; progress: all revisions).

Keys the proxy acts on are taken out; all others go through it byte for byte, trace context and vendor keys included.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from protocol.abilities import of_capabilities
from protocol.errors import INVALID_PARAMS
from protocol.jsonrpc import Object, Raw, RpcError, decode_object, is_string_or_integer
from protocol.limits import ID_BYTES_MAX
from protocol.link import Payload
from protocol.versions import MODERN_VERSIONS

PROTOCOL_VERSION_KEY: Final = "io.modelcontextprotocol/protocolVersion"
CLIENT_CAPABILITIES_KEY: Final = "io.modelcontextprotocol/clientCapabilities"
CLIENT_INFO_KEY: Final = "io.modelcontextprotocol/clientInfo"
LOG_LEVEL_KEY: Final = "io.modelcontextprotocol/logLevel"
SERVER_INFO_KEY: Final = "io.modelcontextprotocol/serverInfo"
SUBSCRIPTION_ID_KEY: Final = "io.modelcontextprotocol/subscriptionId"
_PROGRESS_KEY: Final = "progressToken"

KNOWN_MAX: Final = 256
KNOWN_BYTES_MAX: Final = 1024
"""What is remembered of earlier requests: at most this many, none longer."""
DEFAULT_LOG_LEVEL: Final = "info"
"""What a legacy client hears that has not said otherwise: there, servers log as they like."""
LOG_LEVELS: Final = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
"""The syslog severities (RFC 5424 section 6.2.1), least severe first."""
_SEVERITY: Final = {level: severity for severity, level in enumerate(LOG_LEVELS)}

_decode_string: Final = msgspec.json.Decoder(str).decode


class ClientMeta(msgspec.Struct, frozen=True):
    """What a client said in `_meta` of one request. Raw JSON where it says bytes; b"" means absent."""

    version: str | None = None
    """None if absent or no string."""
    version_present: bool = False
    capabilities: bytes = b""
    """A JSON object."""
    client_info: bytes = b""
    """A JSON object."""
    log_level: str = ""
    """One of `LOG_LEVELS`, or "" if absent."""
    progress_token: bytes = b""
    """A string or an integer, exactly as sent."""
    rest: bytes = b""
    """Every member the proxy does not act on, without the braces."""
    present: bool = False
    abilities: int = 0
    """What `capabilities` say the client can be asked (protocol/abilities.py); 0 unless the version is a known one."""


def split_meta(params: Object) -> ClientMeta:
    """Remove `_meta` from `params` and return what it says.

    Errors: `RpcError` (its id is not filled in) -32600 if a key is there twice, -32602 if `_meta` or one of our keys
    has the wrong type. A version that is no string is left to the caller: only a modern request is wrong with it.
    """
    raw = params.pop("_meta", None)
    if raw is None:
        return _NOTHING
    # A modern client says the same in every request, unless it wants progress or is traced.
    text = bytes(raw)
    known = _known.get(text)
    if known is None:
        known = _read_meta(raw)
        if len(text) <= KNOWN_BYTES_MAX and b"progressToken" not in text and b"trace" not in text:
            if len(_known) >= KNOWN_MAX:
                _known.clear()
            _known[text] = known
    return known


_known: Final[dict[bytes, ClientMeta]] = {}
_NOTHING: Final = ClientMeta()


def _read_meta(raw: Raw) -> ClientMeta:
    _require_object(raw, "params._meta")
    members = decode_object(raw, "params._meta")
    raw_version = members.pop(PROTOCOL_VERSION_KEY, None)
    version = None if raw_version is None else _string_or_none(raw_version)
    capabilities = _take_object(members, CLIENT_CAPABILITIES_KEY)
    return ClientMeta(
        version=version,
        version_present=raw_version is not None,
        capabilities=capabilities,
        abilities=of_capabilities(capabilities, version) if version in MODERN_VERSIONS else 0,
        client_info=_take_object(members, CLIENT_INFO_KEY),
        log_level=_take_log_level(members),
        progress_token=_take_progress_token(members),
        rest=msgspec.json.encode(members)[1:-1],
        present=True,
    )


def join_meta(members: Sequence[bytes]) -> bytes:
    """Return one JSON object from groups of members; empty groups leave no trace."""
    return b"{%b}" % b",".join(group for group in members if group)


def with_meta(params: Payload, meta_members: bytes) -> Payload:
    """Return `params` with a `_meta` of these members; unchanged if there are none.

    `params` is an object as `encode_object` writes it (no blanks around or inside an empty one) and has no `_meta` yet.
    """
    if not meta_members:
        return params
    comma = b"" if len(params) == len(b"{}") else b","
    return b"".join((memoryview(params)[:-1], comma, b'"_meta":{', meta_members, b"}}"))


def log_level_passes(message_level: str, wanted: str) -> bool:
    """Tell whether a log message is at least as severe as wanted. What is no level is never wanted and never passes."""
    lowest = _SEVERITY.get(wanted)
    severity = _SEVERITY.get(message_level)
    return lowest is not None and severity is not None and severity >= lowest


def _take_object(members: Object, key: str) -> bytes:
    raw = members.pop(key, None)
    if raw is None:
        return b""
    _require_object(raw, key)
    return bytes(raw)


def _require_object(raw: Raw, name: str) -> None:
    if memoryview(raw)[0] != ord("{"):
        raise RpcError(INVALID_PARAMS, f"{name} must be an object")


def _take_log_level(members: Object) -> str:
    raw = members.pop(LOG_LEVEL_KEY, None)
    if raw is None:
        return ""
    level = _string_or_none(raw)
    if level not in _SEVERITY:
        raise RpcError(INVALID_PARAMS, f"{LOG_LEVEL_KEY} must be one of {', '.join(LOG_LEVELS)}")
    return level


def _take_progress_token(members: Object) -> bytes:
    """Null counts as absent: some clients write out every optional field."""
    raw = members.pop(_PROGRESS_KEY, None)
    token = b"" if raw is None else bytes(raw)
    if token in (b"", b"null"):
        return b""
    # The token comes back in every progress notification, so it is bounded like an id.
    if len(token) > ID_BYTES_MAX or not is_string_or_integer(token):
        raise RpcError(INVALID_PARAMS, f"progressToken must be a string or an integer of at most {ID_BYTES_MAX} bytes")
    return token


def _string_or_none(raw: Raw) -> str | None:
    try:
        return _decode_string(raw)
    except msgspec.ValidationError:
        return None


class _Named(msgspec.Struct):
    name: str = ""


def client_name(client_info: bytes) -> str:
    """Return the name in a client's `clientInfo` (a raw JSON object, or b""), "" if it has none."""
    try:
        return msgspec.json.decode(client_info, type=_Named).name
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ""

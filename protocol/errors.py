"""The error codes that may appear on the wire, and the HTTP status each is answered with.

Codes of JSON-RPC 2.0 (section 5.1) and of the MCP revisions are kept as they are. Our own lie outside -32768…-32000,
which JSON-RPC reserves, so that no receiver can mistake them for something the protocol defines.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

# --- JSON-RPC 2.0 ------------------------------------------------------------------------------------------------
PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603

# --- MCP, modern era only ----------------------------------------------------------------------------------------
HEADER_MISMATCH: Final = -32020
MISSING_CAPABILITY: Final = -32021
"""`data.requiredCapabilities` is a ClientCapabilities object."""
UNSUPPORTED_VERSION: Final = -32022
"""`data` holds `supported` (list of versions) and `requested`."""

# --- MCP, legacy era only ----------------------------------------------------------------------------------------
RESOURCE_NOT_FOUND_LEGACY: Final = -32002
URL_ELICITATION_REQUIRED: Final = -32042
"""2025-11-25; `data.elicitations` is a list."""

# --- our own -----------------------------------------------------------------------------------------------------
SERVER_UNAVAILABLE: Final = -31001
"""The server cannot be reached now. The request was not sent to it; repeating it later is safe."""
OUTCOME_UNKNOWN: Final = -31002
"""The request had been sent and no answer came: the server may or may not have carried it out."""
CALL_TIMEOUT: Final = -31003
"""The server did not answer in the time the call had. It may still be carrying it out."""
OVERLOADED: Final = -31004
"""Too much is waiting for this server already. The request was not sent to it; repeating it later is safe."""

_HTTP_STATUS: Final[Mapping[int, int]] = MappingProxyType(
    {
        PARSE_ERROR: 400,
        INVALID_REQUEST: 400,
        INVALID_PARAMS: 400,
        HEADER_MISMATCH: 400,
        MISSING_CAPABILITY: 400,
        UNSUPPORTED_VERSION: 400,
        METHOD_NOT_FOUND: 404,
    }
)


def http_status(code: int) -> int:
    """Return the HTTP status of a modern answer that carries this error (2026-07-28, transports/streamable HTTP).

    Every other code, also a server's own, is an answer like any other: 200.
    """
    return _HTTP_STATUS.get(code, 200)

"""Results, errors and tools carried from one era into the other by protocol/bridge.py."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import bridge
from protocol.errors import INTERNAL_ERROR
from protocol.jsonrpc import RpcError
from tests.schemas import problems

SERVER_INFO = b'{"name":"mcp-bulkhead","version":"1"}'
SERVER_INFO_KEY = "io.modelcontextprotocol/serverInfo"
TEXT = {"type": "text", "text": "hi"}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def to_modern(result: Any, *, cacheable: bool = False, server_info: bytes = b"") -> Any:
    return json.loads(bridge.result_to_modern(json.dumps(result).encode(), cacheable=cacheable, server_info=server_info))


def to_legacy(result: Any) -> Any:
    return json.loads(bridge.result_to_legacy(json.dumps(result).encode(), "2025-11-25"))

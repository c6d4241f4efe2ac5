"""Holds every message that a server is sent against the schema of its revision."""

from __future__ import annotations

import json

from tests import schemas

LEGACY, MODERN = "2025-11-25", "2026-07-28"
_VERSION = "io.modelcontextprotocol/protocolVersion"


class Received:
    """What was wrong with the messages that came."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.seen = 0

    def look(self, body: bytes | str) -> None:
        """Look at a message as it came. One that is modern says so, whomever it is sent to."""
        self.seen += 1
        message = json.loads(body)
        if "method" not in message:
            kind = "JSONRPCResultResponse" if "result" in message else "JSONRPCErrorResponse"
            found = schemas.fault(LEGACY, kind, message)
        else:
            is_modern = _VERSION in message.get("params", {}).get("_meta", {})
            kind = "ClientRequest" if "id" in message else "ClientNotification"
            found = schemas.fault(MODERN if is_modern else LEGACY, kind, message)
        if found:
            self.faults.append(found)

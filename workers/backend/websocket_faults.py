"""What to say when a WebSocket to a server cannot be had."""

from __future__ import annotations

import time
from typing import Final

from protocol.errors import OVERLOADED, SERVER_UNAVAILABLE
from workers.backend.faults import Failure, Says, retry_after_ms
from workers.backend.message_faults import MessageFaults
from workers.websocket import Refused

_THROTTLED: Final = (429, 503)


class WebSocketFaults(MessageFaults):
    """The failures of one server that is reached over WebSocket, worded."""

    def refused_handshake(self, refusal: Refused) -> Failure:
        status, path = refusal.status, self._endpoint.path
        if status in _THROTTLED:
            wait_ms = retry_after_ms(refusal.headers.get(b"retry-after", b""), time.time())
            later = f"try again in {wait_ms / 1000:g} s" if wait_ms else "try again later"
            code = OVERLOADED if status == 429 else SERVER_UNAVAILABLE
            text = f"accepts no connection for now (HTTP {status}): {later}"
            return self._unsent(code, text, retry_after_ms=wait_ms, down=True, says=Says.THROTTLES)
        if status in (401, 403):
            text = self.unauthorized(status, refusal.headers.get(b"www-authenticate", b""))
        elif 300 <= status < 400:
            text = f"redirects elsewhere (HTTP {status}), which is not followed: configure its final URL"
        elif status:
            text = f"does not speak WebSocket at {path} (HTTP {status}): check the path of the server's URL"
        else:
            text = f"answered the WebSocket handshake at {path} with something else: check the server's URL"
        return self._unsent(SERVER_UNAVAILABLE, text, down=True, says=Says.BROKEN)

    def broken_handshake(self) -> Failure:
        return self.not_started("closed the connection during the WebSocket handshake: check the server's URL")

    def silent_handshake(self, timeout_s: float) -> Failure:
        return self.not_started(f"did not answer the WebSocket handshake within {timeout_s:g} s")

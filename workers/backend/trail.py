"""How far the event stream of a call has come, so that it can be gone on with when it ends before the answer.

A legacy server may give its events ids and close a stream at any time; the rest of it is had with a GET that names the
last one (2025-11-25, transports, "Resumability and Redelivery"). The client notices nothing of that.
"""

from __future__ import annotations

from typing import Final

from protocol.sse import Event

PAUSE_MIN_S: Final = 0.1
"""A server that wants us back at once must not make us spin."""
PAUSE_MAX_S: Final = 30.0
PAUSE_USUAL_S: Final = 1.0
"""Of a server that does not say; as for browsers."""
TRIES_MAX: Final = 16
"""In a row without a single event. The time of the call is another bound."""


class Trail:
    """One call's stream, from its first event with an id on."""

    __slots__ = ("_retry_s", "_tries", "last_event_id")

    def __init__(self) -> None:
        self.last_event_id = ""
        self._retry_s = PAUSE_USUAL_S
        self._tries = 0

    def note(self, event: Event) -> None:
        if event.id is not None:
            self.last_event_id = event.id
        if event.retry_ms is not None:
            self._retry_s = event.retry_ms / 1000
        if event.data:
            self._tries = 0

    def next_pause_s(self) -> float | None:
        """Return how long to wait before asking for the rest; None if that has been tried often enough."""
        if not self.last_event_id or self._tries >= TRIES_MAX:
            return None
        self._tries += 1
        return max(PAUSE_MIN_S, min(self._retry_s, PAUSE_MAX_S))

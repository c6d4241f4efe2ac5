"""Answers probes: `/healthz` says that the front runs, `/readyz` whether a call could be served now.

A platform restarts what is not healthy and sends no clients to what is not ready (Kubernetes' liveness and readiness).
So `/healthz` says nothing of servers: a restart of the proxy would not bring one back. Both are answered from memory,
whatever a request for them carries, and tell numbers only, because who may probe need not know the servers' names.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final, Protocol

from protocol.errors import INVALID_REQUEST

HEALTH_PATH: Final = b"/healthz"
READY_PATH: Final = b"/readyz"
_JSON: Final = ((b"content-type", b"application/json"), (b"cache-control", b"no-store"))
_METHOD_NOT_ALLOWED: Final = 405


class Probed(Protocol):
    """A server, as far as readiness goes."""

    @property
    def is_usable(self) -> bool: ...


class PageReply(Protocol):
    """What of an HTTP answer is needed here."""

    def plain(self, status: int, body: bytes = b"", headers: tuple[tuple[bytes, bytes], ...] = ()) -> None: ...

    def reject(self, status: int, code: int, message: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None: ...


class HealthPages:
    """The two pages of one front."""

    def __init__(self, servers: Collection[Probed], empty_groups: Callable[[], int]) -> None:
        """`empty_groups`: returns how many groups have no replica now, for example because none has been found yet."""
        self._servers = servers
        self._empty_groups = empty_groups

    def serve(self, method: bytes, target: bytes, reply: PageReply) -> bool:
        """Answer if `target`, without a query, is one of the pages; return whether it is."""
        if target not in (HEALTH_PATH, READY_PATH):
            return False
        if method != b"GET":
            reply.reject(_METHOD_NOT_ALLOWED, INVALID_REQUEST, "Method not allowed; use GET", ((b"allow", b"GET"),))
        elif target == HEALTH_PATH:
            reply.plain(200, b'{"status":"ok"}', _JSON)
        else:
            self._ready(reply)
        return True

    def _ready(self, reply: PageReply) -> None:
        usable = sum(server.is_usable for server in self._servers)
        known = len(self._servers) + self._empty_groups()
        is_ready = usable > 0 or not known
        word = b"ready" if is_ready else b"not ready"
        body = b'{"status":"%b","servers":%d,"usable":%d}' % (word, known, usable)
        reply.plain(200 if is_ready else 503, body, _JSON)

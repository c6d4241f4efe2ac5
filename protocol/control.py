"""The messages on control sockets: root ↔ worker, and root ↔ zygote.

Control is a SEQPACKET socketpair: one message per packet, file descriptors attached to it where the message says so.
It is separate from the links, so an order from the root is never stuck behind a large result. A worker whose control
socket reaches its end has lost its root and leaves.
"""

from __future__ import annotations

import msgspec

PACKET_BYTES_MAX = 128 * 1024
"""Below Linux's default socket buffer (208 KiB), so that one packet always fits."""


class _Message(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Base of all control messages."""


class LogSettings(msgspec.Struct, array_like=True):
    level: str
    """debug, info, warning or error: what is written at all."""
    file: bool
    """Whether a log file's descriptor is inherited (see `Boot`); otherwise lines go to standard error."""


class ServerInfo(msgspec.Struct, array_like=True):
    """One configured server, as front and backend worker need to know it."""

    name: str
    url: str


class FrontSettings(msgspec.Struct, array_like=True, tag="front"):
    servers: list[ServerInfo]
    """In configured order, which is also the order of merged lists."""
    separator: str
    path: str
    """HTTP path of the endpoint, such as /mcp."""
    allowed_hosts: list[str]
    """Host names (without port) accepted besides the loopback ones."""
    allowed_origins: list[str]
    """Origins accepted besides those of loopback hosts."""
    session_key: bytes
    listeners: int
    """How many listening sockets come attached to the `Boot` packet, first."""
    stdio: bool
    """Whether standard input and output come attached after them."""
    stdio_session: str
    """Session token of the stdio client an earlier incarnation served; "" if there was none."""
    ended_sessions: list[str]
    """Session ids that clients ended and that must stay ended: the newest. Older ones follow in `EndedSessions`."""
    call_timeout_s: float
    page_size: int
    """Items per page of merged lists; 0: one page."""
    trust_annotations: bool = True
    """Send a call of a tool that calls itself read-only or idempotent again if its worker died."""
    held: bool = False
    """Accept no connection before `Serve`."""


class BackendSettings(msgspec.Struct, array_like=True, tag="backend"):
    server: ServerInfo
    call_timeout_s: float


# --- root to worker -----------------------------------------------------------------------------------------
class Boot(_Message, tag="boot"):
    """First packet. Attached, in this order: for a front its listening sockets, then stdin and stdout if `stdio`; for
    every worker the log file if `log.file`, and last the shared memory of this life (`protocol.flight`), all zeros.
    """

    name: str
    """"front", or the server's name."""
    incarnation: int
    settings: FrontSettings | BackendSettings
    log: LogSettings


class Attach(_Message, tag="attach"):
    """Here is your end of a link (attached). `peer` and `incarnation` are those of the other end.

    For a front, the shared memory of the worker at the other end is attached behind it.
    """

    peer: str
    incarnation: int


class ServerDown(_Message, tag="down"):
    """To a front: the worker of this server is gone. `retry_after_s` < 0: parked, no restart is due soon."""

    name: str
    retry_after_s: float


class EndedSessions(_Message, tag="ended_more"):
    """To a front: sessions that have ended without its doing, and that it must not know any more.

    After `Boot`: those that did not fit into that packet. Later: those that ended at a front of another root (upgrade).
    """

    session_ids: list[str]


class Serve(_Message, tag="serve"):
    """To a front that was told to hold: accept connections from now on."""


class Drain(_Message, tag="drain"):
    """Accept nothing new, finish what is in flight within `deadline_s`, then leave."""

    deadline_s: float
    idle_s: float = 0.0
    """How long an idle connection stays open for one more request (its answer then says `Connection: close`)."""


class Stop(_Message, tag="stop"):
    """Leave now."""


class Ping(_Message, tag="ping"):
    number: int


# --- worker to root -----------------------------------------------------------------------------------------
class Ready(_Message, tag="ready"):
    """The worker runs its loop; a front: it accepts connections."""

    incarnation: int


class Pong(_Message, tag="pong"):
    number: int


class WorkerState(_Message, tag="state"):
    """A backend worker's view of its server, for status and logs. The numbers are of this incarnation."""

    state: str
    detail: str
    answers: bool = True
    """The last thing sent to the server was answered, be it with an error (protocol/health.py)."""
    checked_at: float = 0.0
    """When the server was last known to answer or not: wall clock, seconds since 1970; 0 for never."""
    response_ms: float = 0.0
    """How long the last health check took that was answered; 0 for none."""
    error_count: int = 0
    """Calls, checks and attempts to connect that the server failed; its own errors and `isError` are none."""
    last_error: str = ""
    """What the last of them was; "" for none."""


class SessionEnded(_Message, tag="ended"):
    session_id: str


class StdioSession(_Message, tag="stdio_session"):
    """The stdio client has initialized; keep its token for the next incarnation."""

    token: str


class StdioClosed(_Message, tag="stdio_closed"):
    """Standard input has ended and every answer has been written."""


class LinkBroken(_Message, tag="link_broken"):
    """The other end of this link broke the protocol: restart it."""

    peer: str
    incarnation: int
    reason: str


ToWorker = Boot | Attach | ServerDown | EndedSessions | Serve | Drain | Stop | Ping
FromWorker = Ready | Pong | WorkerState | SessionEnded | StdioSession | StdioClosed | LinkBroken


# --- root to zygote and back --------------------------------------------------------------------------------
class Fork(_Message, tag="fork"):
    """Fork a worker whose control socket is the attached descriptor. `title` is its process title."""

    key: int
    """The root's own number for this life of the worker."""
    title: str


class Forked(_Message, tag="forked"):
    """Done; a pidfd of the worker is attached."""

    key: int
    pid: int


class ForkFailed(_Message, tag="fork_failed"):
    key: int
    reason: str


class Exited(_Message, tag="exited"):
    """A worker is gone and reaped. `status`: its exit status, or minus the signal (os.waitstatus_to_exitcode)."""

    key: int
    pid: int
    status: int


ToZygote = Fork
FromZygote = Forked | ForkFailed | Exited

_encoder = msgspec.msgpack.Encoder()
decode_to_worker = msgspec.msgpack.Decoder(ToWorker).decode
decode_from_worker = msgspec.msgpack.Decoder(FromWorker).decode
decode_to_zygote = msgspec.msgpack.Decoder(ToZygote).decode
decode_from_zygote = msgspec.msgpack.Decoder(FromZygote).decode


def encode(message: ToWorker | FromWorker | ToZygote | FromZygote) -> bytes:
    """Return the packet of a message."""
    return _encoder.encode(message)

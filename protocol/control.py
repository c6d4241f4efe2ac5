"""The messages on control sockets: root ↔ worker, and root ↔ zygote.

Control is a SEQPACKET socketpair: one message per packet, file descriptors attached to it where the message says so.
It is separate from the links, so an order from the root is never stuck behind a large result. A worker whose control
socket reaches its end has lost its root and leaves.
"""

from __future__ import annotations

import msgspec

from protocol import limits, tasks
from protocol.client_profiles import NAME_CHARACTERS_MAX
from protocol.management import Request
from protocol.names import Policy
from protocol.tool_rules import ToolRules

PACKET_BYTES_MAX = 128 * 1024
"""Below Linux's default socket buffer (208 KiB), so that one packet always fits."""
SAID_LINES_MAX = 20
SAID_CHARS_MAX = 500

EXIT_OUT_OF_MEMORY = 71
"""Exit status of a worker that was refused memory (sysexits EX_OSERR)."""


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
    """For its backend worker alone; "" to a front."""
    headers: list[tuple[str, str]] = []
    """Sent with every request to the server; for its backend worker alone, because their values are secrets."""
    prefix: str = ""
    """In front of public names; "" for the server's name."""
    priority: int = 0
    rules: ToolRules = ToolRules()
    call_timeout_s: float = limits.CALL_TIMEOUT_S
    """Of calls without an answer or progress; at most `CALL_CEILING_S`."""
    tool_timeouts: dict[str, float] = {}
    """The same for single tools, by the names the server gives them."""
    in_flight_max: int = limits.IN_FLIGHT_PER_SERVER_MAX
    queue_max: int = limits.QUEUE_PER_SERVER_MAX
    group: str = ""
    """The group it is a replica of; "" if clients see the server itself."""
    weight: float = 1.0
    """Among the replicas of its group; 0: it gets no new calls."""
    percent: float = 0.0
    """Of the group's calls that it gets, whatever its weight; 0: it is one of those that share the rest."""
    trust_annotations: bool = True
    """Send a call of a tool that calls itself read-only or idempotent again if its worker died."""
    retries_max: int = limits.RETRIES
    """How often a call that its worker ended with, or that a replica could not serve, is given to the next one."""
    fallbacks: dict[str, tuple[str, str]] = {}
    """By its own names of tools: public name of the server that takes a call that it cannot serve, and its tool."""
    durable_after_s: float = 0.0
    """Calls of clients that take tasks become tasks of its worker after so long; 0: never."""
    is_isolated: bool = False
    """Each client has a session of its own at the server, or a process of it."""
    sessions_max: int = 0
    """How many of those there may be at a time; 0 unless it is isolated."""
    rank: int = 0
    """Among them, for the policy that goes by their order: the lowest first, and of equals the first configured."""

    def timeout_s(self, method: str, name: str) -> float:
        """Return how long a call may go without an answer or progress."""
        if method == tasks.RESULT:  # which waits for the end of the task
            return limits.CALL_CEILING_S
        return self.tool_timeouts.get(name, self.call_timeout_s) if method == "tools/call" else self.call_timeout_s


class Command(msgspec.Struct, array_like=True):
    """How to start a server that is a command. For its backend worker alone."""

    argv: list[str]
    """The program and its arguments; no shell sees them."""
    environment: dict[str, str]
    """All of it."""
    cwd: str
    """"" for the proxy's own."""
    secrets: list[str] = []
    """Values in the environment that came from references: not to be shown if the server says them."""
    memory_bytes: int = 0
    """Of private memory that each of its processes may have; 0 for any number."""
    processes_max: int = 0
    """It and all that descends from it; 0 for any number."""
    nice: int = 0
    """Added to the proxy's own (nice(2))."""
    processors_max: int = 0
    """That its processes run on; 0 for all."""


class Proxy(msgspec.Struct, array_like=True, frozen=True):
    """What stands between us and a server."""

    host: str
    port: int
    authorization: str = ""
    """Value of the Proxy-Authorization field, a secret; "" for none."""


class Route(msgspec.Struct, array_like=True, frozen=True):
    """How connections to a server that has a URL are made. For its backend worker alone."""

    proxy: Proxy | None = None
    ca_file: str = ""
    """Authorities to be trusted beside those of the system. All of these are paths; "" for none."""
    client_cert: str = ""
    client_key: str = ""
    """"" if it is in the file of the certificate."""
    address: str = ""
    """The IP address to connect to in place of the name in the URL, which stays what the server is called."""
    allow_private: bool = False
    """A name that seems to be public may lead to addresses that are not."""
    http2: bool = False
    """A server behind TLS may choose HTTP/2."""


class SessionNote(msgspec.Struct, array_like=True):
    """What a legacy client has asked for in its session, in a form that only fronts understand."""

    key: str
    """Which session: a digest of its id."""
    note: bytes
    """At most `protocol.limits.SESSION_NOTE_BYTES_MAX`; empty: nothing (any more)."""


class GroupInfo(msgspec.Struct, array_like=True):
    """Servers that are replicas of one another, and how clients see them together. Workers know nothing of it."""

    name: str
    policy: str
    """One of `protocol.balancing.POLICIES`."""
    sticky_by: str = ""
    """With the policy "sticky": the argument, or "header:" and a field, whose value decides instead of the session."""
    prefix: str = ""
    priority: int = 0
    rules: ToolRules = ToolRules()
    fallbacks: dict[str, tuple[str, str]] = {}
    """As of a server (`ServerInfo`)."""
    hedge: bool = False
    """Ask another replica as well when a read-only call takes unusually long."""


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
    page_size: int
    """Items per page of merged lists; 0: one page."""
    namespace: Policy = Policy.PREFIX
    name_characters_max: int = NAME_CHARACTERS_MAX
    """Of public names of tools, for clients in general; 0: they are not made to fit."""
    lazy_above: int = -1
    """With more tools than this, three that find and call them are listed in their place; -1: never."""
    management: list[str] = []
    """Public names of the management tools, in the order of `protocol.management.TOOL_NAMES`; empty if switched off."""
    groups: list[GroupInfo] = []
    """Those that `ServerInfo.group` may name."""
    held: bool = False
    """Accept no connection before `Serve`."""
    websocket_path: str = ""
    """HTTP path that becomes a WebSocket, such as /ws; "" for none."""
    certificate: str = ""
    """A file: TLS is spoken on TCP listeners; "" for none."""
    key: str = ""
    """The file with its key; "" if that stands in the same file."""
    trusted_proxies: list[str] = []
    """Networks whose word about clients counts, and "unix"."""
    proxy_protocol: bool = False
    """Connections from there begin with a header of the PROXY protocol."""
    sse: bool = False
    """Serve clients that know HTTP+SSE only."""
    fronts: int = 1
    """How many fronts there are, all with the same listening sockets."""
    number: int = 0
    """Which of them this is, from 0."""


class BackendSettings(msgspec.Struct, array_like=True, tag="backend"):
    server: ServerInfo
    command: Command | None = None
    """What to start; None for a server that has a URL."""
    route: Route = Route()
    transport: str = ""
    """"http" or "sse", if it is known which of them an http URL means; "": that is to be found out."""
    fronts: int = 1
    """How many fronts share what the server can take (workers/backend/places.py)."""


# --- root to worker -----------------------------------------------------------------------------------------
class Boot(_Message, tag="boot"):
    """First packet. Attached, in this order: for a front its listening sockets, then, if `stdio`, stdin, stdout and the
    ledger (`protocol.ledger`), then, if there are several fronts, the memory that they share, its inbox and the way to
    the inbox of each of them; for every worker the log file if `log.file`, and last the shared memory of this life
    (`protocol.flight`), all zeros.
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
    gently: bool = False
    """To a front: the worker before this one is there still. It gets no new calls, and `Released` tells when those that
    it has are done."""


class ServerDown(_Message, tag="down"):
    """To a front: the worker of this server is gone. `retry_after_s` < 0: parked, no restart is due soon."""

    name: str
    retry_after_s: float


class AddServer(_Message, tag="add_server"):
    """To a front: offer the tools of one more server. The link to it follows in `Attach`.

    One that is offered already keeps its link and its place, and is offered under these names and rules, and with this
    weight and rank, from now on. Its group is what it was.
    """

    server: ServerInfo
    place: int
    """Before so many of those that are offered already."""


class DropServer(_Message, tag="drop_server"):
    """To a front: offer the tools of this server no more. `Released` tells when the calls that it has are done."""

    name: str


class Groups(_Message, tag="groups"):
    """To a front: these are the groups of replicas from now on. No server is offered that would leave or join one."""

    groups: list[GroupInfo]


class Managed(_Message, tag="managed"):
    """To a front: (a part of) the answer to `Manage`, a JSON object. The parts of one answer come in order."""

    number: int
    part: bytes
    is_last: bool


class Check(_Message, tag="check"):
    """To a backend worker: find out now how the server is, and answer with `Checked` before the deadline."""

    number: int
    deadline_s: float


class Woke(_Message, tag="woke"):
    """To a backend worker: nothing has run for so long, as when the machine was asleep."""

    absent_s: float


class EndedSessions(_Message, tag="ended_more"):
    """To a front: sessions that have ended without its doing, and that it must not know any more.

    After `Boot`: those that did not fit into that packet. Later: those that ended at a front of another root (upgrade).
    """

    session_ids: list[str]


class SessionNotes(_Message, tag="notes"):
    """To a front, after `Boot` and before anything else: what earlier incarnations noted of sessions, newest first."""

    notes: list[SessionNote]


class Serve(_Message, tag="serve"):
    """To a front that was told to hold: accept connections from now on."""


class ReadCertificate(_Message, tag="certificate"):
    """To a front: read certificate and key again."""


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
    era: str = ""
    """How the server is spoken to: "legacy", "modern" or "legacy, modern"; "" if that is not known yet."""
    tool_count: int = -1
    """As of its last list; -1 if there has been none."""
    transport: str = ""
    """How the server is spoken to, if that was found out; "" if it is what the configuration says."""
    sessions: int = 0
    """Clients that have a session of their own there, or a process, if it is isolated."""


class SessionEnded(_Message, tag="ended"):
    session_id: str


class SessionNoted(_Message, tag="noted"):
    """From a front: what the next one has to know of a session, in place of what was noted of it before."""

    note: SessionNote


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


class Released(_Message, tag="released"):
    """From a front: no call is in flight any more on the link with this life of a server's worker, and it is closed."""

    name: str
    incarnation: int


class ReplicaReport(msgspec.Struct, array_like=True):
    """How one replica of a group does."""

    name: str
    share: float
    """Of the calls that the group was given lately, 0 to 1."""
    ejected: bool
    """It gets no calls for a while because it failed too often."""
    ejections: int
    failovers: int
    """Calls that it had, or was to have, and that were given to another."""
    lacks: list[str] = []
    """What others of the group offer and it does not, as "tool NAME"; of all of them at most `DIFFERENCES_TOLD_MAX`."""
    differs: list[str] = []
    """What it describes otherwise than the first of them that offers it."""
    hedged: int = 0
    """Calls that another was given as well because they took long at this one."""


class GroupReport(_Message, tag="group"):
    """From a front: how the replicas of a group do, when that has changed. The counts are of this front's life."""

    name: str
    replicas: list[ReplicaReport]


class Manage(_Message, tag="manage"):
    """From a front: a client asks for an operation. Answered with `Managed`."""

    number: int
    request: Request


class Checked(_Message, tag="checked"):
    """From a backend worker: what `Check` has found out."""

    number: int
    problem: str
    """What is wrong with the server, for people; "" if nothing is."""
    refused: bool
    """It is that the connection was refused."""
    answers: bool
    """The last thing sent to it was answered, be it with an error."""
    response_ms: float
    """How long it took to answer; 0 if it did not."""
    tool_count: int
    """-1 if its tools could not be listed."""
    tools: list[str]
    """Their names, at most `protocol.limits.TOOLS_REPORTED_MAX`."""


class Said(_Message, tag="said"):
    """From a backend worker: what its server, a command, has written to standard error, and how it ended."""

    lines: list[str]
    """At most `SAID_LINES_MAX`, each at most `SAID_CHARS_MAX` characters."""


ToWorker = (
    Boot
    | Attach
    | ServerDown
    | AddServer
    | DropServer
    | Groups
    | Managed
    | Check
    | Woke
    | EndedSessions
    | SessionNotes
    | Serve
    | ReadCertificate
    | Drain
    | Stop
    | Ping
)
FromWorker = (
    Ready
    | Pong
    | WorkerState
    | SessionEnded
    | SessionNoted
    | StdioSession
    | StdioClosed
    | LinkBroken
    | Released
    | GroupReport
    | Manage
    | Checked
    | Said
)


# --- root to zygote and back --------------------------------------------------------------------------------
class Fork(_Message, tag="fork"):
    """Fork a worker whose control socket is the attached descriptor. `title` is its process title."""

    key: int
    """The root's own number for this life of the worker."""
    title: str
    data_max: int = 0
    """Bytes of private memory that the kernel may grant it (RLIMIT_DATA); 0 for any number."""


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
    peak_bytes: int = 0
    """The most memory it had at a time (resident)."""


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

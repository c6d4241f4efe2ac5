"""The frames on a link between a front and a backend worker.

Layout of a frame: ``u32 length | u16 header length | header | payload``, big-endian; ``length`` counts what follows it.
The header is one msgpack array from the tagged union below and always small. The payload is raw JSON that neither end
has to decode; it stands outside the header so that it can be sent and received without being copied.

Rule 1: the first frame of each side is `Hello`; a version that differs ends the link.
Rule 2: a call ends exactly once, with `Result`, `Fault`, `NeedInput` or `TaskCreated`. Events and questions precede it;
nothing follows it. After `NeedInput` the worker may hold on to what has begun until `Resume`, a call like any other.
Rule 3: an unknown tag, an oversize length or a header that does not decode is a protocol error: the link is closed and
the worker at fault is restarted. Nobody guesses.
Rule 4: payload bytes are credited. A side sends at most `Hello.window` payload bytes that the other has not yet given
back with `Credit`. A call counts against `Hello.calls` from `Call` or `Resume` to its end.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable
from typing import Final

import msgspec

from protocol.limits import FRAME_BYTES_MAX
from protocol.versions import Era

Payload = bytes | bytearray | memoryview


class _Frame(msgspec.Struct, array_like=True, gc=False, omit_defaults=False):
    """Base of all headers: positional fields, because both ends are always of one version."""


class AnswerKind(enum.IntEnum):
    """What became of a question to the client."""

    RESULT = 0
    ERROR = 1
    """The client refused, with an error of its own."""
    NOBODY = 2
    """The client is gone, or cannot be reached."""


class Hello(_Frame, tag=0):
    version: int
    name: str
    """Who speaks: the server's name, or "front"."""
    incarnation: int
    calls: int
    """How many calls this side accepts in flight (0 from a front, which accepts none); from several fronts together,
    of which each may have as many as `Limit` says."""
    window: int
    """How many unacknowledged payload bytes this side accepts."""


class Credit(_Frame, tag=1):
    payload_bytes: int


# --- front to worker ----------------------------------------------------------------------------------------
AGAIN: Final = -1
"""In place of an interaction: nothing is held, and the request is to be made again as it was, without the answers."""


class Call(_Frame, tag=10):
    """One client request for this server. Payload: `params` as a JSON object without `_meta`, names un-prefixed."""

    id: int
    """Unique on this link; the front's own numbering."""
    era: Era
    """Of the client; the worker prefers the leg of the same era."""
    method: str
    name: str
    """`params.name` as the server knows it ("" for methods without)."""
    timeout_s: float
    """Time the call has left. Relative, because clocks of two trio runs differ."""
    meta: bytes
    """The client's `_meta` without the keys the proxy owns: members of a JSON object without the braces, or b""."""
    progress: bool
    """The client gave a progress token."""
    log_level: str
    """Lowest level of log messages the client wants; "" for none (modern) or unset (legacy)."""
    client_info: bytes
    """The client's `clientInfo`, raw JSON object, or b""."""
    abilities: int = 0
    """What the client can do (protocol/abilities.py)."""
    client: int = 0
    """Who it is (protocol/clients.py): the same in all of its calls; 0 if it cannot be told from others."""


class Cancel(_Frame, tag=11):
    id: int
    reason: str


class Recall(_Frame, tag=32):
    """Give the call back, as a `Fault`, unless it has been sent: another replica would send it at once."""

    id: int


class PauseEvents(_Frame, tag=12):
    """The client of this call reads slowly: stop reading its stream until `ResumeEvents`."""

    id: int


class ResumeEvents(_Frame, tag=13):
    id: int


class Answered(_Frame, tag=17):
    """The client's answer to an `Ask`. Payload: its `result` or `error` object, raw JSON; empty if there is none."""

    id: int
    ask: int
    outcome: AnswerKind


class Resume(_Frame, tag=18):
    """Go on with what a `NeedInput` left held. Payload: the client's `inputResponses`, a JSON object of objects."""

    id: int
    interaction: int
    """Of the `NeedInput`. It is good for one `Resume`."""
    timeout_s: float
    progress: bool
    log_level: str


class Abandon(_Frame, tag=19):
    """Nobody will come back for what a `NeedInput` left held."""

    interaction: int


class TaskAsk(_Frame, tag=42):
    """`tasks/*` about a task that the worker keeps; a call like any other. Payload: `params`."""

    id: int
    task: str
    method: str


class ListRequest(_Frame, tag=14):
    """Ask for the server's catalogue as clients of `era` should see it. Answered by `Listing` or `ListFault`."""

    id: int
    era: Era
    kind: str
    """"tools"; later also "prompts", "resources", "resourceTemplates"."""
    have: int
    """Generation the front already holds (0: none); if it is still current, the answer has no payload."""


class Watch(_Frame, tag=15):
    """From now on this front wants to hear of updates of this resource. Answered by `Watching`, once that is known."""

    id: int
    uri: str
    """Or a topic (`protocol.tasks.topic`), for a task; also in the frames below.

    If each client has a session of its own at the server: as that client has it (`protocol.uris.of_client`)."""


class Unwatch(_Frame, tag=16):
    """Not any more."""

    uri: str


class ClientGone(_Frame, tag=44):
    """The client of this number (`Call.client`) has ended its session, and makes no more calls."""

    client: int


class Want(_Frame, tag=47):
    """Calls wait here for a place among those in flight (or none do any more). Only if several fronts share places."""

    wants: bool


class Limited(_Frame, tag=48):
    """The front keeps to the next `Limit` that it was told: whatever it sends under the one before has been sent."""


class Probe(_Frame, tag=40):
    """Find out now whether the server answers. Answered by `Probed`."""


# --- worker to front ----------------------------------------------------------------------------------------
class Event(_Frame, tag=20):
    """A notification about a call in flight. Payload: the notification's `params`, raw JSON."""

    id: int
    method: str


class Result(_Frame, tag=21):
    """The call succeeded. Payload: the `result` value as the server sent it, in the shape of `era`."""

    id: int
    era: Era


class Fault(_Frame, tag=22):
    """The call failed. Payload: the server's own `error` object, raw JSON, if it was the server that refused."""

    id: int
    code: int
    message: str
    sent: bool
    """Some of the request had been written to the server, so it may have been executed."""
    retry_after_ms: int
    """Advice; 0 for none."""
    era: Era
    """Era of the leg the payload came from."""
    lost: bool = False
    """The server's process ended under it: it may be sent again to the next, as after the end of a worker."""


class Ask(_Frame, tag=29):
    """The server asks something of the client in the middle of a call. Payload: `params`, raw JSON object.

    Only clients of the legacy era are asked so; they answer with `Answered`.
    """

    id: int
    ask: int
    """Unique within the call."""
    method: str


class Unask(_Frame, tag=30):
    """The server does not wait for this answer any more."""

    id: int
    ask: int


class NeedInput(_Frame, tag=31):
    """The call of a modern client ends with a question to it. Payload: an `InputRequiredResult`."""

    id: int
    interaction: int
    """To resume the call with, which is held; 0 if nothing is held, and the result says all the server needs; or
    `AGAIN`."""


class TaskCreated(_Frame, tag=43):
    """The call ends with a task of the server's. Payload: a `CreateTaskResult` of 2026-07-28, with the server's id."""

    id: int
    is_kept: bool = False
    """It is no task of the server's: the worker keeps it, and is asked about it with `TaskAsk`."""


class Listing(_Frame, tag=23):
    """Payload: a JSON array of the items as the server sent them; empty if the front's generation is current."""

    id: int
    era: Era
    kind: str
    generation: int
    """Grows by one whenever the list changes; unique within an incarnation and (era, kind)."""
    ttl_ms: int
    private: bool
    leg: Era
    """The era of the leg the list came over."""


class ListFault(_Frame, tag=24):
    id: int
    message: str


class ListChanged(_Frame, tag=25):
    """Unasked: the list may have changed; ask again when it is needed."""

    kind: str


class State(_Frame, tag=26):
    """Unasked: what the worker thinks of its server. `ready` decides whether lists wait for it."""

    state: str
    """starting, connecting, negotiating, ready, degraded, backoff (architecture.md, section 6)."""
    detail: str
    instructions: str
    """The server's instructions to the model ("" if none or not yet known)."""
    offers: list[str] | None
    """Names of the server's capabilities, and what of them is true, as "resources.subscribe"; None if not known."""


class Watching(_Frame, tag=27):
    """The server tells us of updates of a resource; or it does not, and then the front's wish is forgotten."""

    id: int
    code: int
    """Of the error; 0 if there is none."""
    message: str


class Updated(_Frame, tag=28):
    """Unasked: a watched resource, or one below it, has changed. Payload: the notification's `params`, raw JSON.

    Of a task, with the server's own id; or nothing, if it may have changed unheard: then it is to be asked for.
    """

    uri: str


class Limit(_Frame, tag=49):
    """So many calls of this front may be in flight from now on, of the `Hello.calls` that all fronts share."""

    calls: int


class Probed(_Frame, tag=41):
    """What a `Probe` has found out."""

    works: bool


FromFront = (
    Hello | Credit | Call | Cancel | Recall | PauseEvents | ResumeEvents | ListRequest | Watch | Unwatch | Answered
    | Resume | Abandon | Probe | TaskAsk | ClientGone | Want | Limited
)  # fmt: skip
FromWorker = (
    Hello | Credit | Event | Result | Fault | Listing | ListFault | ListChanged | State | Watching | Updated | Ask
    | Unask | NeedInput | Probed | TaskCreated | Limit
)  # fmt: skip
Header = FromFront | FromWorker

HEAD: Final = struct.Struct(">IH")
"""`length`, `header length`."""
HEAD_BYTES: Final = HEAD.size
LENGTH_BYTES: Final = 4
"""Of the first length, which does not count itself."""
unpack_head: Final[Callable[[Payload, int], tuple[int, int]]] = HEAD.unpack_from
_pack_head: Final = HEAD.pack
_encode = msgspec.msgpack.Encoder().encode
decode_from_front: Final[Callable[[Payload], FromFront]] = msgspec.msgpack.Decoder(FromFront).decode
decode_from_worker: Final[Callable[[Payload], FromWorker]] = msgspec.msgpack.Decoder(FromWorker).decode


class LinkError(Exception):
    """The other end broke a rule of the link. Nothing after it can be trusted: close the link, restart the worker."""


def encode_frame(header: Header, payload_bytes: int = 0) -> bytes:
    """Return everything of a frame that precedes its payload."""
    head = _encode(header)
    header_bytes = len(head)
    return _pack_head(2 + header_bytes + payload_bytes, header_bytes) + head


def frame_length(prefix: bytes | bytearray | memoryview, at: int = 0) -> tuple[int, int]:
    """Return (bytes of the whole frame, bytes of its header) from the six bytes at `at`.

    Errors: `LinkError` if the lengths are impossible.
    """
    length, header_length = unpack_head(prefix, at)
    if length > FRAME_BYTES_MAX or header_length + 2 > length:
        raise LinkError(f"impossible frame: length {length}, header {header_length}")
    return length + LENGTH_BYTES, header_length

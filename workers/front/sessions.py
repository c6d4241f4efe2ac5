"""Sessions of legacy clients: all that never changes is in the signed session id, so any front can serve any."""

from __future__ import annotations

import functools
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Container, Iterable
from typing import Final, Protocol

import msgspec

from protocol import session_token
from protocol.abilities import of_capabilities
from protocol.clients import number_of
from protocol.control import SessionNote
from protocol.limits import SESSION_NOTE_BYTES_MAX, SESSION_NOTES_MAX, TASKS_LISTED_MAX
from protocol.session_token import SessionFacts
from protocol.versions import Era
from workers.front.calls import ClientTable, FrontCall
from workers.front.http_connection import Keep
from workers.front.kept_streams import KeptStreams
from workers.front.questions import LegacyQuestions

SESSIONS_KEPT_MAX: Final = 10_000
"""Ids whose signature is remembered as good; an evicted one is verified again (about 5 µs)."""
ENDED_KEPT_MAX: Final = 10_000


class EventStream(Protocol):
    """A client's open channel for messages that belong to no request."""

    def send(self, message: bytes) -> None: ...

    def end(self) -> None: ...


class Session:
    """One legacy client."""

    __slots__ = (
        "abilities", "facts", "id", "in_flight", "is_known", "keep", "log_level", "number", "questions", "stream",
        "uris",
    )  # fmt: skip

    def __init__(self, session_id: str, facts: SessionFacts) -> None:
        self.id = session_id
        self.facts = facts
        self.is_known = True
        """`Sessions.find` would return this very object."""
        self.in_flight: dict[bytes, FrontCall] = ClientTable(session_id.encode())
        """Calls of this client on this front, by request id."""
        self.abilities = of_capabilities(facts.capabilities, facts.version)
        """What the client can be asked in the middle of a call."""
        self.number = number_of(session_id.encode(), Era.LEGACY, self.abilities)
        """By which workers know the client."""
        self.questions = LegacyQuestions(self.number)
        self.keep: Keep | None = None
        """Begins to keep what is sent on an event stream, for a client over HTTP that loses it."""
        self.stream: EventStream | None = None
        self.log_level = ""
        """What the client has set (`logging/setLevel`); "" if nothing."""
        self.uris: dict[str, None] = {}
        """Resources that it has subscribed to."""


class OwnTask(msgspec.Struct, array_like=True, frozen=True):
    """A task that a client was given in its session."""

    number: int
    """Grows from each task of a session to the next."""
    server: str
    """Its public name."""
    replica: str
    task_id: str
    """The server's own."""


class _Note(msgspec.Struct, array_like=True):
    """What a client has asked for in its session. Everything else of a session never changes and is in its id."""

    log_level: str = ""
    uris: list[str] = []
    tasks: list[OwnTask] = []
    """Oldest first."""


_encode_note: Final = msgspec.msgpack.Encoder().encode
_decode_note: Final = msgspec.msgpack.Decoder(_Note).decode


class Sessions:
    """Opens, recognises and ends sessions."""

    def __init__(
        self,
        key: bytes,
        ended: Iterable[str],
        on_end: Callable[[str], None],
        *,
        noted: Callable[[SessionNote], None],
        kept: KeptStreams,
        fronts: int = 1,
        number: int = 0,
    ) -> None:
        """`fronts`: how many there are, of which this is the one with that `number`, from 0."""
        self.kept = kept
        self._fronts = fronts
        self._number = number
        self._gone: set[int] = set()
        """Other fronts that serve nobody any more."""
        self.gone: Callable[[int], None] = _nobody_asks
        """Told of each client that makes no more calls, by its number."""
        self._key = key
        self._noted = noted
        self._notes: OrderedDict[str, bytes] = OrderedDict()
        """By the sessions' digests, oldest first."""
        self._on_end = on_end
        self._known: OrderedDict[str, Session] = OrderedDict()
        self._ended: OrderedDict[str, None] = OrderedDict.fromkeys(ended)
        self._with_stream: dict[str, Session] = {}
        self.on_stream: dict[str, Callable[[Session], None]] = {}
        """By endpoint: told of each of its sessions that gets a stream, loses it, or ends."""

    def open(self, version: str, capabilities: bytes, client_info: bytes, endpoint: str = "") -> Session:
        nonce = secrets.token_bytes(16)
        if self._fronts > 1:
            nonce = session_token.nonce(nonce + secrets.token_bytes(1), self._number, self._fronts)
        facts = SessionFacts(version, capabilities, client_info, nonce, int(time.time()), endpoint)
        return self._remember(Session(session_token.mint(self._key, facts), facts))

    def find(self, session_id: str, endpoint: str = "") -> Session | None:
        """Return the session, also one that another front opened.

        None if it is not ours, or not of this endpoint, or has ended, or another front has it (`elsewhere`).
        """
        session = self._known.get(session_id)
        if session is not None:
            return session if session.facts.endpoint == endpoint else None
        if session_id in self._ended:
            return None
        facts = session_token.read(self._key, session_id)
        if facts is None or facts.endpoint != endpoint or self._owner(facts) != self._number:
            return None
        session = Session(session_id, facts)
        self._recall(session)
        return self._remember(session)

    def elsewhere(self, session_id: str) -> int | None:
        """Return the number of the other front that has this session; None if there is none."""
        if self._fronts == 1 or session_id in self._known:
            return None
        facts = session_token.read(self._key, session_id)
        front = self._owner(facts) if facts is not None else self._number
        return front if front != self._number else None

    def front_gone(self, front: int) -> None:
        """Another front serves nobody any more: its sessions are this one's, too, from now on."""
        self._gone.add(front)

    def _owner(self, facts: SessionFacts) -> int:
        if self._fronts == 1:
            return self._number
        front = session_token.owner(facts, self._fronts)
        return self._number if front in self._gone else front

    def add_ended(self, session_ids: Iterable[str]) -> None:
        """Learn of sessions that ended before this front began, or at another one, and know them no more."""
        for session_id in session_ids:
            if session_id not in self._ended:
                self._ended[session_id] = None
                self._ended.move_to_end(session_id, last=False)
            if (session := self._known.pop(session_id, None)) is not None:
                self._abandon(session)

    def add_notes(self, notes: Iterable[SessionNote]) -> None:
        """Learn what was noted before this front began; none is newer than what is known already."""
        for note in notes:
            if note.key not in self._notes:
                self._notes[note.key] = note.note
                self._notes.move_to_end(note.key, last=False)
        for session in self._with_stream.values():  # the client on stdio has come before the notes
            if not session.log_level and not session.uris:
                self._recall(session)
                self._tell_stream(session)

    def note(self, session: Session) -> None:
        """Have what the client has asked for outlive this front."""
        self._write(session, self.own_tasks(session))

    def own_tasks(self, session: Session) -> list[OwnTask]:
        """Return the tasks that the client was given, oldest first, as far as they are still known."""
        note = self._notes.get(session_token.digest(session.id))
        return _decode_note(note).tasks if note else []

    def add_own_task(self, session: Session, server: str, replica: str, task_id: str) -> None:
        """Note that the client was given this task; if there are too many, the oldest is forgotten."""
        known = self.own_tasks(session)
        # By the clock, so that a list that is being read in pages goes on behind whatever has been forgotten meanwhile.
        number = max(int(time.time() * 1000), known[-1].number + 1 if known else 0)
        self._write(session, [*known, OwnTask(number, server, replica, task_id)])

    def drop_own_tasks(self, session: Session, numbers: Container[int]) -> None:
        self._write(session, [task for task in self.own_tasks(session) if task.number not in numbers])

    def _write(self, session: Session, tasks: list[OwnTask]) -> None:
        """Note all this of a session, of its tasks as many as there is room for."""
        key = session_token.digest(session.id)
        is_empty = not session.log_level and not session.uris and not tasks
        encoded = b"" if is_empty else _encode_note(_Note(session.log_level, list(session.uris), tasks))
        while tasks and (len(encoded) > SESSION_NOTE_BYTES_MAX or len(tasks) > TASKS_LISTED_MAX):
            tasks = tasks[1:]
            encoded = _encode_note(_Note(session.log_level, list(session.uris), tasks))
        if encoded == self._notes.pop(key, b""):
            if encoded:
                self._notes[key] = encoded
            return
        if encoded:
            self._notes[key] = encoded
            if len(self._notes) > SESSION_NOTES_MAX:  # the root forgets the same one
                self._notes.popitem(last=False)
        self._noted(SessionNote(key, encoded))

    def _recall(self, session: Session) -> None:
        if not self._notes:
            return
        note = self._notes.get(session_token.digest(session.id))
        if note:
            wanted = _decode_note(note)
            session.log_level, session.uris = wanted.log_level, dict.fromkeys(wanted.uris)

    def end(self, session: Session) -> None:
        """The client has ended its session: cancel what it left and never know it again."""
        self._known.pop(session.id, None)
        self._ended[session.id] = None
        while len(self._ended) > ENDED_KEPT_MAX:
            self._ended.popitem(last=False)
        self._on_end(session.id)
        self._abandon(session)

    def forget(self, session: Session) -> None:
        """The client has gone, and cannot come back to its session, whose id it has never been told."""
        self._known.pop(session.id, None)
        self._abandon(session)

    def _abandon(self, session: Session) -> None:
        """Let go of what a session that has ended still has here."""
        session.is_known = False
        session.log_level, session.uris = "", {}
        self._write(session, [])
        self.kept.forget_session(session.id)
        self.set_stream(session, None)
        for call in list(session.in_flight.values()):
            reply = call.reply
            call.cancel("the client ended its session")
            reply.nothing()
        self.gone(session.number)

    def set_stream(self, session: Session, stream: EventStream | None) -> None:
        """Make this the session's channel. One message goes to one stream only, so an older one ends."""
        if session.stream is not None:
            session.stream.end()
        session.stream = stream
        if stream is None:
            self._with_stream.pop(session.id, None)
        else:
            self._with_stream[session.id] = session
        self._tell_stream(session)

    def stream_gone(self, session: Session, stream: EventStream) -> None:
        if session.stream is stream:
            session.stream = None
            self._with_stream.pop(session.id, None)
            self._tell_stream(session)

    def is_ended(self, session: Session) -> bool:
        return session.id in self._ended

    def broadcast(self, message: bytes, endpoint: str = "") -> None:
        """Send a notification to every client of an endpoint that listens."""
        for session in self._listening(endpoint):
            if session.stream is not None:
                session.stream.send(message)

    def end_streams(self, endpoint: str) -> None:
        """The endpoint is gone, so nothing more will be said there."""
        for session in self._listening(endpoint):
            self.set_stream(session, None)

    def _listening(self, endpoint: str) -> list[Session]:
        return [session for session in self._with_stream.values() if session.facts.endpoint == endpoint]

    def _tell_stream(self, session: Session) -> None:
        if (told := self.on_stream.get(session.facts.endpoint)) is not None:
            told(session)

    def _remember(self, session: Session) -> Session:
        session.keep = functools.partial(self.kept.begin, session.id, session.facts.version)
        self._known[session.id] = session
        if len(self._known) > SESSIONS_KEPT_MAX:
            for session_id, old in self._known.items():
                if not old.in_flight and old.stream is None:
                    del self._known[session_id]
                    old.is_known = False
                    self._tell_stream(old)
                    break
        return session


def _nobody_asks(client: int) -> None:
    del client

"""The pipe to a server that is a command: one message a line, all calls side by side, told apart by their ids.

Rule 1: a request is written only when everything before it is in the kernel's pipe. So what a server that reads nothing
has not got is known, and goes to its next life instead.
Rule 2: all that one turn of the reactor brings is written at once, and all that one read brings is handed on at once.
Rule 3: whatever else a server prints on its output (banners, logs, broken lines) costs it nothing but a count, up to
`JUNK_LINES_MAX` lines in a row.
Rule 4: a life ends for everybody at once: first nobody may use it any more, then those who did are told.
"""

from __future__ import annotations

import math
import signal
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

import msgspec
import trio

from protocol.control import Command
from protocol.jsonrpc import Raw, Reply, RpcError, decode_object, decode_reply
from protocol.limits import (
    BATCH_MESSAGES_MAX,
    JUNK_LINES_MAX,
    KIB,
    QUEUE_PER_SERVER_MAX,
    SERVER_LINE_BYTES_MAX,
    STDIN_CLOSED_S,
    STDIN_IDLE_S,
    TERMINATE_S,
)
from protocol.lines import LineDecoder, LineTooLong
from protocol.link import Payload
from protocol.meta import SUBSCRIPTION_ID_KEY
from workers.backend import child as processes
from workers.backend.child import Child
from workers.backend.child_pipes import Inlet, Outlet
from workers.backend.complaints import Complaints
from workers.backend.exchange import Exchange
from workers.backend.faults import Failure, Unanswered, quoted
from workers.backend.leg import Counters
from workers.backend.pipe_faults import PipeFaults
from workers.backend.starts import Starts
from workers.logs import Log
from workers.reactor import Reactor

WRITTEN_TOGETHER_BYTES: Final = 64 * KIB
"""As much as a pipe takes."""
JUNK_TOLD_S: Final = 60.0
"""Between two lines in the log about what is no message."""
KILLED_S: Final = 0.5
"""From SIGKILL to the end of the process, if the kernel does not hold it."""
SILENT_S: Final = 0.5
"""From the end of a pipe to the end of its process."""
LEAVING_S: Final = STDIN_CLOSED_S + TERMINATE_S + 1.0
ORPHANS_S: Final = 0.5
ORPHANS_LOOK_S: Final = 0.01


class Speaker(Protocol):
    """Takes the messages of the server that belong to no call."""

    def on_message(self, reply: Reply) -> None: ...


class Life:
    """One run of the command, and what goes through its pipes."""

    def __init__(self, child: Child, inlet: Inlet, started_at: float) -> None:
        self.child = child
        self.inlet = inlet
        self.outlets: tuple[Outlet, ...] = ()
        self.started_at = started_at
        self.lines = LineDecoder(SERVER_LINE_BYTES_MAX)
        self.junk = 0
        """Lines without a meaning since the last message."""
        self.sent: dict[bytes, Exchange] = {}
        """What has been written and not been answered, by own id."""
        self.verdict = ""
        """Why we end it; continues "the server ..."."""
        self.is_over = False

    def close(self) -> None:
        self.inlet.close()
        for outlet in self.outlets:
            outlet.close()


class Pipe:
    """A `workers.backend.channel.Channel` to a command, which it starts when somebody wants to speak with it.

    `started`: it runs. `ended`: it has ended, not because we wanted it to. `used`: there are deadlines to watch.
    `said`: takes lines for people.
    """

    def __init__(
        self,
        reactor: Reactor,
        command: Command,
        faults: PipeFaults,
        counters: Counters,
        log: Log,
        *,
        started: Callable[[], None],
        ended: Callable[[Failure], None],
        used: Callable[[], None],
        said: Callable[[list[str]], None],
    ) -> None:
        self.faults = faults
        self.speaker: Speaker | None = None
        self.life: Life | None = None
        """None while it does not run."""
        self.standing = 0
        self._reactor = reactor
        self._command = command
        self._counters = counters
        self._log = log
        self._started = started
        self._ended = ended
        self._used = used
        self._said = said
        self._complaints = Complaints(command.secrets)
        self._starts = Starts()
        self._starting = trio.Lock()
        self._leaving: set[Child] = set()
        """Told to end; the next one is not started before."""
        self._waiting: deque[Exchange | bytes] = deque()
        """What is to be written, but is not in any pipe yet."""
        self._is_flush_due = False
        self._holders = 0
        self._last_end = ""
        self._junk_told_at = float("-inf")
        self._closed = False
        self._owns_children = processes.is_subreaper()
        reactor.start_soon(self._watch_children)

    def __repr__(self) -> str:
        life = f"pid {self.life.child.pid}, {len(self.life.sent)} sent" if self.life else "not running"
        return f"<Pipe {life}, {len(self._waiting)} waiting>"

    @property
    def next_due(self) -> float | None:
        life = self.life
        is_busy = life is not None and (life.inlet.is_full or len(life.sent) > self.standing)
        return None if is_busy or self._waiting or self._complaints.has_more else math.inf

    @property
    def is_overfull(self) -> bool:
        return False

    # --- requests ----------------------------------------------------------------------------------------------------
    def submit(self, exchange: Exchange) -> None:
        self._used()
        if self._closed:
            exchange.failed(self.faults.stopping())
        elif self.life is None:
            exchange.failed(self.faults.unsent("is not running"))
        elif len(self._waiting) >= QUEUE_PER_SERVER_MAX:
            exchange.failed(self.faults.queue_full())
        else:
            self._write_soon(exchange)

    def say(self, line: bytes) -> None:
        """Send a message that nobody waits for, if there is somebody to hear it."""
        if self.life is not None and len(self._waiting) < 2 * QUEUE_PER_SERVER_MAX:
            self._write_soon(line)

    def abandon(self, exchange: Exchange) -> bool:
        if self.life is not None and self.life.sent.get(exchange.own_id) is exchange:
            del self.life.sent[exchange.own_id]
            return True
        if exchange in self._waiting:
            self._waiting.remove(exchange)
        return False

    def _write_soon(self, item: Exchange | bytes) -> None:
        self._waiting.append(item)
        if not self._is_flush_due:
            self._is_flush_due = True
            self._reactor.at_batch_end(self._flush)

    def _flush(self) -> None:
        self._is_flush_due = False
        life = self.life
        while self._waiting and life is not None and life is self.life and not life.inlet.is_full:
            batch: list[Exchange | bytes] = []
            chunks: list[Payload] = []
            size = 0
            while self._waiting and size < WRITTEN_TOGETHER_BYTES:
                item = self._waiting.popleft()
                batch.append(item)
                if isinstance(item, bytes):
                    chunks.append(item)
                else:
                    life.sent[item.own_id] = item
                    item.writing()
                    chunks += item.request
                size += len(chunks[-1])  # a request is one line
            if not life.inlet.write((b"".join(chunks),) if size < WRITTEN_TOGETHER_BYTES else chunks):
                self._take_back(life, batch)
                return

    def _take_back(self, life: Life, batch: list[Exchange | bytes]) -> None:
        """The server has closed its end before any of this: it waits for what becomes of that."""
        for item in reversed(batch):
            if not isinstance(item, bytes):
                del life.sent[item.own_id]
                item.unwritten()
                self._waiting.appendleft(item)

    # --- answers -----------------------------------------------------------------------------------------------------
    def hold(self, *, is_held: bool) -> None:
        self._holders += 1 if is_held else -1
        if self.life is not None:
            self.life.outlets[0].set_paused(is_paused=self._holders > 0)

    def _take_output(self, life: Life, data: bytes) -> None:
        for line in life.lines.feed(data):
            if isinstance(line, LineTooLong):
                self._give_up(life, f"wrote a line longer than {SERVER_LINE_BYTES_MAX // KIB // KIB} MiB")
                return
            self._take_line(life, line)

    def _take_line(self, life: Life, line: bytes) -> None:
        if line.startswith(b"["):
            self._take_batch(life, line)
            return
        try:
            reply = decode_reply(line)
        except RpcError as error:
            exchange = life.sent.pop(error.id, None) if error.id is not None else None
            if exchange is not None:
                exchange.failed(self.faults.malformed("something that is no answer to the request"))
            self._take_junk(life, line)
            return
        life.junk = 0
        if reply.method is not None:
            self._take_message(life, reply)
            return
        exchange = life.sent.pop(reply.id, None) if reply.id is not None else None
        if exchange is not None:
            exchange.replied(reply)
        else:
            self._counters.answers += 1

    def _take_batch(self, life: Life, line: bytes) -> None:
        """Servers of 2025-03-26 may send several messages in an array."""
        try:
            messages = msgspec.json.decode(line, type=list[Raw])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            messages = []
        if not 0 < len(messages) <= BATCH_MESSAGES_MAX:
            self._take_junk(life, line)
            return
        for message in messages:
            if not bytes(message).startswith(b"["):
                self._take_line(life, bytes(message))

    def _take_message(self, life: Life, message: Reply) -> None:
        """Hand on what is no answer: to the call it is about, if there can be no doubt about that."""
        exchange: Exchange | None = None
        if message.id is not None:
            pass
        elif message.method == "notifications/progress":
            exchange = life.sent.get(_progress_token(message))
            if exchange is None:
                self._counters.messages += 1
                return
        elif message.method == "notifications/message":
            # A log line does not say what it is about. While several calls run, it could be another client's.
            calls = [one for one in life.sent.values() if one.is_call]
            if len(calls) != 1:
                self._counters.messages += 1
                return
            exchange = calls[0]
        elif self.standing and (listen_id := _subscription_id(message)):
            exchange = life.sent.get(listen_id)
            if exchange is None:  # what was said before the server heard that this stream has ended
                self._counters.messages += 1
                return
        if exchange is not None:
            exchange.noted(message)
        elif self.speaker is not None:
            self.speaker.on_message(message)

    def _take_junk(self, life: Life, line: bytes) -> None:
        self._counters.messages += 1
        life.junk += 1
        if life.junk > JUNK_LINES_MAX:
            self._give_up(life, f"wrote {JUNK_LINES_MAX} lines to its standard output that are no messages")
        elif self._reactor.now - self._junk_told_at > JUNK_TOLD_S:
            self._junk_told_at = self._reactor.now
            self._log.info("not a message on standard output", beginning=quoted(line), dropped=self._counters.messages)

    def _take_error(self, data: bytes) -> None:
        self._complaints.feed(data, self._reactor.now)
        self._used()  # the sweep hands it on

    # --- its life ----------------------------------------------------------------------------------------------------
    async def start(self) -> None:
        """See to it that the command runs. Errors: `Unanswered` with the reason why it does not."""
        async with self._starting:
            if self.life is not None:
                return
            with trio.move_on_after(LEAVING_S):
                while self._leaving:
                    await next(iter(self._leaving)).gone.wait()
                    self._look()
            if self._leaving:
                raise Unanswered(self.faults.not_started("cannot be started: its last process does not end"))
            await self._end_orphans()
            if self._closed:
                raise Unanswered(self.faults.stopping())
            if wait_s := self._starts.wait_s(trio.current_time()):
                raise Unanswered(self.faults.parked(self._last_end, wait_s))
            self._start()
            self._started()

    def _start(self) -> None:
        now = trio.current_time()
        try:
            child = Child(self._command)
        except OSError as error:
            before, self._last_end = self._last_end, processes.why_not(self._command, error)
            self._starts.ended(now, now)
            if self._last_end != before:
                self._tell([self._last_end])
            raise Unanswered(self.faults.not_started(self._last_end)) from None
        stdin, stdout, stderr = child.take_pipes()
        inlet = Inlet(
            self._reactor, stdin, drained=self._flush, broken=lambda: self._fell_silent(life, "closed its input")
        )
        life = self.life = Life(child, inlet, now)
        life.outlets = (
            Outlet(
                self._reactor,
                stdout,
                take=lambda data: self._take_output(life, data),
                ended=lambda: self._fell_silent(life, "closed its output"),
            ),
            Outlet(self._reactor, stderr, take=self._take_error, ended=_nothing),
        )
        life.outlets[0].set_paused(is_paused=self._holders > 0)
        self._log.info("started", pid=child.pid)

    def replace(self, why: str) -> None:
        """End it if it runs, because it is of no use; the next one is started when somebody wants it."""
        if self.life is not None:
            self._give_up(self.life, why)

    def sweep(self) -> None:
        life = self.life
        if life is not None and life.inlet.is_full:
            stalled_s = self._reactor.now - life.inlet.stalled_since
            if stalled_s > STDIN_IDLE_S:
                self._give_up(life, f"has read nothing for {STDIN_IDLE_S:g} s, so it was ended")
        if lines := self._complaints.take(self._reactor.now):
            self._tell(lines)

    def drop_idle(self) -> None:
        """A pipe cannot be cut off."""

    def _give_up(self, life: Life, why: str) -> None:
        """End a life that is of no use any more. It may have ended already, which will then be told by the kernel."""
        if life.is_over:
            return
        life.verdict = why
        if not life.child.look():
            self._reactor.start_soon(self._end_child, life.child, False)
        self._life_over(life)

    def _fell_silent(self, life: Life, why: str) -> None:
        """A pipe has ended. Usually that is because the process has, which the kernel tells a moment later."""
        if life.is_over:
            return
        if life.child.look():
            self._life_over(life)
        else:
            self._reactor.start_soon(self._await_end, life, why)

    async def _await_end(self, life: Life, why: str) -> None:
        with trio.move_on_after(SILENT_S):
            await life.child.gone.wait()
        self._give_up(life, why)

    async def _watch_children(self) -> None:
        with trio.open_signal_receiver(signal.SIGCHLD) as signals:
            async for _ in signals:
                self._look()

    def _look(self) -> None:
        """Some child has ended."""
        for child in [child for child in self._leaving if child.look()]:
            self._leaving.discard(child)
        life = self.life
        if life is not None and life.child.look():
            self._life_over(life)
        if self._owns_children:
            if self.life is None and not self._leaving:
                self._reactor.start_soon(self._end_orphans)
            else:
                processes.reap_orphans(self._known())

    def _life_over(self, life: Life) -> None:
        """Nobody can use it any more: tell everybody why, in an order in which nobody tries it again."""
        if life.is_over:
            return
        life.is_over = True
        child = life.child
        if child.end is not None and not life.verdict:
            for outlet in life.outlets:
                outlet.read_rest()  # answers that it gave before it ended are answers
        self.life = None
        life.close()
        if child.end is None:
            self._leaving.add(child)
        how = self._last_end = self._how(life)
        self._starts.ended(life.started_at, trio.current_time())
        waiting, self._waiting = self._waiting, deque()
        if not self._closed:
            self._tell([*self._complaints.end(), how])
            self._ended(self.faults.over(how))
        for exchange in life.sent.values():
            exchange.failed(self.faults.ended(how) if exchange.is_call else self.faults.over(how))
        for item in waiting:
            if not isinstance(item, bytes):
                item.returned(self.faults.unsent(how))

    def _how(self, life: Life) -> str:
        complaints = self._complaints
        end = life.child.end
        how = life.verdict or (end.text if end else "ended")
        if not life.verdict and end and end.status != 0 and processes.tells_want_of_memory(complaints.kept):
            how = f"ran out of memory ({end.text})"
        last = complaints.last_words()
        return f"{how}, after saying: {last}" if last and not life.verdict else how

    # --- the end -----------------------------------------------------------------------------------------------------
    async def stop(self) -> None:
        """End the command and everything it has started."""
        self._closed = True
        life = self.life
        waiting, self._waiting = self._waiting, deque()
        for item in waiting:
            if not isinstance(item, bytes):
                item.failed(self.faults.stopping())
        if life is not None:
            sent, life.sent = life.sent, {}
            for exchange in sent.values():
                exchange.failed(self.faults.broke_off("because the proxy is stopping"))
            life.verdict = "was stopped"
            life.inlet.close()
            await self._end_child(life.child, True)
            self._life_over(life)
        for child in list(self._leaving):
            await self._end_child(child, False)
        await self._end_orphans()

    async def _end_child(self, child: Child, is_asked: bool) -> None:
        """End it: with its closed input alone if that `is_asked`, then with SIGTERM, then with SIGKILL."""
        steps = [(None, STDIN_CLOSED_S)] if is_asked else []
        for number, patience_s in [*steps, (signal.SIGTERM, TERMINATE_S), (signal.SIGKILL, KILLED_S)]:
            if number is not None:
                child.signal(number)
            with trio.move_on_after(patience_s):
                await child.gone.wait()
            if child.look():
                return
        self._log.error("its process cannot be ended: the kernel holds it", pid=child.pid)

    async def _end_orphans(self) -> None:
        """Kill what it started and did not end itself."""
        if not self._owns_children:
            return
        with trio.move_on_after(ORPHANS_S):
            while processes.sweep_orphans(self._known()):  # noqa: ASYNC110 - whose orphans come next, nobody tells
                await trio.sleep(ORPHANS_LOOK_S)

    def _known(self) -> set[int]:
        known = {child.pid for child in self._leaving}
        return known | {self.life.child.pid} if self.life is not None else known

    def _tell(self, lines: list[str]) -> None:
        for line in lines:
            self._log.info("said", line=line)
        self._said(lines)


def _progress_token(message: Reply) -> bytes:
    """Return the token of a progress notification as raw JSON; b"" if it has none."""
    try:
        return bytes(decode_object(message.params or b"{}").get("progressToken", b""))
    except RpcError:
        return b""


def _subscription_id(message: Reply) -> bytes:
    """Return the id of the listen request that a notification belongs to as raw JSON; b"" if to none."""
    try:
        meta = decode_object(message.params or b"{}").get("_meta", b"{}")
        return bytes(decode_object(meta).get(SUBSCRIPTION_ID_KEY, b""))
    except RpcError:
        return b""


def _nothing() -> None:
    pass

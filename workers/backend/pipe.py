"""The pipe to a server that is a command, which is started, watched and ended here: one message a line.

What goes through it is the same as elsewhere (messages.py); whatever else a server prints on its output (banners, logs,
broken lines) is no message there. All that one read brings is handed on at once.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import trio

from protocol.control import Command
from protocol.limits import (
    COMMAND_START_S,
    KIB,
    SERVER_LINE_BYTES_MAX,
    STDIN_CLOSED_S,
    STDIN_IDLE_S,
    TERMINATE_S,
)
from protocol.lines import LineDecoder, LineTooLong
from protocol.link import Payload
from workers.backend import child as processes
from workers.backend.brood import Brood
from workers.backend.child import Child
from workers.backend.child_pipes import Inlet, Outlet
from workers.backend.complaints import Complaints
from workers.backend.faults import Failure, Unanswered
from workers.backend.leg import Counters
from workers.backend.ordered import WRITTEN_TOGETHER_BYTES, OrderedChannel, OrderedLife
from workers.backend.pipe_faults import PipeFaults
from workers.backend.starts import Starts
from workers.logs import Log
from workers.reactor import Reactor

KILLED_S: Final = 0.5
"""From SIGKILL to the end of the process, if the kernel does not hold it."""
SILENT_S: Final = 0.5
"""From the end of a pipe to the end of its process."""
LEAVING_S: Final = STDIN_CLOSED_S + TERMINATE_S + 1.0
NUMBERS_LOOK_S: Final = 0.25


class Run(OrderedLife):
    """One run of the command, and what goes through its pipes."""

    def __init__(self, child: Child, inlet: Inlet, started_at: float) -> None:
        super().__init__(started_at)
        self.child = child
        self.inlet = inlet
        self.outlets: tuple[Outlet, ...] = ()
        self.lines = LineDecoder(SERVER_LINE_BYTES_MAX)

    @property
    def is_full(self) -> bool:
        return self.inlet.is_full

    def write(self, messages: Sequence[Payload]) -> bool:
        lines = [piece for message in messages for piece in (message, b"\n")]
        return self.inlet.write((b"".join(lines),) if sum(map(len, messages)) < WRITTEN_TOGETHER_BYTES else lines)

    def set_paused(self, *, is_paused: bool) -> None:
        self.outlets[0].set_paused(is_paused=is_paused)

    def close(self) -> None:
        self.inlet.close()
        for outlet in self.outlets:
            outlet.close()


class Pipe(OrderedChannel[Run]):
    """A channel to a command, which it starts when somebody wants to speak with it.

    `started`: it runs. `said`: takes lines for people. `mark`: of what it starts, if there are several such pipes.
    """

    initialize_s = COMMAND_START_S
    no_life = "is not running"
    junk_event = "not a message on standard output"
    junk_verdict = "wrote {} lines to its standard output that are no messages"
    faults: PipeFaults

    def __init__(
        self,
        reactor: Reactor,
        command: Command,
        brood: Brood,
        faults: PipeFaults,
        counters: Counters,
        log: Log,
        *,
        started: Callable[[], None],
        ended: Callable[[Failure], None],
        used: Callable[[], None],
        said: Callable[[list[str]], None],
        mark: str = "",
    ) -> None:
        super().__init__(reactor, faults, counters, log, used=used, ended=ended)
        environment = command.environment | {processes.MARK: mark} if mark else command.environment
        self._command = msgspec.structs.replace(command, environment=environment)
        self._brood = brood
        self.mark = mark
        self._started = started
        self._said = said
        self._complaints = Complaints(command.secrets)
        self._starts = Starts()
        self._starting = trio.Lock()
        self._leaving: set[Child] = set()
        """Told to end; the next one is not started before."""
        self._last_end = ""
        brood.join(self)
        if command.processes_max:
            reactor.start_soon(self._watch_numbers, command.processes_max)

    @property
    def next_due(self) -> float | None:
        return None if self._complaints.has_more else super().next_due

    def _take_output(self, life: Run, data: bytes) -> None:
        for line in life.lines.feed(data):
            if isinstance(line, LineTooLong):
                self.give_up(life, f"wrote a line longer than {SERVER_LINE_BYTES_MAX // KIB // KIB} MiB")
                return
            self.take(life, line)

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
                    self.look()
            if self._leaving:
                raise Unanswered(self.faults.not_started("cannot be started: its last process does not end"))
            await self._brood.end_orphans(self)
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
            self._reactor, stdin, drained=self.drained, broken=lambda: self._fell_silent(life, "closed its input")
        )
        life = self.life = Run(child, inlet, now)
        life.outlets = (
            Outlet(
                self._reactor,
                stdout,
                take=lambda data: self._take_output(life, data),
                ended=lambda: self._fell_silent(life, "closed its output"),
            ),
            Outlet(self._reactor, stderr, take=self._take_error, ended=_nothing),
        )
        life.set_paused(is_paused=self.is_held)
        self._log.info("started", pid=child.pid)

    def sweep(self) -> None:
        life = self.life
        if life is not None and life.inlet.is_full:
            stalled_s = self._reactor.now - life.inlet.stalled_since
            if stalled_s > STDIN_IDLE_S:
                self.give_up(life, f"has read nothing for {STDIN_IDLE_S:g} s, so it was ended")
        if lines := self._complaints.take(self._reactor.now):
            self._tell(lines)

    def drop_idle(self) -> None:
        """A pipe cannot be cut off."""

    def give_up(self, life: Run, why: str) -> None:
        """End a life that is of no use any more. It may have ended already, which will then be told by the kernel."""
        if life.is_over:
            return
        life.verdict = why
        if not life.child.look():
            self._reactor.start_soon(self._end_child, life.child, False)
        self._life_over(life)

    def _fell_silent(self, life: Run, why: str) -> None:
        """A pipe has ended. Usually that is because the process has, which the kernel tells a moment later."""
        if life.is_over:
            return
        if life.child.look():
            self._life_over(life)
        else:
            self._reactor.start_soon(self._await_end, life, why)

    async def _await_end(self, life: Run, why: str) -> None:
        with trio.move_on_after(SILENT_S):
            await life.child.gone.wait()
        self.give_up(life, why)

    async def _watch_numbers(self, most: int) -> None:
        """End the command if there are too many processes of it; nobody tells of that."""
        while not self._closed:
            await trio.sleep(NUMBERS_LOOK_S)
            life = self.life
            if life is not None and self._brood.are_more_than(most, self):
                life.child.signal(signal.SIGKILL)  # at once: each moment makes more of them
                self.give_up(life, f"had more than {most} processes (process_limit), so all of them were ended")

    def look(self) -> None:
        """Some child has ended (`workers.backend.brood.Parent`)."""
        for child in [child for child in self._leaving if child.look()]:
            self._leaving.discard(child)
        life = self.life
        if life is not None and life.child.look():
            self._life_over(life)
        if not self.pids():
            self._reactor.start_soon(self._brood.end_orphans, self)

    def _life_over(self, life: Run) -> None:
        """Nobody can use it any more: tell everybody why."""
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
        if not self._closed:
            self._tell([*self._complaints.end(), how])
        self._settle(life, how)

    def _how(self, life: Run) -> str:
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
        self._stop_exchanges()
        life = self.life
        if life is not None:
            life.verdict = "was stopped"
            life.inlet.close()
            await self._end_child(life.child, True)
            self._life_over(life)
        for child in list(self._leaving):
            await self._end_child(child, False)
        await self._brood.end_orphans(self)
        self._brood.leave(self)

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

    def pids(self) -> set[int]:
        """Return its children that have not been reaped (`workers.backend.brood.Parent`)."""
        known = {child.pid for child in self._leaving}
        return known | {self.life.child.pid} if self.life is not None else known

    def _tell(self, lines: list[str]) -> None:
        for line in lines:
            self._log.info("said", line=line)
        self._said(lines)


def _nothing() -> None:
    pass

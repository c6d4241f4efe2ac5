"""Do what the tree decides: start and kill processes, hand out links, pass on who is down. Everything in one thread.

Rule 1: nothing here decides whether, when or in which order; tree.py does. `_do` carries out its answers.
Rule 2: no byte of a client or a server is looked at. What workers say is data for logs, except the messages of
protocol/control.py, and those are believed only as far as the sender may say them.
Rule 3: between an event and its actions nothing is awaited, so no task ever sees a half-made change.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import signal
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from protocol import control, flight, limits
from protocol.control import (
    Checked,
    Exited,
    Fork,
    Forked,
    ForkFailed,
    FromWorker,
    FromZygote,
    GroupReport,
    LinkBroken,
    Manage,
    Pong,
    Ready,
    Released,
    Said,
    SessionEnded,
    SessionNoted,
    StdioClosed,
    StdioSession,
    WorkerState,
)
from protocol.log_lines import PROGRAM
from protocol.management import failure
from supervisor import wording
from supervisor.admin import Admin
from supervisor.allowance import Allowance
from supervisor.changes import Changes, Refused
from supervisor.channel import Channel, Packet
from supervisor.config import Server, Settings
from supervisor.ended_file import EndedFile
from supervisor.heartbeats import Heartbeats
from supervisor.herald import Herald, servers_line
from supervisor.inboxes import Inboxes
from supervisor.inheritance import Inherited
from supervisor.lives import Life, ZygoteLife
from supervisor.logs import Log
from supervisor.lookups import LookUp
from supervisor.machine import LinuxMachine, Machine
from supervisor.memory import ClientMemory
from supervisor.memory_watch import MemoryWatch
from supervisor.metrics import Metrics
from supervisor.news import STATES_UNDECIDED, News
from supervisor.notify import Manager
from supervisor.operations import Operations
from supervisor.orders import Orders
from supervisor.plan import FRONT, ZYGOTE, Holdings, child_specs
from supervisor.restart import FAILURES, Action, End, EndKind, RestartWindow, classify
from supervisor.roster import Entry, Roster
from supervisor.spec import Role, family
from supervisor.status import Status
from supervisor.tallies import Tallies
from supervisor.tree import EXIT_GAVE_UP, Ask, Do, Finish, Gone, Kill, Phase, Start, Tree
from supervisor.upgrade import Upgrade
from supervisor.zygote_process import WorkerProgram, ZygoteProcess

if TYPE_CHECKING:
    from supervisor.configuration.config_file import ConfigFile
    from supervisor.configuration.reloading import Reloading
    from supervisor.discovery import Discovery

LINGER_S: Final = 1.0
"""A process whose control socket has ended is gone after milliseconds; one that is not has broken the rules."""
SWEEP_LOOKS: Final = 100
SWEEP_PAUSE_S: Final = 0.01
FORKS_AT_ONCE: Final = 16
"""Orders the zygote has at a time. It needs milliseconds for each, and more would only fill the socket."""
FLOOD_PAUSED_S: Final = 2.0
"""A worker that could not be listened to for so long in all has said far more than there is to say."""
LAST_BURSTS_MAX: Final = 16
"""More than a socket's buffer holds, so only somebody who still writes could reach it."""
DESCRIPTORS_KEPT: Final = 16
"""Left free when a worker is started. Without them those that run could not be linked, watched or replaced either."""
SAME_SIGNAL_S: Final = 0.1
"""Wrappers pass on a signal that the whole group got already. So soon after the first it is not a second one."""


class Root:
    """The process tree of one run.

    `first`: the zygote that was started while the root was still loading. `manager`: the service manager to keep
    informed, if there is one. `inherited`: what comes from the version that this one is to replace (upgrade.py).
    `ended_file`: keeps the sessions that clients end; None where they need not or cannot be kept.
    """

    def __init__(
        self,
        settings: Settings,
        holdings: Holdings,
        program: WorkerProgram,
        first: ZygoteProcess,
        log: Log,
        machine: Machine | None = None,
        load: Callable[[], Settings] | None = None,
        *,
        manager: Manager | None = None,
        inherited: Inherited | None = None,
        ended_file: EndedFile | None = None,
    ) -> None:
        """`load`: reads the settings anew; None if there is no configuration file."""
        machine = machine or LinuxMachine()
        self._machine = machine
        self._settings = settings
        self._holdings = holdings
        self._program = program
        self._log = log
        self._tree = Tree(child_specs(settings), machine.random)
        self._roster = Roster(settings.servers, settings.groups)
        self._lives: dict[str, Life] = {}
        """The current incarnations, by the names of the tree."""
        self._first: ZygoteProcess | None = first
        self._zygote: ZygoteLife | None = None
        self._keys = itertools.count(1)
        self._memory = ClientMemory()
        self._stdio_open = settings.stdio
        announcement = wording.announcement(settings, holdings.listeners)
        self._news = News(
            self._roster.children, announcement, log, machine.wall_time, has_file=holdings.log_fd is not None
        )
        self._orders = Orders(
            machine, settings, holdings, self._memory, self._roster, self._tree, self._lives, self._blame,
            Inboxes(machine, settings.fronts) if settings.fronts > 1 else None,
        )  # fmt: skip
        self._changes = Changes(settings, self._roster, self._tree, self._lives, self._orders, self._news, self._do)
        self._lookups: dict[str, LookUp] = {}
        self._discovery: Discovery | None = None
        self._status = Status(
            machine, settings, self._roster, self._tree, self._lives, self._news, self._zygote_pid, self._lookups
        )
        self._tallies = Tallies(self._lives)
        self._reloading = _reloading(settings, load, self._changes, log, self._reload_told) if load else None
        self._operations = Operations(
            settings, self._roster, self._changes, self._news, self._status, log,
            _config_file(settings), self._reloading,
            Metrics(machine, self._status, self._tree, self._lives, self._tallies, self._zygote_pid),
        )  # fmt: skip
        self._managing = 0
        """Requests of the front that are being worked on."""
        self._memory_watch = MemoryWatch(machine, settings.memory_limit, self._end)
        self._heartbeats = Heartbeats(
            machine, self._tree, self._lives,
            blame=self._blame, woke=self._orders.woke, looked_at=self._memory_watch.look,
        )  # fmt: skip
        self._ended_file = ended_file
        before = inherited.ended_sessions if inherited else ended_file.load() if ended_file else ()
        for session_id in before:
            self._memory.keep_ended(session_id)
        self._herald = Herald(manager, self._status_line)
        self._upgrade = Upgrade(
            self, holdings, self._memory, self._herald, log, inherited=inherited, stdio=settings.stdio
        )
        self._serving = False
        """Clients can connect, or could at some time."""
        self._idle_s = 0.0
        """How long clients may still begin a request on a connection that they have when the front is told to leave."""
        self._doors = [Admin(holdings.admin.sock, self._operations, log)] if holdings.admin else []
        self._doors += [Admin(sock, self._operations, log, holdings.admin_token) for sock in holdings.admin_ports]
        self._pending: deque[Do] = deque()
        self._doing = False
        self._time_changed = trio.Event()
        self._finished = trio.Event()
        self._exit_code = 0
        self._oom_kills = self._machine.oom_kills()
        self._accusations: dict[str, RestartWindow] = {}

    async def run(self, signals_open: Callable[[], contextlib.AbstractContextManager[None]]) -> int:
        """Keep the tree until it has stopped; return the exit status.

        `signals_open`: lets the signals through that were held back since the process started.
        """
        heard = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2, signal.SIGCHLD)
        with self._machine.signals(*heard) as signals, signals_open():
            async with trio.open_nursery() as self._nursery:
                self._do(self._tree.start(trio.current_time()))
                self._adopted()  # of those that were dead before we could hear of it, no signal comes
                self._nursery.start_soon(self._obey_signals, signals)
                self._nursery.start_soon(self._keep_time)
                self._nursery.start_soon(self._heartbeats.watch)
                self._nursery.start_soon(self._herald.run)
                self._nursery.start_soon(self._upgrade.follow)
                if self._ended_file:
                    self._nursery.start_soon(self._ended_file.run)
                if self._reloading:
                    self._nursery.start_soon(self._reloading.run)
                self._changes.looked_up = self._look_up
                for server in self._settings.servers:
                    if server.discover:
                        self._look_up(server.name)
                if not self._upgrade.held:
                    self._open_doors()
                await self._finished.wait()
                if self._exit_code == 0:
                    await self._upgrade.predecessor_gone()
                self._nursery.cancel_scope.cancel()
            if self._ended_file:
                await self._ended_file.finish()
            await self._sweep()
        return self._exit_code

    # --- events from outside -----------------------------------------------------------------------------------------
    async def _obey_signals(self, signals: AsyncIterator[int]) -> None:
        stopping_since: float | None = None
        async for number in signals:
            now = trio.current_time()
            name = signal.Signals(number).name
            if number == signal.SIGCHLD:
                self._adopted()
            elif number == signal.SIGHUP:
                self._hang_up(name)
            elif number == signal.SIGUSR2:
                self._nursery.start_soon(self._upgrade.replace, name)
            elif stopping_since is None:
                stopping_since = now
                self._stop(f"{name}: finishing the calls in flight; once more to stop at once")
            elif now - stopping_since > SAME_SIGNAL_S:
                self._log.warning(f"{name} again: stopping at once")
                self._upgrade.forget_predecessor()
                self._do(self._tree.stop_now(now, 128 + number))

    def _hang_up(self, name: str) -> None:
        """Read anew what can be."""
        if self._settings.tls_cert:
            self._orders.read_certificate()
            self._news.reading_certificate(name)
        if self._reloading:
            self._reloading.hangup()
            return
        if not self._settings.tls_cert:
            self._news.hangup(name)
        with self._reload_told():
            pass

    def _stop(self, why: str) -> None:
        self._log.info(why)
        for sock in self._holdings.listeners:
            sock.close()  # so that the port is refused, and free for a successor, as soon as the front lets go of it
        if self._reloading:
            self._reloading.end()
        if self._discovery:
            self._discovery.end()
        self._upgrade.stopping()
        self._do(self._tree.stop(trio.current_time()))
        self._herald.stopping()

    async def _keep_time(self) -> None:
        while True:
            self._time_changed = trio.Event()
            with trio.move_on_at(self._tree.next_due()):
                await self._time_changed.wait()
                continue
            self._do(self._tree.due(trio.current_time()))

    def _adopted(self) -> None:
        """Deal with children we did not start: orphans of a zygote that died, and strangers."""
        # A shell that became us by exec, or a container whose first process we are, gives us children to reap.
        self._machine.reap_strangers(self._own_children())
        # An orphan can come after the next zygote. If we inherited children, it may be one of theirs then.
        if self._zygote is None or not self._holdings.inherited:
            self._kill_orphans()

    def _kill_orphans(self) -> bool:
        """Kill what a dead zygote left behind; return whether there was anything."""
        return self._machine.kill_orphans(self._holdings.inherited | self._own_children())

    def _zygote_pid(self) -> int | None:
        return self._zygote.process.pid if self._zygote else None

    def _own_children(self) -> set[int]:
        zygote = {self._zygote.process.pid} if self._zygote else set[int]()
        return zygote | self._upgrade.children

    async def _sweep(self) -> None:
        """Leave no orphan of a zygote that died."""
        for _ in range(SWEEP_LOOKS):
            if not self._kill_orphans():
                return
            await trio.sleep(SWEEP_PAUSE_S)

    # --- actions -----------------------------------------------------------------------------------------------------
    def _do(self, actions: Sequence[Do]) -> None:
        """Carry out the tree's answers. What fails on the way is a new event, whose answers are queued behind them."""
        self._pending.extend(actions)
        if self._doing:
            return
        self._doing = True
        while self._pending:
            match self._pending.popleft():
                case Start(name, incarnation):
                    if name == ZYGOTE:
                        self._start_zygote(incarnation)
                    else:
                        self._start_worker(name, incarnation)
                case Ask(name):
                    self._ask(name)
                case Kill(name, why):
                    self._kill(name, why)
                case Gone() as gone:
                    self._gone(gone)
                case Finish(code):
                    self._exit_code = code
                    self._finished.set()
        self._doing = False
        self._time_changed.set()

    def _start_zygote(self, incarnation: int) -> None:
        launched, self._first = self._first, None
        try:
            zygote = ZygoteLife(self._machine, launched or self._machine.launch(self._program), incarnation)
        except OSError as error:
            self._could_not_start(ZYGOTE, incarnation, error)
            return
        self._zygote = zygote
        self._nursery.start_soon(self._serve_zygote, zygote)

    def _could_not_start(self, name: str, incarnation: int, error: OSError) -> None:
        end = End(EndKind.CRASH, f"could not be started: {error.strerror}")
        self._do(self._tree.exited(name, incarnation, end, trio.current_time()))

    def _start_worker(self, name: str, incarnation: int) -> None:
        zygote = self._zygote
        if zygote is None:  # it was to be started with them, and could not be: they come with the next one
            end = End(EndKind.LOST, "was not started: there is no zygote")
            self._do(self._tree.exited(name, incarnation, end, trio.current_time()))
            return
        try:
            # Whoever is there already keeps what it needs: its handle, when it is forked, and a link at a time.
            self._machine.require_descriptors(sum(life.pidfd < 0 for life in self._lives.values()) + DESCRIPTORS_KEPT)
            page_fd = self._machine.shared_memory(flight.SHARED_BYTES)
        except OSError as error:
            self._could_not_start(name, incarnation, error)
            return
        try:
            ours, theirs = self._machine.control_pair()
        except OSError as error:
            self._machine.close(page_fd)
            self._could_not_start(name, incarnation, error)
            return
        server = self._roster.children.get(name)
        channel = Channel(ours, self._machine, allowance=Allowance(trio.current_time()))
        life = Life(self._machine, name, server, incarnation, channel, page_fd)
        self._lives[name] = life
        key = next(self._keys)
        zygote.lives[key] = life
        order = Fork(key, f"{PROGRAM}: {life.title}", self._memory_watch.cap(life.server))
        zygote.orders.append((order, theirs))
        if entry := self._roster.offering(name):
            entry.starts += 1
        self._nursery.start_soon(self._serve_worker, life)
        # Everything below waits in the worker's socket until it is there to read it.
        if life.server is None:
            self._orders.boot_front(life, stdio=self._stdio_open and name == FRONT, held=self._upgrade.held)
        else:
            self._orders.boot_server(life, life.server)
        self._send_orders(zygote)

    def _send_orders(self, zygote: ZygoteLife) -> None:
        while zygote.orders and zygote.unanswered < FORKS_AT_ONCE:
            order, worker_end = zygote.orders.popleft()
            with worker_end:
                try:
                    zygote.channel.send(control.encode(order), [worker_end.fileno()])
                    zygote.unanswered += 1
                except OSError as error:
                    life = zygote.lives.pop(order.key)
                    self._could_not_start(life.name, life.incarnation, error)

    def _end(self, life: Life, why: End) -> None:
        self._do(self._tree.end(life.name, life.incarnation, why, trio.current_time()))

    def _blame(self, life: Life, text: str) -> None:
        self._do(self._tree.blame(life.name, life.incarnation, text, trio.current_time()))

    def _ask(self, name: str) -> None:
        if name == ZYGOTE:
            if self._zygote:
                self._zygote.channel.end()
        elif life := self._lives.get(name):
            self._orders.leave(life, idle_s=self._idle_s)

    def _kill(self, name: str, why: End) -> None:
        self._log.debug(f"is killed: {why.text}", who=name)
        if name == ZYGOTE:
            if self._zygote:
                self._zygote.process.kill()
        elif life := self._lives.get(name):
            life.kill()

    def _gone(self, gone: Gone) -> None:
        role = Role.ZYGOTE if gone.name == ZYGOTE else Role.FRONT if family(gone.name) == FRONT else Role.SERVER
        self._news.end(gone, role)
        if gone.name == ZYGOTE:
            if self._zygote:
                self._lose_workers(self._zygote)
                self._zygote.close()
                self._zygote = None
                self._adopted()
            return
        life = self._lives.pop(gone.name, None)
        if life:
            if gone.end.kind in FAILURES:
                self._news.crash(life, gone.end, self._machine.wall_time())
            self._tallies.ended(life)
            life.close()
        self._parts_changed()
        if (entry := self._roster.offering(gone.name)) and gone.verdict:
            due_soon = gone.verdict.action in (Action.RESTART_NOW, Action.RESTART_AFTER)
            self._orders.server_down(entry.server, gone.verdict.delay_s if due_soon else None)
        self._changes.gone(gone.name, life.incarnation if life else 0)
        if gone.name not in self._tree.children:
            self._accusations.pop(gone.name, None)

    def _lose_workers(self, zygote: ZygoteLife) -> None:
        """See to the end of workers whose zygote is gone, which nobody else reports now."""
        for life in zygote.lives.values():
            if self._lives.get(life.name) is life:
                self._nursery.start_soon(self._await_lost, life)

    async def _await_lost(self, life: Life) -> None:
        await life.wait_ended()
        self._hear_last_words(life)
        end = End(EndKind.LOST, "died with the zygote")
        self._do(self._tree.exited(life.name, life.incarnation, end, trio.current_time()))

    # --- the zygote --------------------------------------------------------------------------------------------------
    async def _serve_zygote(self, zygote: ZygoteLife) -> None:
        with zygote.scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(zygote.channel.flush_forever)
                while packets := await zygote.channel.receive():
                    for packet in packets:
                        self._hear_zygote(zygote, packet)
                nursery.cancel_scope.cancel()
            with trio.move_on_after(LINGER_S):
                await self._machine.wait_readable(zygote.pidfd)
            if zygote.process.poll() is None:
                text = "closed its control socket but did not leave"
                self._do(self._tree.blame(ZYGOTE, zygote.incarnation, text, trio.current_time()))
                await self._machine.wait_readable(zygote.pidfd)
            end = self._end_by_itself(zygote.process.wait())
            self._do(self._tree.exited(ZYGOTE, zygote.incarnation, end, trio.current_time()))

    def _hear_zygote(self, zygote: ZygoteLife, packet: Packet) -> None:
        message: FromZygote = control.decode_from_zygote(packet.data)
        life = zygote.lives[message.key]
        match message:
            case Forked():
                zygote.unanswered -= 1
                self._tree.forked(life.name, life.incarnation, trio.current_time())
                self._time_changed.set()
                if packet.fds:
                    life.forked(message.pid, packet.fds[0])
                else:
                    life.channel.end()  # without a descriptor it can only be asked, so it must not stay
                    self._blame(life, "cannot be watched: no descriptor is left")
            case ForkFailed():
                zygote.unanswered -= 1
                del zygote.lives[message.key]
                end = End(EndKind.CRASH, message.reason)
                self._do(self._tree.exited(life.name, life.incarnation, end, trio.current_time()))
            case Exited():
                del zygote.lives[message.key]
                self._hear_last_words(life)
                if life.stuck:
                    end = End(EndKind.STUCK, life.stuck)
                elif message.status == control.EXIT_OUT_OF_MEMORY:
                    end = self._memory_watch.refused(life, message.peak_bytes)
                else:
                    end = self._end_by_itself(message.status)
                self._do(self._tree.exited(life.name, life.incarnation, end, trio.current_time()))
        self._send_orders(zygote)

    def _end_by_itself(self, exit_code: int) -> End:
        return classify(exit_code, out_of_memory=exit_code == -signal.SIGKILL and self._memory_ran_out())

    def _memory_ran_out(self) -> bool:
        """Whether the kernel has killed for want of memory since the last look."""
        before, self._oom_kills = self._oom_kills, self._machine.oom_kills()
        return self._oom_kills > before

    # --- workers -----------------------------------------------------------------------------------------------------
    async def _serve_worker(self, life: Life) -> None:
        with life.scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(life.channel.flush_forever)
                while packets := await life.channel.receive():
                    for packet in packets:
                        self._hear_worker(life, packet.data)
                    if life.channel.paused_s > FLOOD_PAUSED_S:
                        self._news.flood(life)
                await trio.sleep(LINGER_S)  # cut short when its end is reported
                self._blame(life, "closed its control socket but did not leave")
                nursery.cancel_scope.cancel()

    def _hear_last_words(self, life: Life) -> None:
        """Read what a worker said before it ended; a session that it saw end must stay ended."""
        for _ in range(LAST_BURSTS_MAX):
            for packet in (packets := life.channel.receive_nowait()):
                self._hear_worker(life, packet.data)
            if not packets:
                return

    def _hear_worker(self, life: Life, packet: bytes) -> None:
        try:
            message: FromWorker = control.decode_from_worker(packet)
        except (msgspec.DecodeError, UnicodeDecodeError):  # text that is no UTF-8 is an error of its own to msgspec
            self._blame(life, "said something that makes no sense")
            return
        match message:
            case Ready():
                self._ready(life, message)
            case LinkBroken():
                self._link_broken(life, message)
            case Pong():
                pass
            case WorkerState() if life.server:
                self._news.state(life, message)
                self._parts_changed()
            case Said() if life.server:
                self._news.said(life, message)
            case Checked() if life.server:
                self._changes.checked(life, message)
            case Released() if life.server is None:
                self._changes.released(life.name, message.name, message.incarnation)
            case GroupReport() if life.server is None:
                self._status.heard(life.name, message)
            case Manage() if life.server is None and self._settings.management:
                self._managing += 1
                self._nursery.start_soon(self._manage, life, message)
            case SessionEnded() if life.server is None:
                self._memory.keep_ended(message.session_id)
                if self._ended_file:
                    self._ended_file.add(message.session_id)
                self._upgrade.tell_ended(message.session_id)
            case SessionNoted() if life.server is None:
                self._memory.keep_note(message.note)
            case StdioSession() if life.server is None:
                self._memory.keep_stdio_session(message.token)
            case StdioClosed() if life.server is None:
                self._stdio_closed()
            case _:
                self._blame(life, f"said {type(message).__name__}, which is not for it to say")

    def _ready(self, life: Life, ready: Ready) -> None:
        if ready.incarnation != life.incarnation:
            self._blame(life, "takes itself for another incarnation")
        elif self._tree.ready(life.name, life.incarnation, trio.current_time()):
            self._time_changed.set()
            self._news.ready(life)
            if life.server is None:
                self._front_ready()

    def _front_ready(self) -> None:
        if self._upgrade.held:
            if all(child.phase is Phase.UP for child in self._tree.fronts()):
                self._upgrade.front_ready()
            self._parts_changed()
        elif not self._serving:
            self._serving = True
            self._news.serving()
            self._herald.serving()
            self._upgrade.serving()

    # --- the service as a whole --------------------------------------------------------------------------------------
    def _parts_changed(self) -> None:
        """A server's worker has come, gone, or said something new about its server."""
        self._herald.status_changed()
        is_searching = self._discovery is not None and self._discovery.is_undecided
        if self._upgrade.held and not is_searching and not any(map(self._is_undecided, self._roster.offered())):
            self._upgrade.settled()

    def _is_undecided(self, entry: Entry) -> bool:
        state = self._news.states.get(entry.child)
        return not self._tree.children[entry.child].parked and (state is None or state.state in STATES_UNDECIDED)

    def _status_line(self) -> str:
        if self._tree.stopping:
            return "finishing the calls in flight"
        return servers_line(row.health_status for row in self._status.servers().servers if row.enabled)

    @contextlib.contextmanager
    def _reload_told(self) -> Generator[None]:
        """Tell the service manager of a reload: whoever asked it for one waits for its end."""
        told = self._serving
        if told:
            self._herald.reloading()
        try:
            yield
        finally:
            if told and not self._tree.stopping:
                self._herald.serving()

    @property
    def is_service(self) -> bool:
        """Whether this version, and no other, is the one that clients and users meet."""
        return self._upgrade.is_service

    def changed_servers(self) -> list[Server] | None:
        """Return all servers if they are in no file (`supervisor.upgrade.Host`)."""
        return None if self._settings.config_file else self._changes.own_servers()

    def hold_changes(self, *, hold: bool) -> None:
        """Refuse changes of servers, which the new version would not hear of (`supervisor.upgrade.Host`)."""
        self._changes.hold(hold=hold)

    def begin_serving(self) -> None:
        """We take over from the old version (`supervisor.upgrade.Host`)."""
        self._open_doors()
        self._orders.serve()
        self._front_ready()

    def _open_doors(self) -> None:
        for door in self._doors:
            self._nursery.start_soon(door.serve)

    def retire(self, why: str) -> None:
        """The new version has taken over (`supervisor.upgrade.Host`)."""
        self._idle_s = limits.DRAIN_IDLE_S
        for door in self._doors:
            door.leave()
        self._stop(why)

    def give_up(self, why: str) -> None:
        """There is nothing to take over (`supervisor.upgrade.Host`)."""
        self._log.error(why)
        self._do(self._tree.stop_now(trio.current_time(), EXIT_GAVE_UP))

    def sessions_ended(self, session_ids: list[str]) -> None:
        """Clients of the other version ended these sessions (`supervisor.upgrade.Host`)."""
        for session_id in session_ids:
            self._memory.keep_ended(session_id)
        self._orders.sessions_ended(session_ids)

    def _link_broken(self, life: Life, message: LinkBroken) -> None:
        """Replace who broke a link, on the word of its other end.

        The word of one worker must not take the front down again and again: if the same server's worker accuses once
        more within a minute, it goes instead.
        """
        if life.server is None:
            peers = (one for one in self._lives.values() if one.server and one.server.name == message.peer)
            accused = next((one for one in peers if one.incarnation == message.incarnation), None)
        else:
            fronts = self._orders.fronts() if message.peer == FRONT else []
            accused = next((one for one in fronts if one.incarnation == message.incarnation), None)
        if accused is None or accused.incarnation != message.incarnation:
            return  # it is gone already
        accusations = self._accusations.setdefault(life.name, RestartWindow(1, limits.TREE_PERIOD_S))
        if life.server and not accusations.allows(trio.current_time()):
            self._blame(life, f"accuses the front again: {message.reason}")
        else:
            self._blame(accused, f"broke its link with {life.title}: {message.reason}")

    async def _manage(self, front: Life, message: Manage) -> None:
        """Do what a client asks for, and tell its front, if it is there still, how that went."""
        try:
            if self._managing > limits.MANAGE_OUTSTANDING_MAX:
                answer = failure("too many management requests are under way; try again in a moment")
            else:
                answer = (await self._operations.serve(message.request)).body
        finally:
            self._managing -= 1
        if self._lives.get(front.name) is front:
            self._orders.managed(front, message.number, answer)

    def _look_up(self, name: str) -> None:
        """A server's name is to be looked up now, or no more."""
        if self._discovery is None:
            from supervisor.discovery import Discovery  # needed by few

            machine = self._machine
            self._discovery = Discovery(
                self._changes, Refused, machine.look_up, self._lookups, self._news, self._log,
                random=machine.random, wall_time=machine.wall_time, told=self._parts_changed,
            )  # fmt: skip
            self._nursery.start_soon(self._discovery.run)
        self._discovery.changed(name)

    def _stdio_closed(self) -> None:
        if not self._stdio_open:
            return
        self._stdio_open = False
        if self._settings.has_http:
            self._log.info("standard input has ended; HTTP goes on")
        else:
            self._stop("standard input has ended: stopping")


def _reloading(
    settings: Settings,
    load: Callable[[], Settings],
    changes: Changes,
    log: Log,
    told: Callable[[], contextlib.AbstractContextManager[None]],
) -> Reloading:
    from supervisor.configuration.reloading import Reloading  # loads only where there is a file to follow

    # In a thread, because a keyring may take its time; and nobody waits for one when the proxy stops.
    in_thread = functools.partial(trio.to_thread.run_sync, load, abandon_on_cancel=True)
    return Reloading(settings, in_thread, changes, Refused, log, told)


def _config_file(settings: Settings) -> ConfigFile | None:
    if not settings.config_file:
        return None
    from supervisor.configuration.config_file import ConfigFile  # as above

    return ConfigFile(settings.config_file)

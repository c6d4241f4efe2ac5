"""Break things: which kinds of faults a run has, how often, and what each of them does.

The seed decides which kinds a run knows at all and how often each comes, so some runs are calm and some are brutal, and
some know one kind only (swarm testing). Whatever is broken is healed again: at the latest by `heal`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Final

import trio

from protocol import limits, link
from tests.sim.kernel import SIGKILL_STATUS, Process, StreamEnd
from tests.sim.server import TROUBLES, SimServer

if TYPE_CHECKING:
    from tests.sim.world import World

WORKER_BACK_S: Final = 3.0
"""Until the calls of a server that lost its worker can be expected to go well again."""
FRONT_BACK_S: Final = 3.0
STUCK_S: Final = limits.SILENCE_S + limits.ABORT_S + 2 * limits.HEARTBEAT_S
ALL_BACK_S: Final = 6.0
SUSPENDS_MAX: Final = 3


@dataclass(frozen=True)
class Fault:
    name: str
    weight: float
    break_it: Callable[[Nemesis], None]


class Nemesis:
    """What is done to one world."""

    def __init__(self, world: World, chance: Random) -> None:
        self.world = world
        self.chance = chance
        self._healers: list[Callable[[], None]] = []

    async def run(self, kinds: tuple[str, ...], mean_pause_s: float) -> None:
        """Break something every so often until the load ends, then heal everything."""
        faults = [fault for fault in FAULTS if fault.name in kinds]
        while faults:
            await trio.sleep_until(self.world.suspended_until)
            await trio.sleep(self.chance.expovariate(1 / mean_pause_s))
            if trio.current_time() >= self.world.work.until:
                break
            (fault,) = self.chance.choices(faults, [fault.weight for fault in faults])
            fault.break_it(self)
        self.heal()

    def heal(self) -> None:
        """Undo what is still broken."""
        healers, self._healers = self._healers, []
        for healer in healers:
            healer()

    def later(self, seconds: float, healer: Callable[[], None]) -> None:
        """Undo something after so long, or when everything is healed."""
        self._healers.append(healer)
        self.world.agenda.after(seconds, lambda: self._undo(healer))

    def _undo(self, healer: Callable[[], None]) -> None:
        if healer in self._healers:
            self._healers.remove(healer)
            healer()

    def cause(
        self, kind: str, lasts_s: float, servers: set[str] | None, *, effects_s: float, front: bool = False
    ) -> None:
        some = None if servers is None else frozenset(servers)
        self.world.history.cause(kind, lasts_s, some, front=front, effects_s=effects_s)

    # --- choosing ----------------------------------------------------------------------------------------------------
    def a_server(self) -> SimServer:
        """One that may be harmed: the last one never is."""
        return self.chance.choice(self.world.servers[:-1] or self.world.servers)

    def a_worker(self) -> tuple[SimServer, Process] | None:
        server = self.a_server()
        worker = self.world.process(f"server {server.name}")
        return (server, worker) if worker is not None else None

    def a_link(self) -> tuple[str, StreamEnd] | None:
        found = [(name, end) for name, end in self.world.open_links() if name != self.world.servers[-1].name]
        return self.chance.choice(found) if found else None

    def seconds(self, *choices: float) -> float:
        return self.chance.choice(choices) * self.chance.uniform(0.5, 1.5)

    # --- processes ---------------------------------------------------------------------------------------------------
    def kill_worker(self) -> None:
        if (found := self.a_worker()) is not None:
            self.cause("worker killed", 0.0, {found[0].name}, effects_s=WORKER_BACK_S)
            found[1].die(SIGKILL_STATUS)

    def kill_worker_in_a_call(self) -> None:
        if (found := self.a_worker()) is not None:
            self.cause("worker killed in a system call", 5.0, {found[0].name}, effects_s=WORKER_BACK_S)
            self._light_fuse(found[1])

    def kill_front(self) -> None:
        if (front := self.world.process("front")) is not None:
            self.cause("front killed", 0.0, None, effects_s=FRONT_BACK_S, front=True)
            front.die(SIGKILL_STATUS)

    def kill_front_in_a_call(self) -> None:
        if (front := self.world.process("front")) is not None:
            self.cause("front killed in a system call", 5.0, None, effects_s=FRONT_BACK_S, front=True)
            self._light_fuse(front)

    def _light_fuse(self, process: Process) -> None:
        process.fuse = self.chance.randint(1, 60)
        self.later(5.0, lambda: setattr(process, "fuse", 0))

    def kill_zygote(self) -> None:
        if (zygote := self.world.process("zygote")) is not None:
            self.cause("zygote killed", 0.0, None, effects_s=ALL_BACK_S, front=True)
            zygote.die(SIGKILL_STATUS)

    def stop_worker(self) -> None:
        if (found := self.a_worker()) is not None:
            lasts_s = self.seconds(0.1, 3.0, 10.0)
            self.cause("worker stopped", lasts_s, {found[0].name}, effects_s=STUCK_S + WORKER_BACK_S)
            self._freeze(found[1], lasts_s)

    def stick_worker(self) -> None:
        if (found := self.a_worker()) is not None:
            lasts_s = self.seconds(0.1, 3.0, 60.0)
            self.cause("worker's loop stuck", lasts_s, {found[0].name}, effects_s=STUCK_S + WORKER_BACK_S)
            found[1].is_stuck = True
            self._freeze(found[1], lasts_s)

    def stop_front(self) -> None:
        if (front := self.world.process("front")) is not None:
            lasts_s = self.seconds(0.1, 3.0, 10.0)
            self.cause("front stopped", lasts_s, None, effects_s=STUCK_S + FRONT_BACK_S, front=True)
            self._freeze(front, lasts_s)

    def stop_zygote(self) -> None:
        if (zygote := self.world.process("zygote")) is not None:
            lasts_s = self.seconds(0.1, 3.0)
            self.cause("zygote stopped", lasts_s, None, effects_s=ALL_BACK_S, front=True)
            self._freeze(zygote, lasts_s)

    def _freeze(self, process: Process, lasts_s: float) -> None:
        process.stop()
        self.later(lasts_s, lambda: self.world.let_go_on(process))

    def suspend(self) -> None:
        """The whole machine sleeps, clients on it included; servers elsewhere go on."""
        if self.world.history.faults["machine suspended"] >= SUSPENDS_MAX:
            return
        lasts_s = self.chance.choice([10.0, 8 * 3600.0])
        self.cause("machine suspended", lasts_s, None, effects_s=ALL_BACK_S + 60.0, front=True)
        self.world.suspend(lasts_s)

    def slow_start(self) -> None:
        scarcity = self.world.scarcity
        scarcity.boot_delay_s = self.seconds(0.5, 4.0, 12.0)
        lasts_s = self.seconds(3.0)
        self.cause("workers start slowly", lasts_s, None, effects_s=30.0, front=True)
        self.later(lasts_s, lambda: setattr(scarcity, "boot_delay_s", 0.0))

    def fork_fails(self) -> None:
        self._run_short("fork", "fork fails")

    def memory_runs_out(self) -> None:
        self._run_short("memory", "no shared memory")

    def root_has_no_descriptors(self) -> None:
        for kind in ("descriptors", "control_pair", "link_pair", "duplicate"):
            if self.chance.random() < 0.5:
                self._run_short(kind, "root is out of descriptors")

    def launch_fails(self) -> None:
        self._run_short("launch", "zygote cannot be launched")

    def _run_short(self, kind: str, name: str) -> None:
        self.cause(name, 10.0, None, effects_s=ALL_BACK_S, front=True)
        counts = self.world.scarcity.next_fail
        counts[kind] += self.chance.randint(1, 2)
        self.later(10.0, lambda: counts.pop(kind, None))

    def accept_fails(self) -> None:
        listener = self.world.listener
        self.cause("accept finds no descriptor", 1.0, set(), effects_s=1.0)
        listener.fails = self.chance.randint(1, 5)  # one after the other, with a pause of 0.1 s each
        self.later(0.5, lambda: setattr(listener, "fails", 0))  # else it waits for the next client, whenever that comes

    def connect_fails(self) -> None:
        self.cause("workers are out of descriptors", 2.0, None, effects_s=WORKER_BACK_S)
        counts = self.world.scarcity.next_fail
        counts["connect"] += self.chance.randint(1, 3)
        self.later(2.0, lambda: counts.pop("connect", None))

    # --- links -------------------------------------------------------------------------------------------------------
    def clog_link(self) -> None:
        if (found := self.a_link()) is not None:
            name, end = found
            lasts_s = self.seconds(0.05, 1.0, 4.0)
            self.cause("link clogged", lasts_s, {name}, effects_s=WORKER_BACK_S)
            self._clog(end, lasts_s)

    def swizzle(self) -> None:
        """Stop the links one by one, and let them go in another order (FoundationDB's best fault)."""
        links = self.world.open_links()
        self.chance.shuffle(links)
        step_s = self.seconds(0.02, 0.3)
        total_s = 2 * step_s * (len(links) + 1)
        self.cause("links swizzled", total_s, None, effects_s=WORKER_BACK_S)
        ends = list(range(len(links)))
        self.chance.shuffle(ends)
        for number, (_, end) in enumerate(links):
            rest_s = (len(links) - number + ends[number] + 1) * step_s
            self.world.agenda.after(number * step_s, functools.partial(self._clog, end, rest_s))

    def _clog(self, end: StreamEnd, lasts_s: float) -> None:
        for flow in (end.incoming, end.outgoing):
            flow.is_clogged = True
            self.later(lasts_s, flow.unclog)

    def damage_link(self) -> None:
        if (found := self.a_link()) is not None:
            name, end = found
            flow = self.chance.choice([end.incoming, end.outgoing])
            is_from_front = flow is end.outgoing
            self.cause(
                "bit flipped on a link", 10.0, None if is_from_front else {name}, effects_s=ALL_BACK_S, front=True
            )

            def flip(data: bytes) -> bytes:
                try:
                    link.frame_length(data)
                except Exception:  # noqa: BLE001 - in the middle of a frame the damage might never be noticed
                    flow.mangle = flip
                    return data
                return bytes([data[0] ^ 0x80, data[1] ^ 0x80, data[2], data[3] ^ 0x80]) + data[4:]

            flow.mangle = flip
            self.later(10.0, lambda: setattr(flow, "mangle", None))

    def cut_link(self) -> None:
        if (found := self.a_link()) is not None:
            name, end = found
            self.cause("link cut in the middle of a frame", 10.0, {name}, effects_s=ALL_BACK_S)
            flow = end.outgoing  # a worker that reads an end closes; the other way round only its death can end a link

            def cut(data: bytes) -> bytes:
                flow.push(data[: max(1, len(data) // 2)])
                flow.cut()
                return b""

            flow.mangle = cut
            self.later(10.0, lambda: setattr(flow, "mangle", None))

    # --- the network -------------------------------------------------------------------------------------------------
    def partition(self) -> None:
        server = self.a_server()
        lasts_s = self.seconds(0.5, 3.0, 8.0)
        self.cause("server cut off", lasts_s, {server.name}, effects_s=60.0)
        server.cut_off()
        self.later(lasts_s, server.let_through)

    def outage(self) -> None:
        lasts_s = self.seconds(1.0, 5.0)
        self.cause("network outage", lasts_s, None, effects_s=60.0)
        for server in self.world.servers:
            server.cut_off()
            self.later(lasts_s, server.let_through)

    def slow_network(self) -> None:
        lasts_s = self.seconds(1.0, 4.0)
        self.cause("network slow", lasts_s, None, effects_s=2.0)
        network = self.world.network
        network.extra_s = self.seconds(0.05, 0.3)
        self.later(lasts_s, lambda: setattr(network, "extra_s", 0.0))

    # --- servers -----------------------------------------------------------------------------------------------------
    def crash_server(self) -> None:
        server = self.a_server()
        lasts_s = self.seconds(0.0, 0.3, 4.0)
        self.cause("server restarted", lasts_s, {server.name}, effects_s=60.0)
        server.crash()
        self.later(lasts_s, server.restart)

    def replace_server(self) -> None:
        server = self.a_server()
        self.cause("server replaced by one of another era", 0.0, {server.name}, effects_s=60.0)
        server.crash()
        server.era = self.chance.choice(["legacy", "modern", "both"])
        server.restart()

    def forget_sessions(self) -> None:
        server = self.a_server()
        self.cause("server forgot its sessions", 0.0, {server.name}, effects_s=60.0)
        server.forget_sessions()

    def reset_connections(self) -> None:
        server = self.a_server()
        self.cause("server's connections reset", 0.0, {server.name}, effects_s=60.0)
        server.reset_connections()

    def trouble_server(self) -> None:
        server = self.a_server()
        lasts_s = self.seconds(1.0, 4.0, 8.0)
        troubles = tuple(self.chance.sample(TROUBLES, self.chance.randint(1, 4)))
        for trouble in troubles:
            self.cause(f"server: {trouble}", lasts_s, {server.name}, effects_s=60.0)
        server.troubles = troubles
        server.trouble = self.chance.choice([0.1, 0.5, 1.0])
        server.slow_s = self.seconds(0.1, 1.0, 8.0)
        self.later(lasts_s, lambda: setattr(server, "trouble", 0.0))

    # --- time --------------------------------------------------------------------------------------------------------
    def set_clock(self) -> None:
        self.cause("wall clock set", 0.0, set(), effects_s=0.0)
        hour, year = 3600.0, 365 * 86_400.0
        self.world.times.wall_shift += self.chance.choice([hour, -hour, year, -year, 0.7, -0.7])


FAULTS: Final = (
    Fault("kill worker", 3, Nemesis.kill_worker),
    Fault("kill worker in a call", 4, Nemesis.kill_worker_in_a_call),
    Fault("kill front", 1, Nemesis.kill_front),
    Fault("kill front in a call", 1, Nemesis.kill_front_in_a_call),
    Fault("kill zygote", 0.5, Nemesis.kill_zygote),
    Fault("stop worker", 2, Nemesis.stop_worker),
    Fault("stick worker", 1, Nemesis.stick_worker),
    Fault("stop front", 1, Nemesis.stop_front),
    Fault("stop zygote", 1, Nemesis.stop_zygote),
    Fault("suspend", 0.5, Nemesis.suspend),
    Fault("slow start", 1, Nemesis.slow_start),
    Fault("fork fails", 1, Nemesis.fork_fails),
    Fault("memory", 1, Nemesis.memory_runs_out),
    Fault("descriptors", 1, Nemesis.root_has_no_descriptors),
    Fault("launch", 1, Nemesis.launch_fails),
    Fault("accept", 1, Nemesis.accept_fails),
    Fault("connect", 1, Nemesis.connect_fails),
    Fault("clog", 3, Nemesis.clog_link),
    Fault("swizzle", 2, Nemesis.swizzle),
    Fault("damage", 1, Nemesis.damage_link),
    Fault("cut", 1, Nemesis.cut_link),
    Fault("partition", 2, Nemesis.partition),
    Fault("outage", 0.5, Nemesis.outage),
    Fault("slow network", 2, Nemesis.slow_network),
    Fault("crash server", 3, Nemesis.crash_server),
    Fault("replace server", 1, Nemesis.replace_server),
    Fault("sessions", 2, Nemesis.forget_sessions),
    Fault("reset", 3, Nemesis.reset_connections),
    Fault("trouble", 4, Nemesis.trouble_server),
    Fault("clock", 2, Nemesis.set_clock),
)

"""Kills (or stops) one process of a test stand and watches what becomes of it."""

from __future__ import annotations

import signal
import time
from typing import Final

from benchmarks import stand as stands
from benchmarks.processes import child_pids
from benchmarks.stand import FRONT, ZYGOTE, Stand, worker_role
from benchmarks.timeline import Fault

WORKER_KIND: Final = "worker"
SERVER_KIND: Final = "server"
KINDS: Final = (WORKER_KIND, SERVER_KIND, FRONT, ZYGOTE)
"""In the order in which they are done to one proxy: what hits everything comes last."""
FREEZE_KIND: Final = "frozen worker"
FROZEN_S: Final = 1.0
"""Much less than the silence after which a worker counts as stuck (promise R03)."""
WATCH_S: Final = 10.0
SERVER_AWAY_S: Final = 0.5
"""How long a killed server stays away."""


class NoTargetError(Exception):
    """The process to be killed is not there."""


def inflict(stand: Stand, kind: str, server: int) -> Fault:
    """Do it, and return when the process has been replaced, or WATCH_S have passed. Raises NoTargetError.

    `server` is the one that is hit; it does not matter for kinds that hit all of them."""
    if kind == SERVER_KIND:
        return _kill_server(stand, server)
    if kind == FREEZE_KIND:
        return _freeze(stand, server)
    if kind == WORKER_KIND:
        return _kill_part(stand, kind, worker_role(server), server)
    return _kill_part(stand, kind, kind, None)


def _kill_part(stand: Stand, kind: str, role: str, server: int | None) -> Fault:
    pid = stand.find(role)
    parent = stand.proxy.pid if kind == ZYGOTE else stand.find(ZYGOTE)
    if pid is None or parent is None:
        raise NoTargetError(f"there is no process {role!r}, or none that would replace it")
    killed_ns = stands.kill(pid)
    noticed_ns = stands.wait_until(lambda: not stands.is_there(pid), WATCH_S)

    def replaced() -> bool:
        # By its title: a spare that was there before may have become it.
        return any(stands.role_of(child) == role for child in child_pids(parent) if child != pid)

    replaced_ns = stands.wait_until(replaced, WATCH_S)
    # Workers live on for some milliseconds when the zygote is killed; the new ones are forked by its replacement.
    outlived_until_ns = (replaced_ns or 0) if kind == ZYGOTE else 0
    return Fault(kind, server, killed_ns, noticed_ns, replaced_ns, outlived_until_ns)


def _kill_server(stand: Stand, server: int) -> Fault:
    backend = stand.servers[server]
    killed_ns = stands.kill(backend.child.pid)
    backend.child.process.wait()
    time.sleep(SERVER_AWAY_S)
    backend.start()
    return Fault(SERVER_KIND, server, killed_ns, None, time.perf_counter_ns())


def _freeze(stand: Stand, server: int) -> Fault:
    """Stop a worker for a moment, and let it go on. It is not to be replaced for that."""
    role = worker_role(server)
    pid = stand.find(role)
    if pid is None:
        raise NoTargetError(f"there is no process {role!r}")
    frozen_ns = stands.kill(pid, signal.SIGSTOP)
    time.sleep(FROZEN_S)
    return Fault(FREEZE_KIND, server, frozen_ns, None, stands.kill(pid, signal.SIGCONT))

"""Upgrade, the side of the old version: start the new one, wait until it can serve, hand over, or carry on unharmed.

Rule 1: until the new version has taken over, nothing has changed here: no socket closed, no client turned away.
Whatever goes wrong before that ends the new one and nothing else.
Rule 2: the new version is our child, so it is killed by the parent that has not reaped it, and never by a bare number.
Rule 3: once it has taken over it is left alone. It outlives us, and whoever adopts our orphans reaps it.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import msgspec
import trio

from protocol import limits
from supervisor import handover, linux
from supervisor.channel import Channel, ChannelFull
from supervisor.config import Server
from supervisor.handover import Announced, Configured, Ended, FromNew, FromOld, Inheritance, Prepared, Taken, TakeOver
from supervisor.inheritance import VARIABLE
from supervisor.plan import Holdings
from supervisor.restart import classify

EXIT_WAIT_S: Final = 2.0
"""From SIGKILL to its end as a process. Milliseconds, unless the kernel holds it."""
EXIT_LOOK_S: Final = 0.01
EXIT_LOOKS: Final = 200
"""From the end of its socket to its end as a process: two seconds."""


class UpgradeFailed(Exception):
    """The new version did not take over. The text continues "the new version …"."""


class Successor:
    """The new version, from its start until it is the service or gone.

    `held_back`: signals that wait until it can obey them. Errors: `OSError` if it cannot be started.
    """

    def __init__(self, environ: Mapping[str, str], held_back: Iterable[signal.Signals]) -> None:
        """Start the command of this process once more, from whatever is installed now."""
        ours, theirs = linux.control_pair()
        with theirs:
            before = signal.pthread_sigmask(signal.SIG_BLOCK, held_back)
            try:
                self._process = subprocess.Popen(  # noqa: S603 - our own command line
                    [sys.executable, *sys.orig_argv[1:]],
                    env={**environ, VARIABLE: str(theirs.fileno())},
                    pass_fds=[theirs.fileno()],
                )
            except OSError:
                ours.close()
                raise
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._channel = Channel(ours)
        self._fault = ""
        self.taken = False
        """It is the service now."""

    @property
    def pid(self) -> int:
        return self._process.pid

    def bequeath(self, holdings: Holdings, ended: Sequence[list[str]], servers: Sequence[Server] | None = None) -> None:
        """Send it all that it needs.

        `ended`: ended sessions in parts, the oldest part first. `servers`: None if it can find out itself.
        """
        admin = holdings.admin
        sockets = (*holdings.listeners, *([admin.sock] if admin else ()), *holdings.admin_ports)
        count, path = -1 if servers is None else len(servers), str(admin.path) if admin else ""
        message = Inheritance(holdings.session_key, len(ended), count, path, len(holdings.admin_ports))
        self._send(message, [sock.fileno() for sock in sockets])
        for part in ended:
            self._send(Ended(part))
        for server in servers or ():
            self._send(Configured(server))

    def tell_ended(self, session_id: str) -> None:
        self._send(Ended([session_id]))

    async def lead(self, *, taken: Callable[[], None], ended: Callable[[list[str]], None]) -> None:
        """Hand over when it is prepared, and listen to it until it is gone.

        `taken` is called when it has taken over, and has to announce that; `ended` when its clients end sessions.

        Errors: `UpgradeFailed` if it does not take over; nothing is left of it then.
        """
        try:
            with trio.move_on_after(limits.UPGRADE_S) as in_time:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._channel.flush_forever)
                    while not self._fault and (packets := await self._channel.receive()):
                        for packet in packets:
                            self._hear(packet.data, taken, ended)
                        if self.taken:
                            in_time.deadline = float("inf")
                    nursery.cancel_scope.cancel()
            if not self.taken:
                late = f"was not ready after {limits.UPGRADE_S:g} s"
                raise UpgradeFailed(late if in_time.cancelled_caught else self._fault or await self._end())
        finally:
            if not self.taken:  # else it stays open until our end, which is how the new version learns of it
                self._channel.close()
                self._destroy()

    def _hear(self, packet: bytes, taken: Callable[[], None], ended: Callable[[list[str]], None]) -> None:
        try:
            message: FromNew = handover.decode_from_new(packet)
        except msgspec.DecodeError:
            self._fault = "said something that makes no sense"
            return
        match message:
            case Prepared():
                self._send(TakeOver())
            case Taken():
                if not self.taken:
                    self.taken = True
                    taken()
                    self._send(Announced())
            case Ended(session_ids):
                ended(session_ids)

    def _send(self, message: FromOld, fds: Sequence[int] = ()) -> None:
        try:
            self._channel.send(handover.encode(message), fds)
        except (OSError, ChannelFull):
            self._fault = "could not be told what it needs"
            self._channel.end()

    async def _end(self) -> str:
        """Say how it ended."""
        for _ in range(EXIT_LOOKS):  # a handle to wait for would need a descriptor, and there may be none left
            status = self._process.poll()
            if status is not None:
                return classify(status, out_of_memory=False).text
            await trio.sleep(EXIT_LOOK_S)
        return "closed its socket"

    def _destroy(self) -> None:
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(EXIT_WAIT_S)

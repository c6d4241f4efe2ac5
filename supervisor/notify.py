"""Speak the protocol of service managers such as systemd: sd_notify(3) and sd_watchdog_enabled(3).

The manager is told in datagrams of `NAME=value` lines. Whether they arrive changes nothing for clients, so sending
never waits and never fails: what did not get through is only reported as such.
"""

from __future__ import annotations

import socket
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Final

SOCKET_VARIABLE: Final = "NOTIFY_SOCKET"
WATCHDOG_VARIABLE: Final = "WATCHDOG_USEC"
WATCHDOG_PID_VARIABLE: Final = "WATCHDOG_PID"
STATUS_CHARS_MAX: Final = 200
"""One line in the output of `systemctl status`."""

READY: Final = "READY=1"
STOPPING: Final = "STOPPING=1"
WATCHDOG: Final = "WATCHDOG=1"


@dataclass(frozen=True, slots=True)
class Manager:
    """Where the manager listens, and how often it wants to hear that we live."""

    address: str
    """An absolute path, or "@name" in the abstract namespace."""
    watchdog_s: float
    """It takes us for stuck after so many seconds without a sign of life; 0 if it does not watch."""


def take_from(environ: MutableMapping[str, str], pid: int) -> Manager | None:
    """Return the manager that the environment names, None if there is none we can speak to.

    The variables are taken out: they are meant for this process, and its children must not speak in its name.
    """
    address = environ.pop(SOCKET_VARIABLE, "")
    period = environ.pop(WATCHDOG_VARIABLE, "")
    watched = environ.pop(WATCHDOG_PID_VARIABLE, str(pid))
    if not address.startswith(("/", "@")) or len(address) < 2:
        return None  # sd_notify(3) also knows vsock:, which is for virtual machines
    return Manager(address, int(period) / 1e6 if period.isdecimal() and watched == str(pid) else 0.0)


def put_back(environ: MutableMapping[str, str], manager: Manager) -> None:
    """Name the manager to a process that is to become the service. Its number is not known yet, so none is given."""
    environ[SOCKET_VARIABLE] = manager.address
    if manager.watchdog_s:
        environ[WATCHDOG_VARIABLE] = str(round(manager.watchdog_s * 1e6))


def reloading(monotonic_ns: int) -> str:
    """Return the message for the begin of a reload; `READY` ends it. `monotonic_ns`: CLOCK_MONOTONIC, now."""
    return f"RELOADING=1\nMONOTONIC_USEC={monotonic_ns // 1000}"


def status(text: str) -> str:
    """Return the message with a line for people."""
    return f"STATUS={' '.join(text.split())[:STATUS_CHARS_MAX]}"


def main_pid(pid: int) -> str:
    """Return the message that another process is the service from now on."""
    return f"MAINPID={pid}"


class Sender:
    """Sends messages to a manager."""

    def __init__(self, address: str) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._socket: socket.socket | None = None

    def send(self, message: str) -> bool:
        """Return whether the message is on its way."""
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            self._socket.sendto(message.encode("utf-8", "replace"), self._address)
        except OSError:  # nobody listens, its queue is full, no descriptor is left, or the address is too long
            return False
        return True

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()

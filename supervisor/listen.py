"""Bind the listening sockets. The root keeps them all its life, so the port stays open whatever happens to fronts."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from supervisor import unix_socket
from supervisor.config import is_address, shown

BACKLOG: Final = 1024
"""Clients that connect while a front is being replaced wait here (the kernel caps it at net.core.somaxconn)."""
LOOPBACK: Final = ("127.0.0.1", "::1")
FREE_PORT_TRIES: Final = 8
PROCESSES_SEARCHED_MAX: Final = 4096


class ListenError(Exception):
    """The port cannot be had. The text says why and what to do."""


def bind(hosts: Sequence[str], port: int) -> list[socket.socket]:
    """Return listening sockets for every address of the hosts, all on one port (0: any that is free on all of them).

    Errors: `ListenError`.
    """
    addresses = list(dict.fromkeys(address for host in hosts for address in addresses_of(host)))
    optional = {LOOPBACK[1]} if "localhost" in hosts and LOOPBACK[1] not in hosts else set[str]()
    for attempt in range(FREE_PORT_TRIES):
        try:
            return _bind_all(addresses, port, optional)
        except ListenError:
            # The kernel chose a port for the first address; it may be taken on the next one.
            if port != 0 or len(addresses) == 1 or attempt == FREE_PORT_TRIES - 1:
                raise
    raise AssertionError("the last attempt returns or raises")


def bind_unix(file: str, mode: int) -> unix_socket.Bound:
    """Return a Unix socket that listens there, in place of one that nobody listens on any more.

    Errors: `ListenError`.
    """
    path = Path(file).absolute()
    try:
        with unix_socket.locked(path.parent) as folder_fd:
            unix_socket.make_room(path, folder_fd)
            bound = unix_socket.bind(path, str(path), backlog=BACKLOG)
            path.chmod(mode)
            return bound
    except unix_socket.UnixSocketError as error:
        raise ListenError(f"{error} with --listen-unix") from None
    except OSError as error:
        raise ListenError(
            f"cannot listen on {path}: {error.strerror or error}; name another with --listen-unix"
        ) from None


def adopt_unix(file: str, inherited: Sequence[socket.socket]) -> unix_socket.Bound | None:
    """Return the socket there if it is one of those that another process has bound, and that are ours now."""
    path = Path(file).absolute()
    for sock in inherited:
        if sock.family == socket.AF_UNIX and endpoint(sock)[0] == str(path):
            return unix_socket.adopt(sock, path)
    return None


def is_loopback(address: str) -> bool:
    return address.startswith("127.") or address == "::1"


def endpoint(sock: socket.socket) -> tuple[str, int]:
    """Return the address and port a socket listens on; of a Unix socket its name, "@name" if it is abstract, and 0."""
    if sock.family == socket.AF_UNIX:
        return os.fsdecode(sock.getsockname()).replace("\0", "@", 1), 0
    address, port, *_ = sock.getsockname()
    return address, port


def is_unix(address: str) -> bool:
    return address.startswith(("/", "@"))


def addresses_of(host: str) -> list[str]:
    """Return the addresses to listen on. Errors: `ListenError`."""
    if host == "localhost":
        return list(LOOPBACK)  # by definition (RFC 6761, section 6.3), whatever the resolver says
    if is_address(host):
        return [host]
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ListenError(
            f"cannot listen on {shown(host)}: {error.strerror}; give an address of this machine"
        ) from None
    return [str(address[0]) for *_, address in found]


def _bind_all(addresses: Sequence[str], port: int, optional: set[str]) -> list[socket.socket]:
    bound: list[socket.socket] = []
    with contextlib.ExitStack() as undo:
        for address in addresses:
            try:
                sock = _bind_one(address, port)
            except OSError as error:
                if address in optional and error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    continue  # a machine without IPv6
                raise ListenError(_explain(address, port, error)) from None
            undo.callback(sock.close)
            bound.append(sock)
            port = port or endpoint(sock)[1]
        undo.pop_all()
    return bound


def _bind_one(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Without it, connections of the last run that are in TIME_WAIT would block the port for a minute.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((address, port))
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def _explain(address: str, port: int, error: OSError) -> str:
    where = f"port {port} on {address}"
    match error.errno:
        case errno.EADDRINUSE:
            owner = owner_of(port)
            by = f"by {owner}" if owner else "by another program"
            return f"{where} is already in use {by}; stop that one, or choose another port with --port"
        case errno.EACCES:
            return f"{where} needs special rights; choose a port above 1023 with --port"
        case errno.EADDRNOTAVAIL:
            return f"{address} is not an address of this machine; choose another with --host"
        case _:
            return f"cannot listen on {where}: {error.strerror}"


def owner_of(port: int) -> str:
    """Return who listens on the port, as far as we are allowed to see: "python3 (process 42)", or ""."""
    inodes = set(_listening_inodes(port))
    names = sorted(os.listdir("/proc"), key=lambda name: (len(name), name))
    for pid in [name for name in names if name.isdigit()][:PROCESSES_SEARCHED_MAX]:
        with contextlib.suppress(OSError):
            for fd in os.listdir(f"/proc/{pid}/fd"):
                if os.readlink(f"/proc/{pid}/fd/{fd}") in inodes:
                    with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
                        return f"{file.read().strip()} (process {pid})"
    return ""


def _listening_inodes(port: int) -> Iterator[str]:
    """Yield how the sockets that listen on the port look in /proc/PID/fd (columns as in proc(5), /proc/net/tcp)."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError), open(table, encoding="ascii") as file:
            for line in file:
                columns = line.split()
                if columns[3] == "0A" and columns[1].endswith(f":{port:04X}"):
                    yield f"socket:[{columns[9]}]"

"""What a process does that the zygote has just forked: cut its ties, become a worker, or a spare that will be one.

A spare is forked and warmed up before anybody needs it, and waits for the order that says which worker it is. It holds
nothing of any server or client until then, dies with the zygote like every worker, and is never used twice.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import traceback
from collections.abc import Callable, Sequence
from typing import Final, NoReturn

import setproctitle

from protocol import control, log_lines
from protocol.control import Fork
from supervisor import linux

Entry = Callable[[int], NoReturn]
"""What a worker runs: takes its control socket's descriptor and never returns."""

CONTROL_FD: Final = 3
"""Of every worker, and nothing else is open above standard error."""
EXIT_OK: Final = 0
EXIT_CRASHED: Final = 70
"""sysexits EX_SOFTWARE: a worker let an exception escape."""
SPARE_TITLE: Final = f"{log_lines.PROGRAM}: spare"


def say(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, log_lines.human_line(text))


def warm_up(rehearse: Callable[[], object], who: str) -> None:
    """Do what the worker program wants to have done once. Nothing depends on its success."""
    try:
        rehearse()
    except Exception as error:  # noqa: BLE001 - see above
        say(f"{who}: could not warm up: {type(error).__name__}: {error}")


class Newborn:
    """The part of a fork that runs in the child. `handled`: signals that have handlers of the zygote's."""

    def __init__(self, parent: int, inherited: Sequence[socket.socket], handled: Sequence[signal.Signals]) -> None:
        self._parent = parent
        self._inherited = inherited
        self._handled = handled

    def be_worker(self, entry: Entry, order: Fork, control_fd: int) -> NoReturn:
        """Run `entry`. Never returns into the zygote's frames."""

        def live() -> None:
            self._settle(control_fd, order.title)
            _work(entry, order)

        _live(live, order.title)

    def be_spare(self, entry: Entry, rehearse: Callable[[], object], orders_fd: int) -> NoReturn:
        """Warm up, wait for an order, then run `entry`."""

        def live() -> None:
            self._settle(orders_fd, SPARE_TITLE)
            warm_up(rehearse, "spare")
            order, control_fd = _receive_order()
            _keep_only(control_fd)
            setproctitle.setproctitle(order.title)
            _live(lambda: _work(entry, order), order.title)

        _live(live, SPARE_TITLE)

    def _settle(self, kept_fd: int, title: str) -> None:
        """Cut what ties this process to the zygote, and tie its life to the zygote's."""
        linux.die_with_parent(signal.SIGKILL)
        if os.getppid() != self._parent:
            os._exit(EXIT_CRASHED)
        linux.adopt_orphans()  # what its server leaves behind stays with this worker until it ends
        linux.prefer_as_oom_victim()
        signal.set_wakeup_fd(-1)
        for number in self._handled:
            signal.signal(number, signal.SIG_DFL)
        # Were these sockets collected as garbage, they would close whatever has their numbers by then.
        for sock in self._inherited:
            sock.detach()
        _keep_only(kept_fd)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        setproctitle.setproctitle(title)
        gc.enable()


def _work(entry: Entry, order: Fork) -> None:
    if order.data_max:
        linux.limit_data(order.data_max)
    entry(CONTROL_FD)


def _live(life: Callable[[], None], title: str) -> NoReturn:
    code = EXIT_CRASHED
    try:
        life()
    except MemoryError:
        code = control.EXIT_OUT_OF_MEMORY
    except SystemExit as leave:
        code = leave.code if isinstance(leave.code, int) else int(leave.code is not None)
    except BaseException:  # noqa: BLE001 - the last place where it can be told
        say(f"{title.removeprefix(f'{log_lines.PROGRAM}: ')}: crashed: {traceback.format_exc()}")
    finally:
        os._exit(code)  # never unwind into the zygote's frames


def _keep_only(fd: int) -> None:
    os.dup2(fd, CONTROL_FD, inheritable=False)
    os.closerange(CONTROL_FD + 1, 2**31 - 1)


def hand_over(orders: socket.socket, order: Fork, control_fd: int) -> bool:
    """Tell a spare which worker it is; return False if it is not there any more."""
    try:
        socket.send_fds(orders, [control.encode(order)], [control_fd])
    except OSError:
        return False
    return True


def _receive_order() -> tuple[Fork, int]:
    """Wait for `hand_over`."""
    orders = socket.socket(fileno=CONTROL_FD)
    packet, fds, _, _ = socket.recv_fds(orders, control.PACKET_BYTES_MAX, 1, socket.MSG_CMSG_CLOEXEC)
    orders.detach()
    if not fds:
        os._exit(EXIT_OK)  # the zygote is gone, or leaves
    return control.decode_to_zygote(packet), fds[0]

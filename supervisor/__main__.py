"""Start the proxy: read the arguments, bind the port, start the zygote, then become the root. Returns exit statuses.

The order is that of urgency: from the moment the port is bound clients can connect and wait, and the zygote loads while
the root does.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import importlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from supervisor import admin_socket, cli, linux, listen, log_file, zygote_process
from supervisor.config import ConfigError, Settings
from supervisor.zygote_process import WorkerProgram, ZygoteProcess

if TYPE_CHECKING:
    from supervisor.logs import Log

EXIT_CANNOT_START: Final = 1
EXIT_USAGE: Final = 2
EXIT_CRASHED: Final = 70
"""sysexits EX_SOFTWARE."""
STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
BENCHMARKS: Final = "benchmarks.__main__"


def main(arguments: Sequence[str] | None = None, *, program: WorkerProgram | None = None) -> int:
    """Run the proxy with these arguments (those of the process if None) and return the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["bench"]:
        run_benchmarks = cast("Callable[[Sequence[str]], int]", importlib.import_module(BENCHMARKS).main)
        return run_benchmarks(arguments[1:])
    if arguments[:1] in (["check"], ["import"]):
        from supervisor.configuration import commands

        return (commands.check if arguments[0] == "check" else commands.import_)(arguments[1:])
    if arguments[:1] == ["ctl"]:
        from supervisor import ctl

        return ctl.main(arguments[1:])
    # A signal that comes before the root can obey it waits until then: a stop during the start is like any other.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    _fill_standard_descriptors()
    try:
        settings = cli.parse(arguments)
        log_fd = log_file.open_file(settings.log_file) if settings.log_file else None
        listeners = listen.bind(settings.hosts, settings.port) if settings.http else []
        linux.set_limits()
        zygote = zygote_process.launch(program or WorkerProgram())
    except cli.UsageError as error:
        _say(f"{error} (mcp-bulkhead --help explains)")
        return EXIT_USAGE
    except ConfigError as error:  # of the configuration file: a line for each mistake
        for line in str(error).split("\n"):
            _say(line)
        return EXIT_USAGE
    except (listen.ListenError, log_file.LogFileError) as error:
        _say(str(error))
        return EXIT_CANNOT_START
    except OSError as error:
        _say(f"could not start: {error.strerror}")
        return EXIT_CANNOT_START
    with _flags_kept(0, 1):
        load = functools.partial(cli.parse, list(arguments)) if settings.config_file else None
        return _become_root(settings, load, listeners, log_fd, program or WorkerProgram(), zygote)


def _become_root(
    settings: Settings,
    load: Callable[[], Settings] | None,
    listeners: list[socket.socket],
    log_fd: int | None,
    program: WorkerProgram,
    zygote: ZygoteProcess,
) -> int:
    import traceback

    import setproctitle
    import trio

    from protocol.log_lines import PROGRAM
    from supervisor import admin_port, logs, secret, wording
    from supervisor.root import Holdings, Root

    setproctitle.setproctitle(f"{PROGRAM}: root")  # also takes the arguments out of everybody's sight
    linux.adopt_orphans()
    log = logs.configure(debug=settings.debug, file_fd=log_fd)
    try:
        key = _session_key(settings, log)
        admin = _admin_socket(settings, listeners, log)
        ports, token = _admin_port(settings, log)
    except (secret.SecretError, admin_socket.AdminSocketError, admin_port.AdminPortError) as error:
        zygote.process.kill()
        zygote.process.wait()
        log.error(str(error))
        return EXIT_CANNOT_START
    if warning := wording.exposure_warning(listeners):
        log.warning(warning)
    for note in settings.notes:
        log.warning(note)
    inherited = frozenset(linux.children()) - {zygote.process.pid}
    doors = [(admin.sock, None)] if admin else []
    doors += [(port, token) for port in ports]
    holdings = Holdings(listeners, key, log_fd, inherited, doors)
    root = Root(settings, holdings, program, zygote, log, load=load)
    try:
        return trio.run(root.run, _signals_open)
    except Exception as error:  # noqa: BLE001 - the last place where a bug can be told; the zygote sees to everybody else
        log.error(f"the root crashed: {error!r}", exception=traceback.format_exc())
        return EXIT_CRASHED
    finally:
        if admin:
            admin.close()


def _admin_socket(settings: Settings, listeners: Sequence[socket.socket], log: Log) -> admin_socket.Bound | None:
    """Return the socket of the admin door; None if it is not wanted, or cannot be had where nobody has asked for it.

    Errors: `AdminSocketError`.
    """
    if not settings.admin:
        return None
    if settings.admin_socket:
        path = Path(settings.admin_socket)
    else:
        port = listen.endpoint(listeners[0])[1] if listeners else 0
        path = admin_socket.usual_path(admin_socket.usual_folder(settings.state_dir), port)
    try:
        return admin_socket.bind(path)
    except OSError as error:
        text = f"the admin socket cannot be made at {path} ({error.strerror})"
        if settings.admin_socket:
            raise admin_socket.AdminSocketError(f"{text}; name another with --admin-socket") from None
        log.warning(f"{text}: mcp-bulkhead ctl cannot reach this proxy; name another with --admin-socket")
        return None


def _admin_port(settings: Settings, log: Log) -> tuple[list[socket.socket], bytes | None]:
    """Return the sockets of the admin port and its token, if one is wanted. Errors: `AdminPortError`."""
    if settings.admin_listen is None:
        return [], None
    from supervisor import admin_port

    token = admin_port.token(settings)
    ports = admin_port.bind(settings.admin_listen)
    for address, port in map(listen.endpoint, ports):
        log.info(f"the admin port is open on {address} port {port}")
    if warning := admin_port.exposure_warning(ports):
        log.warning(warning)
    return ports, token


def _session_key(settings: Settings, log: Log) -> bytes:
    """Return the key that outlives this run, or one that does not where none is needed or can be kept."""
    from supervisor import secret

    if not settings.http:
        return secret.new_key()  # the only client leaves with us
    folder = Path(settings.state_dir) if settings.state_dir else secret.usual_state_dir()
    try:
        return secret.load_or_create(folder / secret.FILE_NAME)
    except OSError as error:
        log.warning(
            f"the key of client sessions cannot be kept in {folder} ({error.strerror}): "
            "after a restart clients have to connect again; choose a folder with --state-dir"
        )
        return secret.new_key()


@contextlib.contextmanager
def _signals_open() -> Generator[None]:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)


@contextlib.contextmanager
def _flags_kept(*fds: int) -> Generator[None]:
    """Undo what fronts do to the descriptors they got from us: a shell whose terminal does not wait is no use."""
    before = {fd: fcntl.fcntl(fd, fcntl.F_GETFL) for fd in fds}
    try:
        yield
    finally:
        for fd, flags in before.items():
            fcntl.fcntl(fd, fcntl.F_SETFL, flags)


def _fill_standard_descriptors() -> None:
    """Open those of 0, 1 and 2 that are closed: the next socket would get their number, and what is written there."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets the lowest number that is free


def _say(text: str) -> None:
    from protocol.log_lines import human_line  # not needed, and slow to load, unless something is wrong

    with contextlib.suppress(OSError):
        os.write(2, human_line(text))


if __name__ == "__main__":
    sys.exit(main())

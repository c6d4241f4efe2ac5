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
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from supervisor import activation, admin_socket, cli, inheritance, linux, listen, log_file, notify, zygote_process
from supervisor.config import ConfigError, Settings
from supervisor.inheritance import Inherited
from supervisor.zygote_process import WorkerProgram, ZygoteProcess

if TYPE_CHECKING:
    from supervisor.ended_file import EndedFile
    from supervisor.logs import Log
    from supervisor.unix_socket import Bound

EXIT_CANNOT_START: Final = 1
EXIT_USAGE: Final = 2
EXIT_CRASHED: Final = 70
"""sysexits EX_SOFTWARE."""
EXIT_CONFIGURATION: Final = 78
"""sysexits EX_CONFIG: starting again cannot help."""
STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)
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
        doubts = _certificate_doubts(settings)
        manager = notify.take_from(os.environ, os.getpid())
        inherited = _inherit(settings)
        if inherited and inherited.servers is not None and not settings.config_file:
            settings = replace(settings, servers=inherited.servers)
        listeners = inherited.listeners if inherited else _listeners(settings)
        unix = _unix_listener(settings, listeners, inherited)
        linux.set_limits()
        zygote = zygote_process.launch(program or WorkerProgram())
    except cli.UsageError as error:
        _say(f"{error} (mcp-bulkhead --help explains)")
        return EXIT_USAGE
    except ConfigError as error:  # of the configuration file: a line for each mistake
        for line in str(error).split("\n"):
            _say(line)
        return EXIT_USAGE
    except activation.ActivationError as error:
        _say(str(error))
        return EXIT_CONFIGURATION
    except (listen.ListenError, log_file.LogFileError, inheritance.InheritanceError) as error:
        _say(str(error))
        return EXIT_CANNOT_START
    except OSError as error:
        _say(f"could not start: {error.strerror}")
        return EXIT_CANNOT_START
    with _flags_kept(0, 1):
        load = functools.partial(cli.parse, list(arguments)) if settings.config_file else None
        return _become_root(
            settings, load, listeners, log_fd, program or WorkerProgram(), zygote, manager, inherited, unix, doubts
        )


def _certificate_doubts(settings: Settings) -> list[str]:
    """Return what there is to warn of. Errors: `ConfigError` if certificate or key cannot be used."""
    if not settings.tls_cert:
        return []
    from supervisor import certificate  # needed by few

    return certificate.check(settings.tls_cert, settings.tls_key)


def _inherit(settings: Settings) -> Inherited | None:
    """Return what an older version of us hands over, if one has started us (upgrade)."""
    inherited = inheritance.inherit_from(os.environ)
    if inherited and not settings.has_http:
        raise inheritance.InheritanceError(
            "the configuration says no more that clients connect over HTTP; restart instead"
        )
    return inherited


def _listeners(settings: Settings) -> list[socket.socket]:
    """Return the sockets that a service manager gives us, or else those that the settings ask for."""
    given = activation.take_from(os.environ, os.getpid())
    if given and not settings.has_http:
        raise activation.ActivationError(
            f"{activation.COUNT_VARIABLE} gives sockets to listen on, but not without --http; add it, "
            "or start without the socket unit"
        )
    if settings.http and not given:
        return listen.bind(settings.hosts, settings.port)
    return given


def _unix_listener(settings: Settings, listeners: list[socket.socket], inherited: Inherited | None) -> Bound | None:
    """Add the Unix socket that the settings ask for to the listeners, unless it is among them. Return it.

    One that a service manager has made stays its own, and is not removed.
    """
    if not settings.listen_unix:
        return None
    if inherited and (bound := listen.adopt_unix(settings.listen_unix, listeners)):
        return bound
    if any(listen.endpoint(sock)[0] == os.path.abspath(settings.listen_unix) for sock in listeners):
        return None
    bound = listen.bind_unix(settings.listen_unix, settings.listen_unix_mode)
    listeners.append(bound.sock)
    return bound


def _become_root(
    settings: Settings,
    load: Callable[[], Settings] | None,
    listeners: list[socket.socket],
    log_fd: int | None,
    program: WorkerProgram,
    zygote: ZygoteProcess,
    manager: notify.Manager | None,
    inherited: Inherited | None,
    unix: Bound | None,
    doubts: Sequence[str],
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
        key = inherited.session_key if inherited else _session_key(settings, log)
        admin = _admin_socket(settings, listeners, inherited, log)
        ports, token = _admin_port(settings, inherited, log)
    except (secret.SecretError, admin_socket.AdminSocketError, admin_port.AdminPortError) as error:
        zygote.process.kill()
        zygote.process.wait()
        log.error(str(error))
        return EXIT_CANNOT_START
    for warning in (wording.exposure_warning(listeners), wording.openness_warning(settings), *doubts):
        if warning:
            log.warning(warning)
    for note in settings.notes:
        log.warning(note)
    strangers = frozenset(linux.children()) - {zygote.process.pid}
    holdings = Holdings(listeners, key, log_fd, strangers, admin, ports, token)
    ended_file = _ended_file(settings, key, log)
    root = Root(
        settings, holdings, program, zygote, log,
        load=load, manager=manager, inherited=inherited, ended_file=ended_file,
    )  # fmt: skip
    try:
        return trio.run(root.run, _signals_open)
    except Exception as error:  # noqa: BLE001 - the last place where a bug can be told; the zygote sees to everybody else
        log.error(f"the root crashed: {error!r}", exception=traceback.format_exc())
        return EXIT_CRASHED
    finally:
        for bound in (admin, unix) if root.is_service else ():  # else they are another version's now
            if bound:
                bound.close()


def _admin_socket(
    settings: Settings, listeners: Sequence[socket.socket], inherited: Inherited | None, log: Log
) -> Bound | None:
    """Return the socket of the admin door, which may be inherited.

    None if it is not wanted, or cannot be had where nobody has asked for it. Errors: `AdminSocketError`.
    """
    if not settings.admin:
        return None
    if settings.admin_socket:
        path = Path(settings.admin_socket)
    else:
        port = listen.endpoint(listeners[0])[1] if listeners else 0
        path = admin_socket.usual_path(admin_socket.usual_folder(settings.state_dir), port)
    if inherited and inherited.admin and inherited.admin.path == path:
        return inherited.admin
    try:
        return admin_socket.bind(path)
    except OSError as error:
        text = f"the admin socket cannot be made at {path} ({error.strerror})"
        if settings.admin_socket:
            raise admin_socket.AdminSocketError(f"{text}; name another with --admin-socket") from None
        log.warning(f"{text}: mcp-bulkhead ctl cannot reach this proxy; name another with --admin-socket")
        return None


def _admin_port(
    settings: Settings, inherited: Inherited | None, log: Log
) -> tuple[Sequence[socket.socket], bytes | None]:
    """Return the sockets of the admin port, which may be inherited, and its token, if one is wanted.

    Errors: `AdminPortError`.
    """
    if settings.admin_listen is None:
        return [], None
    from supervisor import admin_port

    token = admin_port.token(settings)
    left = inherited.admin_ports if inherited else ()
    ports = left if admin_port.is_at(left, settings.admin_listen) else admin_port.bind(settings.admin_listen)
    for address, port in map(listen.endpoint, ports):
        log.info(f"the admin port is open on {address} port {port}")
    if warning := admin_port.exposure_warning(ports):
        log.warning(warning)
    return ports, token


def _session_key(settings: Settings, log: Log) -> bytes:
    """Return the key that outlives this run, or one that does not where none is needed or can be kept."""
    from supervisor import secret

    if not settings.has_http:
        return secret.new_key()  # the only client leaves with us
    folder = _state_folder(settings)
    try:
        return secret.load_or_create(folder / secret.FILE_NAME)
    except OSError as error:
        log.warning(
            f"the key of client sessions cannot be kept in {folder} ({error.strerror}): "
            "after a restart clients have to connect again; choose a folder with --state-dir"
        )
        return secret.new_key()


def _ended_file(settings: Settings, key: bytes, log: Log) -> EndedFile | None:
    """Return what keeps the sessions that have ended, if the key that they were made with outlives this run."""
    from supervisor import ended_file, secret

    folder = _state_folder(settings)
    try:
        is_kept = settings.has_http and secret.load(folder / secret.FILE_NAME, secret.SESSION_KEY) == key
    except (secret.SecretError, OSError):
        return None
    return ended_file.EndedFile(folder / ended_file.FILE_NAME, log) if is_kept else None


def _state_folder(settings: Settings) -> Path:
    from supervisor import secret

    return Path(settings.state_dir) if settings.state_dir else secret.usual_state_dir()


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

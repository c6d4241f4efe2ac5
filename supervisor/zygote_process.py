"""Start the zygote: a fresh interpreter, tied to the thread that starts it.

Rule 1: only the root's main thread may start it. A death signal is sent when the *thread* that forked ends, and the
thread pools of event loops end theirs whenever they like (measured: after ten seconds).
Rule 2: nothing heavy is imported here, because the zygote is started before the root imports its own event loop; the
two then load side by side.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from supervisor import linux

_BOOTSTRAP: Final = (
    "import sys; sys.path[:0] = [path for path in sys.argv[4:] if path not in sys.path]; "
    "from supervisor.zygote import main; main(int(sys.argv[1]), *sys.argv[2:4])"
)
_INHERITED: Final = frozenset(
    {"HOME", "LANG", "LANGUAGE", "PATH", "TMPDIR", "TZ", "VIRTUAL_ENV", "SSL_CERT_DIR", "SSL_CERT_FILE"}
    | {"GLIBC_TUNABLES", "HOSTALIASES", "LOCALDOMAIN", "RES_OPTIONS"}
)
_INHERITED_PREFIXES: Final = ("LC_", "LD_", "MALLOC_", "PYTHON")


@dataclass(frozen=True, slots=True)
class WorkerProgram:
    """What workers run. Chosen by the program that starts the root, never by its user."""

    entry: str = "workers.main:run"
    """"module:function"; called with the control socket's descriptor in a fresh fork."""
    warm_up: str = "workers.rehearsal:prepare"
    """"module:function" to be called once before workers are forked, and once in each spare.

    Without it no spare is kept: it would save no more than a fork."""
    search_path: tuple[str, ...] = (str(Path(__file__).resolve().parent.parent),)
    """Where our packages are: the checkout, or site-packages."""


class ChildProcess(Protocol):
    """A child of ours, as `subprocess.Popen` shows it."""

    @property
    def pid(self) -> int: ...

    def kill(self) -> None: ...

    def poll(self) -> int | None: ...

    def wait(self) -> int: ...


@dataclass(frozen=True, slots=True)
class ZygoteProcess:
    process: ChildProcess
    control: socket.socket
    """The root's end."""


def launch(program: WorkerProgram) -> ZygoteProcess:
    """Start the zygote. It may be given orders at once; it obeys them when it has started.

    Errors: `OSError` if there is no process or descriptor to be had.
    """
    ours, theirs = linux.control_pair()
    # -P keeps the current directory, where anybody may have put a trio.py, out of the search path.
    arguments = [str(theirs.fileno()), program.entry, program.warm_up, *program.search_path]
    command = [sys.executable, "-P", "-c", _BOOTSTRAP, *arguments]
    try:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and code; no text of a user's is in it
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            env=_environment(os.environ),
        )
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
    return ZygoteProcess(process, ours)


def _environment(ours: Mapping[str, str]) -> dict[str, str]:
    """Return what the interpreter and the C library need: environments hold secrets, and workers talk to strangers."""
    return {name: ours[name] for name in ours if name in _INHERITED or name.startswith(_INHERITED_PREFIXES)}

"""The fake worker in a zygote that cannot fork while a file is there, as when the kernel is out of processes.

A limit on processes would do the same, but not for root, whom the kernel does not hold to it (setrlimit(2)).
"""

from __future__ import annotations

import os
from pathlib import Path

from tests.process.fake_worker import run

__all__ = ["run"]

_fork = os.fork
_sign = Path(os.environ["TMPDIR"], "forkless")  # of what the test knows, a zygote inherits little else


def fork() -> int:
    if _sign.exists():
        number = int(_sign.read_text())  # an errno
        raise OSError(number, os.strerror(number))
    return _fork()


os.fork = fork

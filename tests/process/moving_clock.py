"""Move the wall clock of programs under test, and leave the monotonic ones alone, as an administrator or NTP does.

Python runs a module called `sitecustomize` at every start, so each process of the proxy loads ours from its PYTHONPATH.
It adds to the time of day what a file says; the file is mapped, so that a change is seen at once and costs nothing.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path

_SITE = """
import datetime, mmap, struct, time

with open({path!r}, "rb") as file:
    _memory = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
_time, _time_ns, _clock_gettime, _Datetime = time.time, time.time_ns, time.clock_gettime, datetime.datetime

def offset_s():
    return struct.unpack_from("q", _memory)[0]

class datetime_(_Datetime):
    @classmethod
    def now(cls, tz=None):
        return _Datetime.now(tz) + datetime.timedelta(seconds=offset_s())

time.time = lambda: _time() + offset_s()
time.time_ns = lambda: _time_ns() + offset_s() * 10**9
time.clock_gettime = lambda clock: _clock_gettime(clock) + offset_s() * (clock == time.CLOCK_REALTIME)
datetime.datetime = datetime_
"""


class MovingClock:
    """`env` is what the programs must be started with."""

    def __init__(self, folder: Path) -> None:
        path = folder / "offset"
        path.write_bytes(struct.pack("q", 0))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 0)
        (folder / "sitecustomize.py").write_text(_SITE.format(path=str(path)))
        self.env = {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)}

    def move(self, offset_s: int) -> None:
        """Set the clock so far from the true time."""
        struct.pack_into("q", self._memory, 0, offset_s)

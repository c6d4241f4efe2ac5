"""What simulated clients and servers share: streams to talk over, and HTTP by hand."""

from __future__ import annotations

import json
from typing import Any, Final

from tests.sim.kernel import IN, OUT, StreamEnd

Json = dict[str, Any]
READ_BYTES: Final = 65_536
HEAD_END: Final = b"\r\n\r\n"


class GoneError(Exception):
    """The connection has ended. `was_reset`: not in good order."""

    def __init__(self, *, was_reset: bool) -> None:
        super().__init__("reset" if was_reset else "ended")
        self.was_reset = was_reset


class Wire:
    """One end of a stream, held by somebody who is no process of ours. Errors of all methods: `GoneError`."""

    def __init__(self, end: StreamEnd) -> None:
        end.opened()
        self.end = end
        self.is_open = True
        self._buffer = bytearray()

    @property
    def has_ended(self) -> bool:
        """Nothing can be asked on it any more."""
        return not self.is_open or self.end.is_reset or self.end.incoming.has_ended

    async def send(self, data: bytes) -> None:
        while data:
            try:
                data = data[self.end.send(data) :]
            except BlockingIOError:
                await self.end.wait(OUT)
            except OSError:
                raise GoneError(was_reset=True) from None

    def close(self) -> None:
        if self.is_open:
            self.is_open = False
            self.end.closed_one()

    def reset(self) -> None:
        self.end.peer.reset()
        self.close()

    def end_output(self) -> None:
        try:
            self.end.end_output()
        except OSError:
            raise GoneError(was_reset=True) from None

    # --- reading -----------------------------------------------------------------------------------------------------
    async def until(self, mark: bytes) -> bytes:
        """Return everything up to and including the mark."""
        while (at := self._buffer.find(mark)) < 0:
            await self._more()
        return self._take(at + len(mark))

    async def exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            await self._more()
        return self._take(count)

    async def to_the_end(self) -> bytes:
        """Read until the other side has ended, whatever it says."""
        try:
            while True:
                await self._more()
        except GoneError:
            return self._take(len(self._buffer))

    async def _more(self) -> None:
        while True:
            try:
                data = self.end.receive(READ_BYTES)
            except BlockingIOError:
                await self.end.wait(IN)
                continue
            except OSError:
                raise GoneError(was_reset=True) from None
            if not data:
                raise GoneError(was_reset=False)
            self._buffer += data
            return

    def _take(self, count: int) -> bytes:
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken


def compact(message: object) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()


def parse_head(head: bytes) -> tuple[str, dict[str, str]]:
    """Return the first line, and the fields by their names in lower case."""
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    fields = (line.partition(":") for line in lines)
    return first, {name.lower(): value.strip() for name, _, value in fields}


def head(first: str, fields: dict[str, str]) -> bytes:
    return "\r\n".join([first, *(f"{name}: {value}" for name, value in fields.items()), "", ""]).encode("latin-1")


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)

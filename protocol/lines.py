"""Newline framing with a bound: one JSON-RPC message a line (specification: basic/transports, stdio)."""

from __future__ import annotations

from protocol.limits import LINE_BYTES_MAX


class LineTooLong(Exception):
    """A line exceeded the limit; the rest of it is being skipped."""


class LineDecoder:
    """Cuts a byte stream into lines, without their ends; blank lines are left out."""

    def __init__(self, line_bytes_max: int = LINE_BYTES_MAX) -> None:
        self._max = line_bytes_max
        self._parts: list[bytes] = []
        self._size = 0
        self._skipping = False

    @property
    def held(self) -> int | None:
        """How many bytes there are of a line that has not ended; None if it is too long, and its rest is skipped."""
        return None if self._skipping else self._size

    def skip(self) -> None:
        """Leave out what comes before the next end of a line."""
        self._skipping = True

    def feed(self, data: bytes) -> list[bytes | LineTooLong]:
        """Return the lines completed by `data`; in place of a line over the limit, `LineTooLong` once."""
        lines: list[bytes | LineTooLong] = []
        at = 0
        while (end := data.find(b"\n", at)) >= 0:
            self._add(data[at:end], lines)
            self._finish(lines)
            at = end + 1
        if at < len(data):
            self._add(data[at:] if at else data, lines)
        return lines

    def _add(self, piece: bytes, lines: list[bytes | LineTooLong]) -> None:
        if self._skipping:
            return
        self._size += len(piece)
        if self._size > self._max:
            self._skipping = True
            self._parts.clear()
            lines.append(LineTooLong(f"a line is longer than {self._max} bytes"))
        else:
            self._parts.append(piece)

    def _finish(self, lines: list[bytes | LineTooLong]) -> None:
        if not self._skipping:
            line = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
            line = line.removesuffix(b"\r")
            if line and not line.isspace():
                lines.append(line)
        self._parts.clear()
        self._size = 0
        self._skipping = False

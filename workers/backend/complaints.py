"""What a command writes to standard error: the last of it is kept, some of it is told. No I/O.

It is drained whatever it is, because a full pipe would stop the server; so everything here is cheap and bounded. The
values of its secrets are taken out before anything is shown, and so is what would colour a terminal or take it over.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from protocol.control import SAID_CHARS_MAX, SAID_LINES_MAX
from protocol.limits import KIB, STDERR_KEPT_BYTES, STDERR_LINES_PER_S

HIDDEN: Final = b"[redacted]"
LINE_BYTES_MAX: Final = 4 * KIB
"""A longer line is cut into pieces of this size."""
BURST_LINES: Final = SAID_LINES_MAX - 1  # and one that says how many more there were
_TAIL_LINES: Final = 10
"""Told when it has ended, also if more was told before than may be."""
_LAST_WORDS_CHARS: Final = 200
_TERMINAL: Final = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])")
"""Control sequences: colours, titles, links and the like (ECMA-48, sections 5.3 to 5.6)."""


class Complaints:
    """`secrets`: values that are not to be shown."""

    def __init__(self, secrets: Iterable[str]) -> None:
        # Longer ones first: one may be part of another.
        self._secrets = sorted((text.encode() for text in secrets if text), key=len, reverse=True)
        self._kept = b""
        self._partial = b""
        self._lines: list[str] = []
        self._left_out = 0
        self._allowed = float(BURST_LINES)
        self._filled_at = 0.0

    @property
    def kept(self) -> bytes:
        """The last of it, at most `STDERR_KEPT_BYTES`, as it was written: not to be shown as it is."""
        return self._kept

    def last_words(self) -> str:
        """Return the last line that says something, to be shown; "" if there is none."""
        for line in reversed(self._masked(self._kept)[-LINE_BYTES_MAX:].splitlines()):
            if line.strip():
                return _printable(line).strip()[:_LAST_WORDS_CHARS]
        return ""

    def feed(self, data: bytes, now: float) -> None:
        """Take what has come."""
        self._kept = (self._kept + data)[-STDERR_KEPT_BYTES:]
        self._refill(now)
        buffer = self._partial + data
        at = 0
        while self._allowed >= 1 and len(self._lines) < BURST_LINES:
            end = buffer.find(b"\n", at)
            if end < 0 or end - at > LINE_BYTES_MAX:
                if len(buffer) - at <= LINE_BYTES_MAX:
                    break
                end = at + LINE_BYTES_MAX
                next_at = end
            else:
                next_at = end + 1
            self._tell(buffer[at:end])
            at = next_at
        else:
            # No more may be told now: only count, which is as cheap as it can be.
            last = buffer.rfind(b"\n") + 1
            self._left_out += buffer.count(b"\n", at)
            at = max(at, last)
        self._partial = buffer[at:][-LINE_BYTES_MAX:]

    @property
    def has_more(self) -> bool:
        """There is something to `take`, now or soon."""
        return bool(self._lines or self._left_out)

    def take(self, now: float) -> list[str]:
        """Return the lines that may be told since the last time, at most `SAID_LINES_MAX`."""
        self._refill(now)
        lines, self._lines = self._lines, []
        if self._left_out and self._allowed >= 1:
            self._allowed -= 1
            lines.append(f"... {self._left_out} more lines")
            self._left_out = 0
        return lines

    def end(self) -> list[str]:
        """It has ended: return the last lines that have not been told, and begin anew."""
        lines = self._lines
        if self._left_out:
            lines = [self._shown(line) for line in self._kept.splitlines()[-_TAIL_LINES:] if line.strip()]
        elif self._partial.strip():
            lines.append(self._shown(self._partial))
        self._kept, self._partial, self._lines, self._left_out = b"", b"", [], 0
        return lines[-SAID_LINES_MAX:]

    def _refill(self, now: float) -> None:
        self._allowed = min(BURST_LINES, self._allowed + (now - self._filled_at) * STDERR_LINES_PER_S)
        self._filled_at = now

    def _tell(self, line: bytes) -> None:
        if line.strip():
            self._allowed -= 1
            self._lines.append(self._shown(line))

    def _shown(self, line: bytes) -> str:
        return _printable(self._masked(line)).rstrip()[:SAID_CHARS_MAX]

    def _masked(self, text: bytes) -> bytes:
        text = _TERMINAL.sub(b"", text)  # before that, because there may be one within a secret
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        return text


def _printable(line: bytes) -> str:
    """Return a line of text without anything that would not stay in its place when it is shown."""
    text = line.decode("utf-8", "replace")
    return text if text.isprintable() else "".join(char if char.isprintable() else " " for char in text)

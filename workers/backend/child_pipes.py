"""The ends of a child's pipes in the reactor: one that we write (its input), and those that we read."""

from __future__ import annotations

import os
import select
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from protocol.link import Payload
from workers.reactor import READ_BYTES, SEND_CHUNKS_MAX, Reactor, drop_sent

READS_AT_END_MAX: Final = 1024
"""A process that has ended may leave a full pipe behind, and one that it started may go on writing for ever."""


class Inlet:
    """The child's standard input."""

    def __init__(self, reactor: Reactor, fd: int, *, drained: Callable[[], None], broken: Callable[[], None]) -> None:
        self._reactor = reactor
        self._fd = fd
        self._drained = drained
        self._broken = broken
        self._chunks: deque[memoryview] = deque()
        self._watching = False
        self.stalled_since = 0.0
        """Reactor time at which it last took something, while `is_full`."""

    @property
    def is_full(self) -> bool:
        """What was written last is not all in the pipe yet; `drained` is called when it is."""
        return bool(self._chunks)

    def write(self, chunks: Sequence[Payload]) -> bool:
        """Write these in order, now as far as the pipe takes them. There must be nothing left of what was before.

        Return whether some of it may reach the child: not if it has closed its end.
        """
        if self._fd < 0:
            return False
        self._chunks.extend(map(memoryview, chunks))
        self.stalled_since = self._reactor.now
        return self._flush()

    def close(self) -> None:
        """Let the child see the end of its input. Idempotent."""
        if self._fd >= 0:
            if self._watching:
                self._reactor.forget(self._fd)
            os.close(self._fd)
            self._fd = -1
            self._chunks.clear()

    # --- called by the reactor ---------------------------------------------------------------------------------------
    def ready(self, mask: int) -> None:
        del mask  # writing tells also what is wrong
        if self._fd >= 0:
            self._flush()
            if self._fd >= 0 and not self._chunks:
                self._drained()

    def failed(self, error: Exception) -> None:
        del error
        self.close()
        self._broken()

    def _flush(self) -> bool:
        chunks = self._chunks
        has_sent = False
        try:
            while chunks:
                sent = os.writev(self._fd, [chunks[i] for i in range(min(len(chunks), SEND_CHUNKS_MAX))])
                self.stalled_since = self._reactor.now
                drop_sent(chunks, sent)
                has_sent = True
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:  # the child has closed it, or is gone, which will be told by its end
            self.close()
            self._reactor.defer(lambda _error: self._broken(), None)
            return has_sent
        if bool(chunks) != self._watching:
            self._watching = bool(chunks)
            if self._watching:
                self._reactor.watch(self._fd, self, select.EPOLLOUT)
            else:
                self._reactor.forget(self._fd)
        return True


class Outlet:
    """The child's standard output, or error."""

    def __init__(self, reactor: Reactor, fd: int, *, take: Callable[[bytes], None], ended: Callable[[], None]) -> None:
        self._reactor = reactor
        self._fd = fd
        self._take = take
        self._ended = ended
        self._is_paused = False
        reactor.watch(fd, self, select.EPOLLIN)

    def set_paused(self, *, is_paused: bool) -> None:
        """Leave what comes in the pipe, or take it again."""
        if self._fd >= 0 and is_paused != self._is_paused:
            self._is_paused = is_paused
            # epoll tells of the pipe's end whatever it is asked to watch, and would tell it again and again.
            (self._reactor.unwatch if is_paused else self._rewatch)(self._fd)

    def read_rest(self) -> None:
        """Take what is in the pipe now; the child has ended."""
        for _ in range(READS_AT_END_MAX):
            if not self._read():
                return

    def close(self) -> None:
        """Read no more. Idempotent."""
        if self._fd >= 0:
            self._reactor.forget(self._fd)
            os.close(self._fd)
            self._fd = -1

    # --- called by the reactor ---------------------------------------------------------------------------------------
    def ready(self, mask: int) -> None:
        del mask  # reading tells also of the end
        if not self._is_paused:
            self._read()

    def failed(self, error: Exception) -> None:
        del error
        self.close()
        self._ended()

    def _rewatch(self, fd: int) -> None:
        self._reactor.rewatch(fd, select.EPOLLIN)

    def _read(self) -> bool:
        """Read once; return whether anything came."""
        if self._fd < 0:
            return False
        data = b""
        try:
            data = os.read(self._fd, READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            pass
        if data:
            self._take(data)
            return True
        self.close()
        self._ended()
        return False

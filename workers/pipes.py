"""A byte stream over two file descriptors that need not be sockets: standard input and output."""

from __future__ import annotations

import contextlib
import os
import select
import stat
from collections import deque
from collections.abc import Sequence
from typing import Final

import trio

from protocol.limits import STREAM_BUFFER_HIGH_BYTES, STREAM_BUFFER_LOW_BYTES
from protocol.link import Payload
from workers.reactor import READ_BYTES, SEND_CHUNKS_MAX, Reactor, drop_sent
from workers.transport import StreamHandler

_GONE: Final = select.EPOLLHUP | select.EPOLLERR


def open_own(fd: int, flags: int) -> int:
    """Return a non-blocking descriptor for the same pipe or terminal, closing `fd`.

    O_NONBLOCK belongs to the open file, which is shared with whoever else holds it: a terminal left non-blocking breaks
    the shell after us. Opening it anew through /proc gives an open file of our own. Sockets cannot be opened that way;
    their other holders, if any, do not mind.
    """
    try:
        own = os.open(f"/proc/self/fd/{fd}", flags | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        os.set_blocking(fd, False)
        return fd
    os.close(fd)
    return own


class _Reader:
    def __init__(self, pipes: PipeStream) -> None:
        self.ready = pipes.read_ready
        self.failed = pipes.failed


class _Writer:
    def __init__(self, pipes: PipeStream) -> None:
        self.ready = pipes.write_ready
        self.failed = pipes.failed


class PipeStream:
    """A `workers.transport.Stream` that reads one descriptor and writes another; owns both."""

    def __init__(self, reactor: Reactor, read_fd: int, write_fd: int, handler: StreamHandler) -> None:
        self._reactor = reactor
        regular = stat.S_ISREG(os.fstat(read_fd).st_mode)
        self._read_fd = open_own(read_fd, os.O_RDONLY) if not regular else read_fd
        self._write_fd = open_own(write_fd, os.O_WRONLY) if not stat.S_ISREG(os.fstat(write_fd).st_mode) else write_fd
        self._write_regular = stat.S_ISREG(os.fstat(self._write_fd).st_mode)
        self._chunks: deque[memoryview] = deque()
        self._watching_write = False
        self._reading = True
        self._watching_read = False
        self._eof = False
        self._above_high = False
        self._closing = False
        self._closed = False
        self._wanted = trio.Event()
        """Somebody wants to go on reading what cannot be polled."""
        self.handler = handler
        self.into: memoryview | None = None
        self.buffered = 0
        self.stalled_since = 0.0
        try:
            self._watch_read()
            self._pollable = True
        except PermissionError:  # epoll refuses what is always readable anyway: regular files and /dev/null
            self._pollable = False
            reactor.start_soon(self._read_unpollable)

    def write(self, data: Payload) -> None:
        self.writelines((data,))

    def writelines(self, chunks: Sequence[Payload]) -> None:
        if self._closed or self._closing:
            return
        for chunk in chunks:
            if chunk:
                self._chunks.append(memoryview(chunk))
                self.buffered += len(chunk)
        if not self._watching_write:
            self.stalled_since = self._reactor.now
            self._flush()
        if self.buffered > STREAM_BUFFER_HIGH_BYTES:
            self._above_high = True

    def pause_reading(self) -> None:
        self._reading = False
        if self._watching_read:
            self._reactor.forget(self._read_fd)
            self._watching_read = False

    def resume_reading(self) -> None:
        if self._reading or self._eof or self._closing:
            return
        self._reading = True
        if self._pollable:
            self._watch_read()
        else:
            self._wanted.set()
            self._wanted = trio.Event()

    def close(self) -> None:
        self._stop_reading()
        if not self._chunks:
            self._reactor.defer(self._close_now, None)

    def abort(self) -> None:
        self._stop_reading()
        self._reactor.defer(self._close_now, None)

    # --- called by the reactor ------------------------------------------------------------------------------
    def read_ready(self, mask: int) -> None:
        del mask  # also on HUP there may be bytes left; read() tells
        if self._closed or self._closing:
            return
        try:
            data = os.read(self._read_fd, READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:  # a terminal that is gone says EIO
            data = b""
        if data:
            self.handler.data_received(data)
        elif not self._eof:
            self._eof = True
            self.pause_reading()
            self.handler.eof_received()

    def write_ready(self, mask: int) -> None:
        if mask & _GONE and not mask & select.EPOLLOUT:
            self._close_now(BrokenPipeError("standard output is closed"))
        else:
            self._flush()

    def failed(self, error: Exception) -> None:
        self._close_now(OSError(0, f"internal error: {type(error).__name__}"))

    def _flush(self) -> None:
        chunks = self._chunks
        try:
            while chunks:
                sent = os.writev(self._write_fd, [chunks[i] for i in range(min(len(chunks), SEND_CHUNKS_MAX))])
                self.buffered -= sent
                self.stalled_since = self._reactor.now
                drop_sent(chunks, sent)
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            self._stop_reading()
            self._reactor.defer(self._close_now, error)
            return
        self._after_flush()

    def _after_flush(self) -> None:
        if not self._chunks and self._closing:
            self._reactor.defer(self._close_now, None)
            return
        wanted = bool(self._chunks) and not self._write_regular
        if wanted != self._watching_write:
            self._watching_write = wanted
            if wanted:
                self._reactor.watch(self._write_fd, _Writer(self), select.EPOLLOUT)
            else:
                self._reactor.forget(self._write_fd)
        if self._above_high and self.buffered < STREAM_BUFFER_LOW_BYTES:
            self._above_high = False
            self.handler.buffer_drained()

    def _close_now(self, error: OSError | None) -> None:
        if self._closed:
            return
        self._closed = True
        self._chunks.clear()
        self.buffered = 0
        self._stop_reading()
        if self._watching_write:
            self._reactor.forget(self._write_fd)
        for fd in (self._read_fd, self._write_fd):
            with contextlib.suppress(OSError):
                os.close(fd)
        self.handler.stream_closed(error)

    def _watch_read(self) -> None:
        self._reactor.watch(self._read_fd, _Reader(self), select.EPOLLIN)
        self._watching_read = True

    def _stop_reading(self) -> None:
        """For good."""
        self.pause_reading()
        self._closing = True
        self._wanted.set()

    async def _read_unpollable(self) -> None:
        while not self._eof and not self._closing:
            if not self._reading:
                await self._wanted.wait()
                continue
            try:
                self.read_ready(0)
            except Exception as error:
                self.failed(error)
                raise
            await trio.lowlevel.checkpoint()

"""The loop under every worker: one trio task, an inner epoll, ready sockets served as plain callbacks in batches.

One trio wake-up serves up to `AWAY_EVENTS_MAX` ready sockets, which is what makes a small HTTP exchange cost some
twenty microseconds here instead of a millisecond with a task per connection (docs/decisions/0002-reactor.md).

Rule 1: callbacks never block and never wait.
Rule 2: a callback that raises loses its own stream only; the loop logs it and goes on.
Rule 3: the loop stays away from trio, which costs as much as a whole call, only while nobody else wants to run and
events follow one another closely, and then for `AWAY_EVENTS_MAX` events or `AWAY_MAX_S` at most.
Rule 4: deadlines are attributes that sweeps (`every`) compare with `now`; no timer is armed per call.
"""

from __future__ import annotations

import contextlib
import errno
import math
import mmap
import os
import select
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

import trio

from protocol.counts import Counts, nowhere
from protocol.limits import STREAM_BUFFER_HIGH_BYTES, STREAM_BUFFER_LOW_BYTES
from protocol.link import Payload
from workers.machine import LinuxMachine, Machine
from workers.out_of_memory import leave_if_out_of_memory
from workers.transport import StreamHandler

BATCH_EVENTS_MAX: Final = 32
"""Ready sockets that are served before what came of them is sent on. With more, the process that it goes to would still
wait when it could work, and all of them would take turns on one processor."""
AWAY_EVENTS_MAX: Final = 256
READ_BYTES: Final = 64 * 1024
LINGER_S: Final = 0.001
"""How long the loop waits for the next event without trio, if the last one came as soon; the kernel counts whole ms."""
AWAY_MAX_S: Final = 0.005
"""How long tasks of trio's that wait for the world (a socket, a deadline) may have to wait for the loop."""
ACCEPT_BURST_MAX: Final = 64
SEND_CHUNKS_MAX: Final = 64
ACCEPT_PAUSE_S: Final = 0.1  # trio.serve_listeners pauses as long when file descriptors run out
_IN: Final = select.EPOLLIN
_OUT: Final = select.EPOLLOUT
_GONE: Final = select.EPOLLHUP | select.EPOLLERR

ACCEPT_PEER_ERRNOS: Final = frozenset(
    {
        errno.ECONNABORTED, errno.EPERM, errno.EPROTO, errno.ENETDOWN, errno.ENOPROTOOPT, errno.EHOSTDOWN, errno.ENONET,
        errno.EHOSTUNREACH, errno.EOPNOTSUPP, errno.ENETUNREACH,
    }
)  # fmt: skip
"""accept() failed because of that one peer or a firewall rule (accept(2), "Error handling"): go on with the next."""


class Log(Protocol):
    """Where the reactor reports what a callback did wrong."""

    def error(self, event: str, **fields: object) -> object: ...


class Source(Protocol):
    """What the loop serves: something with a descriptor."""

    def ready(self, mask: int) -> None: ...

    def failed(self, error: Exception) -> None: ...


def drop_sent(chunks: deque[memoryview], sent: int) -> None:
    """Take `sent` bytes away from the front of what is to be written."""
    while chunks and sent >= len(chunks[0]):
        sent -= len(chunks.popleft())
    if sent:
        chunks[0] = chunks[0][sent:]


class SocketStream:
    """A `workers.transport.Stream` on a non-blocking socket."""

    __slots__ = (
        "_above_high", "_chunks", "_closed", "_closing", "_eof", "_fd", "_finishing", "_high", "_hung_up", "_low",
        "_mask", "_reactor", "_reading", "_sock", "_takes", "buffered", "handler", "into", "refused_write",
        "stalled_since",
    )  # fmt: skip

    def __init__(self, reactor: Reactor, sock: socket.socket, handler: StreamHandler) -> None:
        self._reactor = reactor
        self._sock = sock
        self._fd = sock.fileno()
        self._chunks: deque[memoryview] = deque()
        self._reading = True
        self._mask = _IN
        self._above_high = False
        self._high = STREAM_BUFFER_HIGH_BYTES
        self._low = STREAM_BUFFER_LOW_BYTES
        self._takes = True
        """What is written is sent: nobody has said `finish`, `close` or `abort`, and the socket works."""
        self._finishing = False
        self._closing = False
        self._closed = False
        self._eof = False
        self._hung_up = False
        self.handler = handler
        self.into: memoryview | None = None
        self.buffered = 0
        self.stalled_since = 0.0
        self.refused_write = False
        """The last `write` failed before a byte of it was sent."""

    # --- what handlers call ---------------------------------------------------------------------------------
    def write(self, data: Payload) -> None:
        if not self._takes:
            return
        if self._chunks:
            self._buffer((data,), 0)
            return
        try:
            sent = self._sock.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            # Told later, from the loop: the caller is in the middle of its own work on this stream.
            self._break_soon(error)
            return
        if sent != len(data):
            self._buffer((data,), sent)

    def writelines(self, chunks: Sequence[Payload]) -> None:
        if not self._takes:
            return
        sent = 0
        if not self._chunks:
            try:
                sent = self._sock.sendmsg(chunks)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as error:
                self._break_soon(error)
                return
        self._buffer(chunks, sent)

    def _buffer(self, chunks: Sequence[Payload], sent: int) -> None:
        """Keep what is left of `chunks`, of which the kernel has taken `sent` bytes, until it takes more."""
        if not self._chunks:
            self.stalled_since = self._reactor.now
        for chunk in chunks:
            size = len(chunk)
            if sent >= size:
                sent -= size
                continue
            rest = memoryview(chunk)[sent:] if sent else memoryview(chunk)
            sent = 0
            self._chunks.append(rest)
            self.buffered += len(rest)
        if self.buffered > self._high:
            self._above_high = True
        self._watch()

    def tell_when_empty(self) -> None:
        self._high, self._low = 0, 1

    def pause_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._watch()

    def resume_reading(self) -> None:
        if not self._reading and not self._eof:
            self._reading = True
            if self._hung_up and not self._closed:
                self._hung_up = False
                self._mask = _IN
                self._reactor.rewatch(self._fd, _IN)
            else:
                self._watch()

    def finish(self) -> None:
        """Write what is buffered, then end our direction. Whoever calls this reads on until the peer ends its own.

        Closing while the peer still sends would make the kernel reset the connection, and a reset may destroy what was
        written last before the peer has read it (RFC 9112, 9.6).
        """
        self._takes = False
        self._finishing = True
        if not self._chunks:
            self._end_output()

    def close(self) -> None:
        if self._closed or self._closing:
            return
        self._takes = False
        self._closing = True
        if self._chunks and not self._hung_up:
            self._watch()
        else:
            self._reactor.defer(self._close_now, None)

    def abort(self) -> None:
        if not self._closed:
            self._takes = False
            self._closing = True
            self._chunks.clear()
            self.buffered = 0
            self._reactor.defer(self._close_now, None)

    @property
    def socket(self) -> socket.socket:
        return self._sock

    def unsent(self) -> bytes:
        """Return what has been written and not been taken by the kernel yet."""
        return b"".join(self._chunks)

    def let_go(self) -> None:
        """Close this descriptor of the socket, of which somebody else has another. The handler is told nothing more."""
        self._takes = False
        self._closed = self._closing = True
        self._chunks.clear()
        self.buffered = 0
        self._reactor.forget(self._fd)
        self._sock.close()

    # --- what the loop calls --------------------------------------------------------------------------------
    def ready(self, mask: int) -> None:
        if mask != _IN:
            if self._chunks and mask & ~_IN:
                self._flush()
            if mask & _GONE and not self._closed:
                self._gone(mask)
                return
            if not mask & _IN:
                return
        if not self._reading or self._closing:  # either may have changed earlier in this batch
            return
        if self.into is not None:
            self._fill(self.into)
            return
        try:
            data = self._sock.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._close_now(error)
            return
        # Outside of the try: an OSError of the handler is the handler's fault and says nothing about this stream.
        if data:
            self.handler.data_received(data)
        else:
            self._ended()

    def _fill(self, into: memoryview) -> None:
        try:
            count = self._sock.recv_into(into)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._close_now(error)
            return
        if count:
            self.handler.into_filled(count)
        else:
            self._ended()

    def _ended(self) -> None:
        """The peer has ended its direction."""
        if not self._eof:
            self._eof = True
            self._reading = False
            self._watch()
            self.handler.eof_received()

    def _gone(self, mask: int) -> None:
        """Both directions have ended. epoll says so whatever it is asked to watch, and would say so for ever."""
        if self._reading and not self._closing:
            self.ready(_IN)  # what the peer sent before it closed or died is still to be had; the end comes after it
        elif mask & select.EPOLLERR:
            number = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            self._close_now(OSError(number, os.strerror(number)))
        elif self._eof or self._closing:
            self._close_now(None)
        else:
            self._hung_up = True  # read the rest when somebody wants it; until then epoll must not know this socket
            self._reactor.unwatch(self._fd)

    def failed(self, error: Exception) -> None:
        self._close_now(OSError(errno.ECONNABORTED, f"internal error: {type(error).__name__}"))

    def _flush(self) -> None:
        chunks = self._chunks
        try:
            while chunks:
                sent = self._sock.sendmsg([chunks[i] for i in range(min(len(chunks), SEND_CHUNKS_MAX))])
                self.buffered -= sent
                self.stalled_since = self._reactor.now
                drop_sent(chunks, sent)
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            self._close_now(error)
            return
        if not chunks and self._closing:
            self._close_now(None)
            return
        self._watch()
        if not chunks and self._finishing:
            self._end_output()
        if self._above_high and self.buffered < self._low:
            self._above_high = False
            self.handler.buffer_drained()

    def _watch(self) -> None:
        if self._closed:
            return
        mask = (_IN if self._reading and not self._eof and not self._closing else 0) | (_OUT if self._chunks else 0)
        if mask != self._mask and not self._hung_up:
            self._mask = mask
            self._reactor.modify(self._fd, mask)

    def _end_output(self) -> None:
        with contextlib.suppress(OSError):  # the peer has reset the connection; reading will tell
            self._sock.shutdown(socket.SHUT_WR)

    def _break_soon(self, error: OSError) -> None:
        self.refused_write = True
        self._takes = False
        self._closing = True
        self._chunks.clear()
        self.buffered = 0
        self._reactor.defer(self._close_now, error)

    def _close_now(self, error: OSError | None) -> None:
        if self._closed:
            return
        self._takes = False
        self._closed = self._closing = True
        self._chunks.clear()
        self.buffered = 0
        self._reactor.forget(self._fd)
        self._sock.close()
        self.handler.stream_closed(error)


class Listener:
    """A listening socket whose connections are handed on; the socket itself is never closed here."""

    def __init__(
        self,
        reactor: Reactor,
        sock: socket.socket,
        accepted: Callable[[socket.socket], None],
        holds_back: Callable[[], float] | None = None,
    ) -> None:
        """`holds_back`: asked before each connection; for so long others may accept it first. Without it, all that wait
        are accepted in a row."""
        self._reactor = reactor
        self._sock = sock
        self._accepted = accepted
        self._holds_back = holds_back
        self._open = True
        self._paused = False

    def ready(self, mask: int) -> None:
        del mask
        if self._holds_back is None:
            for _ in range(ACCEPT_BURST_MAX):
                if self._paused or not self._open or not self._accept():
                    return
        elif pause_s := self._holds_back():
            self._pause_for(pause_s)
        else:
            self._accept()

    def _accept(self) -> bool:
        """Accept a connection; return whether there may be another."""
        try:
            sock, _ = self._sock.accept()
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            if error.errno not in ACCEPT_PEER_ERRNOS:
                # Out of descriptors or memory: the connection stays queued, and asking again at once only burns CPU.
                self._pause_for(ACCEPT_PAUSE_S)
            return True
        sock.setblocking(False)
        self._accepted(sock)
        return True

    def failed(self, error: Exception) -> None:
        """A connection could not be set up; the listener goes on."""

    def pause(self) -> None:
        if self._open and not self._paused:
            self._paused = True
            self._reactor.modify(self._sock.fileno(), 0)

    def resume(self) -> None:
        if self._open and self._paused:
            self._paused = False
            self._reactor.modify(self._sock.fileno(), _IN)

    def close(self) -> None:
        """Stop accepting. The socket stays open: it belongs to the root."""
        if self._open:
            self._open = False
            self._reactor.forget(self._sock.fileno())

    def _pause_for(self, seconds: float) -> None:
        self.pause()
        self._reactor.start_soon(self._resume_later, seconds)

    async def _resume_later(self, seconds: float) -> None:
        await trio.sleep(seconds)
        if self._open:
            self.resume()
            self._accept()


Due = float | bool | None
"""What a sweep says of its next turn (`Reactor.every`)."""


class Sweep:
    """A callback at intervals, as long as it has something to watch."""

    __slots__ = ("_is_resting", "awake", "ended")

    def __init__(self) -> None:
        self.awake = trio.Event()
        self.awake.set()
        self._is_resting = False
        self.ended = False

    def wake(self) -> None:
        """There is something to watch (again). Costs nothing if it is awake."""
        if self._is_resting:
            self._is_resting = False
            self.awake.set()

    def rest(self) -> None:
        if not self.ended:
            self.awake = trio.Event()
            self._is_resting = True

    def end(self) -> None:
        """Call back no more; its task leaves."""
        self.ended = True
        self.awake.set()


class _Runnable(trio.abc.Instrument):
    """Knows which tasks of trio's have something to do and have not had their turn yet."""

    def __init__(self) -> None:
        self.tasks: set[trio.lowlevel.Task] = set()

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        self.tasks.add(task)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.tasks.discard(task)


class Reactor:
    """The loop. Create it inside `trio.run`, call `run` in a nursery."""

    def __init__(self, log: Log, machine: Machine | None = None, counts: Counts | None = None) -> None:
        """`counts`: where what happens in this process is counted (protocol/counts.py), if anybody looks."""
        self._log = log
        self.machine = machine or LinuxMachine()
        self.counts = counts or nowhere()
        self._poll = self.machine.new_poll()
        self._sources: dict[int, Source] = {}
        self._at_end: list[Callable[[], None]] = []
        self._on_batch: Callable[[], None] | None = None
        self._deferred: deque[tuple[Callable[[OSError | None], None], OSError | None]] = deque()
        self._in_batch = False
        self._nursery: trio.Nursery | None = None
        self._waiting: list[tuple[Callable[..., Awaitable[object]], tuple[object, ...]]] = []
        self.now = trio.current_time()
        self._idle_since = 0.0
        self._runnable = _Runnable()
        self.scratch = memoryview(mmap.mmap(-1, READ_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        """Where streams receive what they hand on as a copy."""

    async def run(self) -> None:
        """Serve until cancelled."""
        poll_fd = self._poll.fileno()
        wait_readable = self.machine.wait_readable
        trio.lowlevel.add_instrument(self._runnable)
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                for async_fn, args in self._waiting:
                    nursery.start_soon(self._guarded, async_fn, args)
                self._waiting.clear()
                while True:
                    await wait_readable(poll_fd)
                    self._serve()
        finally:
            trio.lowlevel.remove_instrument(self._runnable)
            self._nursery = None
            self._poll.close()

    def add_stream(self, sock: socket.socket, handler: StreamHandler) -> SocketStream:
        """Serve a connected non-blocking socket; the stream owns it from now on."""
        sock.setblocking(False)
        stream = SocketStream(self, sock, handler)
        self.watch(sock.fileno(), stream, _IN)
        return stream

    def add_listener(
        self,
        sock: socket.socket,
        accepted: Callable[[socket.socket], None],
        holds_back: Callable[[], float] | None = None,
    ) -> Listener:
        """Accept connections and hand each to `accepted`. `holds_back`: as `Listener` has it."""
        sock.setblocking(False)
        listener = Listener(self, sock, accepted, holds_back)
        self.watch(sock.fileno(), listener, _IN)
        return listener

    def start_soon(self, async_fn: Callable[..., Awaitable[object]], *args: object) -> None:
        """Run an ordinary trio task. What it raises is logged and ends only itself."""
        if self._nursery is None:
            self._waiting.append((async_fn, args))
            return
        # Others of this process may still be unwinding when the loop has just ended; then there is nothing to start.
        with contextlib.suppress(RuntimeError):
            self._nursery.start_soon(self._guarded, async_fn, args)

    def every(self, interval_s: float, callback: Callable[[], Due]) -> Sweep:
        """Call back at about this interval: the sweep behind deadlines.

        A callback that returns a time (as of `now`) has nothing to do before it, and one that returns False has nothing
        left to watch: it is not called again until then, or until `Sweep.wake`, so that an idle process stays asleep.
        """
        sweep = Sweep()
        self.start_soon(self._sweep, interval_s, callback, sweep)
        return sweep

    def at_next_batch(self, callback: Callable[[], None]) -> None:
        """Call once as soon as a descriptor is ready. There is one such callback: another takes its place."""
        self._on_batch = callback

    def at_batch_end(self, flush: Callable[[], None]) -> None:
        """Call once when the current batch has been served; at once if there is none."""
        if self._in_batch:
            self._at_end.append(flush)
        else:
            flush()

    # --- for streams and listeners --------------------------------------------------------------------------
    def watch(self, fd: int, source: Source, mask: int) -> None:
        """Serve readiness of a descriptor.

        Errors: `PermissionError` for what cannot be polled, such as a regular file.
        """
        self._poll.register(fd, mask)
        self._sources[fd] = source

    def modify(self, fd: int, mask: int) -> None:
        self._poll.modify(fd, mask)

    def unwatch(self, fd: int) -> None:
        self._poll.unregister(fd)

    def rewatch(self, fd: int, mask: int) -> None:
        self._poll.register(fd, mask)

    def forget(self, fd: int) -> None:
        if self._sources.pop(fd, None) is not None:
            with contextlib.suppress(FileNotFoundError):  # unwatched already
                self._poll.unregister(fd)

    def defer(self, callback: Callable[[OSError | None], None], error: OSError | None) -> None:
        """Call back when the caller's stack has unwound, so that nobody is told of a close inside its own write."""
        self._deferred.append((callback, error))
        if not self._in_batch and len(self._deferred) == 1:
            self.start_soon(self._run_deferred_soon)

    async def _run_deferred_soon(self) -> None:
        self._run_deferred()
        await trio.lowlevel.checkpoint()

    def _run_deferred(self) -> None:
        while self._deferred:
            callback, error = self._deferred.popleft()
            try:
                callback(error)
            except Exception as raised:  # noqa: BLE001 - Rule 2
                self._report(raised)

    def _serve(self) -> None:
        """Serve what is ready, batch by batch, and return when trio's other tasks should have their turn."""
        room = AWAY_EVENTS_MAX
        events = self._poll.poll(0, BATCH_EVENTS_MAX)
        begun = trio.current_time()
        while events:
            self._serve_batch(events)
            room -= len(events)
            brisk = self.now - self._idle_since < LINGER_S
            self._idle_since = trio.current_time()
            if self._runnable.tasks or not brisk or room <= 0 or self._idle_since - begun > AWAY_MAX_S:
                return
            events = self._poll.poll(LINGER_S, min(room, BATCH_EVENTS_MAX))

    def _serve_batch(self, events: list[tuple[int, int]]) -> None:
        sources = self._sources
        self.now = trio.current_time()
        self._in_batch = True
        if self._on_batch is not None:
            on_batch, self._on_batch = self._on_batch, None
            on_batch()
        for fd, mask in events:
            source = sources.get(fd)
            if source is None:
                continue
            try:
                source.ready(mask)
            except Exception as error:  # noqa: BLE001 - Rule 2
                self._fail(source, error)
        self._end_batch()

    def _end_batch(self) -> None:
        while self._at_end or self._deferred:
            flushes, self._at_end = self._at_end, []
            for flush in flushes:
                try:
                    flush()
                except Exception as raised:  # noqa: BLE001 - Rule 2
                    self._report(raised)
            self._run_deferred()
        self._in_batch = False

    def _fail(self, source: Source, error: Exception) -> None:
        self._report(error)
        try:
            source.failed(error)
        except Exception as another:  # noqa: BLE001 - Rule 2, also for those who are told that their stream is gone
            self._report(another)

    async def _guarded(self, async_fn: Callable[..., Awaitable[object]], args: tuple[object, ...]) -> None:
        try:
            await async_fn(*args)
        except Exception as error:  # noqa: BLE001 - Rule 2, for tasks
            self._report(error)

    async def _sweep(self, interval_s: float, callback: Callable[[], Due], sweep: Sweep) -> None:
        due: Due = None
        while True:
            with trio.move_on_at(math.inf if isinstance(due, bool) or due is None else due):
                await sweep.awake.wait()
            if sweep.ended:
                return
            await trio.sleep(interval_s)
            self.now = trio.current_time()
            self._in_batch = True
            due = None
            try:
                due = callback()
                if due is False or isinstance(due, float):
                    sweep.rest()
            except Exception as error:  # noqa: BLE001 - Rule 2
                self._report(error)
            self._end_batch()

    def _report(self, error: Exception) -> None:
        leave_if_out_of_memory(error)
        self._log.error("a callback failed", error=type(error).__name__, detail=str(error), exc_info=error)

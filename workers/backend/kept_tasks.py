"""Calls that take longer than their clients wait: kept here as tasks of ours, for servers that have none (SEP-2663).

Rule 1: a call is kept from the moment its client has been given a handle. Then no front knows of it any more, so that
it goes on whatever happens to fronts and clients. It ends with this worker, which is what its clients are told then.
Rule 2: a result is kept until it has been fetched, and a little longer, as the answer may be lost; at most `KEPT_S`.
Rule 3: all is bounded: tasks, those whose call still runs, bytes. Where there is no room for a task, the call stays
what it is; where there is none for a result, those that have been fetched make room, else the task fails and says why.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Final

import msgspec

from protocol import bridge, link, tasks
from protocol.errors import INTERNAL_ERROR, INVALID_PARAMS, OUTCOME_UNKNOWN, OVERLOADED
from protocol.input_required import result_of
from protocol.jsonrpc import Object, Raw, RpcError, decode_object
from protocol.limits import KEPT_BYTES_MAX, KEPT_FETCHED_S, KEPT_POLL_S, KEPT_RUNNING_MAX, KEPT_S, KEPT_TASKS_MAX, MIB
from protocol.link import Header, Payload
from protocol.versions import Era
from workers.backend.faults import Faults
from workers.backend.interactions import Ending
from workers.reactor import Reactor

if TYPE_CHECKING:
    from workers.backend.calls import BackendCall
    from workers.backend.front_link import FrontLink

_NUMBER_BITS: Final = 62
_MESSAGE_CHARACTERS_MAX: Final = 1000
_PROGRESS: Final = "notifications/progress"


class KeptTask:
    """One call, or what it has come to (`workers.backend.interactions.Front` of that call)."""

    def __init__(self, owner: KeptTasks, task_id: str, call: BackendCall, now: float) -> None:
        self.id = task_id
        self.created_at = now
        """Reactor time, as all times here."""
        self.expires_at = now + KEPT_S
        self.was_fetched = False
        self.held_bytes = 0
        self._owner = owner
        self._call: BackendCall | None = call
        self._is_cancelling = False
        self._updated_at = now
        self._status = "working"
        self._message = ""
        self._outcome: Object = {}

    @property
    def call(self) -> BackendCall | None:
        """None once it has ended."""
        return self._call

    def view(self, kind: str) -> bytes:
        """Return the task as it is now. `kind`: its `resultType`; "" for a notification."""
        owner, status, more = self._owner, self._status, self._outcome
        talk = self._call.talk if self._call is not None else None
        if talk is not None and talk.is_waiting:
            asked = decode_object(result_of(talk.questions()))
            status, more = "input_required", {"inputRequests": asked["inputRequests"]}
        said: dict[str, object] = {"resultType": kind} if kind else {}
        said |= {"taskId": self.id, "status": status}
        said |= {"statusMessage": self._message} if self._message else {}
        said |= {
            "createdAt": owner.wall(self.created_at),
            "lastUpdatedAt": owner.wall(self._updated_at),
            "ttlMs": int((self.expires_at - self.created_at) * 1000),
            "pollIntervalMs": int(KEPT_POLL_S * 1000),
        }
        return msgspec.json.encode(said | more)

    @property
    def is_final(self) -> bool:
        return self._status in tasks.FINAL

    def cancel(self) -> None:
        """Cancel the call at the server, unless it has ended."""
        if self._call is not None:
            self._is_cancelling = True
            self._call.cancel("cancelled by the client")

    def take_answers(self, given: Object) -> None:
        """The client has answered questions; what it left out is still asked."""
        if self._call is not None and self._call.talk is not None:
            self._call.talk.take_answers(given)
            self.asked()

    def asked(self) -> None:
        """The server has asked the client something, or takes it back."""
        self._changed()

    def lose_result(self) -> None:
        """There is no room for what the call has come to."""
        text = (
            f"the call was carried out, but its result of {self.held_bytes} bytes could not be kept: results of other "
            f"tasks that nobody has fetched take up {KEPT_BYTES_MAX // MIB} MiB"
        )
        self.held_bytes = 0
        self._fail(OVERLOADED, text)

    # --- workers.backend.interactions.Front --------------------------------------------------------------------------
    @property
    def is_congested(self) -> bool:
        return False

    def send(self, header: Header, payload: Payload = b"") -> None:
        """Take note of what is said before the end. Only the words of progress have a place in a task."""
        if isinstance(header, link.Event) and header.method == _PROGRESS:
            words = tasks.text_member(decode_object(payload), "message")
            if words:
                self._message = words[:_MESSAGE_CHARACTERS_MAX]
                self._changed()
        elif isinstance(header, (link.Ask, link.Unask)):
            self.asked()

    def finish(self, call: BackendCall, header: Ending, payload: Payload) -> None:
        call.over(header)
        self._call = None
        if isinstance(header, link.Result):
            self._complete(header, bytes(payload))
        elif isinstance(header, link.Fault):
            self._end_with(header, bytes(payload))
        else:
            self._fail(INTERNAL_ERROR, "the server has made a task of a call that was one already")
        self._owner.ended(self)

    def part(self, call: BackendCall, header: Ending, payload: Payload) -> None:
        raise AssertionError("a task of ours has nobody to part from")

    # --- how it ends -------------------------------------------------------------------------------------------------
    def _complete(self, header: link.Result, result: bytes) -> None:
        try:
            if header.era is Era.LEGACY:
                result = bridge.result_to_modern(result, cacheable=False, server_info=b"")
            self._end("completed", {"result": Raw(result)})
        except RpcError as error:
            self._fail(error.code, error.message)

    def _end_with(self, header: link.Fault, error: bytes) -> None:
        if self._is_cancelling:
            self._end("cancelled", {})
        elif error:
            self._end("failed", {"error": Raw(bridge.error_to_modern(error) if header.era is Era.LEGACY else error)})
        else:
            self._fail(header.code, header.message)

    def _fail(self, code: int, message: str) -> None:
        self._message = message[:_MESSAGE_CHARACTERS_MAX]
        self._end("failed", {"error": Raw(msgspec.json.encode({"code": code, "message": message}))})

    def _end(self, status: str, outcome: Object) -> None:
        self._status, self._outcome = status, outcome
        self.held_bytes = sum(map(len, outcome.values()))
        self._changed()

    def _changed(self) -> None:
        self._updated_at = self._owner.now
        self._owner.changed(self)


class KeptTasks:
    """All such tasks of one worker.

    `after_s`: how long a call may take before it is kept; 0: none is. `told` gets each task when it has changed, by its
    id.
    """

    def __init__(
        self,
        reactor: Reactor,
        faults: Faults,
        after_s: float,
        *,
        told: Callable[[str, bytes], None],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._reactor = reactor
        self._faults = faults
        self._after_s = after_s
        self._told = told
        self._wall_clock = wall_clock
        self._random: Random = reactor.machine.random
        self._life = f"{self._random.getrandbits(_NUMBER_BITS):x}"
        self._tasks: dict[str, KeptTask] = {}
        """Oldest first."""

    @property
    def is_on(self) -> bool:
        return self._after_s > 0

    @property
    def now(self) -> float:
        return self._reactor.now

    @property
    def running(self) -> int:
        return sum(task.call is not None for task in self._tasks.values())

    def calls(self) -> list[BackendCall]:
        """Return those that are under way, oldest first."""
        return [task.call for task in self._tasks.values() if task.call is not None]

    @property
    def held_bytes(self) -> int:
        return sum(task.held_bytes for task in self._tasks.values())

    # --- from call to task -------------------------------------------------------------------------------------------
    def take_from(self, front: FrontLink) -> None:
        """Keep those of a front's calls that take long enough, and whose clients take tasks."""
        for call in list(front.calls.values()):
            is_long = self.now - call.begun_at >= self._after_s
            if is_long and call.may_be_kept():
                self.keep(call)

    def keep(self, call: BackendCall) -> None:
        """Make a task of a call, if there is room for one more."""
        if self._has_room():
            self._keep(call)

    def _has_room(self) -> bool:
        if len(self._tasks) >= KEPT_TASKS_MAX:
            self._drop_fetched(lambda: len(self._tasks) < KEPT_TASKS_MAX)
        return len(self._tasks) < KEPT_TASKS_MAX and self.running < KEPT_RUNNING_MAX

    def _keep(self, call: BackendCall) -> None:
        number, created_ms = self._random.getrandbits(_NUMBER_BITS), int(self._wall_clock() * 1000)
        task = KeptTask(self, f"{tasks.KEPT}{self._life}.{number:x}.{created_ms:x}", call, self.now)
        self._tasks[task.id] = task
        call.front.part(call, link.TaskCreated(call.header.id, is_kept=True), task.view("task"))
        call.be_kept(task)

    # --- what is asked about them ------------------------------------------------------------------------------------
    def ask(self, front: FrontLink, header: link.TaskAsk, params: bytes) -> None:
        """Answer a front."""
        task = self._tasks.get(header.task)
        if task is None:
            self._answer_for_none(front, header)
            return
        answer = b'{"resultType":"complete"}'
        if header.method == tasks.GET:
            answer = task.view("complete")
            if task.is_final:
                task.was_fetched = True
                task.expires_at = min(task.expires_at, self.now + KEPT_FETCHED_S)
        elif header.method == tasks.CANCEL:
            task.cancel()
        else:
            task.take_answers(decode_object(decode_object(params)["inputResponses"], "inputResponses"))
        front.send(link.Result(header.id, Era.MODERN), answer)

    def is_news(self, task_id: str) -> bool:
        """Whether there is something to be told of a task already: it has ended, or it is none of this worker's."""
        task = self._tasks.get(task_id)
        return task is None or task.is_final

    def _answer_for_none(self, front: FrontLink, header: link.TaskAsk) -> None:
        life, _, rest = header.task.removeprefix(tasks.KEPT).partition(".")
        if life == self._life or header.method != tasks.GET:
            text = self._faults.task_over() if life == self._life else self._faults.task_lost()
            error = msgspec.json.encode({"code": INVALID_PARAMS, "message": text})
            front.send(link.Fault(header.id, INVALID_PARAMS, text, True, 0, Era.MODERN), error)
            return
        text = self._faults.task_lost()
        created = _iso(int(rest.partition(".")[2], 16) / 1000)
        view = {"resultType": "complete", "taskId": header.task, "status": "failed", "statusMessage": text}
        view |= {"createdAt": created, "lastUpdatedAt": created}
        more = {"ttlMs": int(KEPT_S * 1000), "error": {"code": OUTCOME_UNKNOWN, "message": text}}
        front.send(link.Result(header.id, Era.MODERN), msgspec.json.encode({**view, **more}))

    # --- how they end ------------------------------------------------------------------------------------------------
    def changed(self, task: KeptTask) -> None:
        self._told(task.id, task.view(""))

    def ended(self, task: KeptTask) -> None:
        """A call has ended: is there room for what it has come to?"""
        if self.held_bytes > KEPT_BYTES_MAX:
            self._drop_fetched(lambda: self.held_bytes <= KEPT_BYTES_MAX)
        if self.held_bytes > KEPT_BYTES_MAX:
            task.lose_result()

    def sweep(self, now: float) -> float | None:
        """End what is overdue, and forget what nobody will fetch. Return when to look again; None: soon."""
        for task in list(self._tasks.values()):
            if task.call is not None and task.call.deadline <= now:
                task.call.expire()
            if task.call is None and task.expires_at <= now:
                del self._tasks[task.id]
        if self.running:
            return None
        return min((task.expires_at for task in self._tasks.values()), default=float("inf"))

    def abandon_all(self, reason: str) -> None:
        """This worker leaves."""
        for task in self._tasks.values():
            if task.call is not None:
                task.call.cancel(reason)

    def _drop_fetched(self, is_enough: Callable[[], bool]) -> None:
        for task in list(self._tasks.values()):
            if is_enough():
                return
            if task.was_fetched:
                del self._tasks[task.id]

    def wall(self, when: float) -> str:
        """Return a time of the reactor's as the wall clock shows it (ISO 8601)."""
        return _iso(self._wall_clock() - (self.now - when))


def _iso(seconds: float) -> str:
    shown = datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="milliseconds")
    return shown.removesuffix("+00:00") + "Z"

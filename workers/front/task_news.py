"""What clients are told of tasks unasked: in the words of their era, and under the handles that they know."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from protocol import tasks
from protocol.abilities import TASKS
from protocol.jsonrpc import Object, Raw, RpcError, decode_object
from protocol.link import Payload
from protocol.tasks import FINAL, GET, glimpse, read_topic
from protocol.uris import read_client
from protocol.versions import LATEST_MODERN, Era
from workers.front.calls import KEPT, FrontCall
from workers.front.served import Served

_ONLY_OF_RESULTS = ("resultType", "_meta")


def told(task: Payload, handle: str) -> Object:
    """Return the parameters of a notification about a task. Errors: `RpcError` if it is no JSON object."""
    members = decode_object(task, "a task")
    for name in _ONLY_OF_RESULTS:
        members.pop(name, None)
    return members | {"taskId": Raw(msgspec.json.encode(handle))}


def is_final(task: Payload) -> bool:
    """Whether nothing more is to be heard of this task."""
    found = glimpse(task)
    return found is not None and found.status in FINAL


def look(server: Served, of_task: str, now: float, found: Callable[[bytes], None]) -> None:
    """Ask how a task is, because its server may have said so while we could not hear it."""
    replica, task_id = read_topic(of_task) or ("", "")
    client, _ = read_client(of_task)
    call = FrontCall(
        _Look(found), b"0", Era.MODERN, LATEST_MODERN, GET, task_id, b'{"taskId":%b}' % msgspec.json.encode(task_id),
        meta=b"", client_info=b"", progress_token=b"", log_level="", deadline=now, abilities=TASKS, replica=replica,
        interaction=KEPT if task_id.startswith(tasks.KEPT) else 0, client=client,
    )  # fmt: skip
    call.deadline += server.timeout_s(call)
    server.submit(call)


class _Look:
    """Takes the answer to a question of our own (`workers.front.calls.Reply`). None is as good as no news."""

    def __init__(self, found: Callable[[bytes], None]) -> None:
        self.call: FrontCall | None = None
        self.client = ""
        self._found = found

    def result(self, result: Payload) -> None:
        try:
            self._found(bytes(result))
        except RpcError:
            return

    def header(self, name: bytes) -> bytes:
        del name
        return b""

    def notify(self, method: str, params: Payload) -> None: ...

    def ask(self, message: bytes) -> bool:
        return False

    def error(self, code: int, message: str, data: bytes = b"", retry_after_s: int = 0) -> None: ...

    def raw_error(self, error: Payload, code: int) -> None: ...

    def nothing(self) -> None: ...

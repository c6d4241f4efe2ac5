"""Asks a server how a task is, in the name of the client that has the task but has not asked itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec
import trio

from protocol import tasks
from protocol.link import Payload
from protocol.tasks import GET
from protocol.versions import Era
from workers.front.calls import KEPT, FrontCall
from workers.front.served import Served

_NO_ANSWER: Final = 0


class Asker(msgspec.Struct, frozen=True):
    """The client: what it is and can do may decide in which of its sessions the server knows the task."""

    era: Era
    version: str
    abilities: int
    client_info: bytes
    """Raw JSON, b"" if it has not said."""
    client: int
    """Its number (protocol/clients.py), 0 if it cannot be told from others."""
    address: str
    """As `workers.front.calls.Reply.client`."""


class Look:
    """One such question, and the place its answer goes (`workers.front.calls.Reply`)."""

    def __init__(self, client: str, then: Callable[[bytes], None] | None) -> None:
        self.call: FrontCall | None = None
        self.client = client
        self.found = b""
        """What the server says of the task, raw JSON; empty as long as it has not, or if it does not know it."""
        self.code = _NO_ANSWER
        """Of the error object that the server sent; 0 if none."""
        self.done = trio.Event()
        self._then = then

    def result(self, result: Payload) -> None:
        self.found = bytes(result)
        self.done.set()
        if self._then is not None:
            self._then(self.found)

    def raw_error(self, error: Payload, code: int) -> None:
        del error
        self.code = code
        self.done.set()

    def error(self, code: int, message: str, data: bytes = b"", retry_after_s: int = 0) -> None:
        self.done.set()

    def nothing(self) -> None:
        self.done.set()

    def header(self, name: bytes) -> bytes:
        del name
        return b""

    def notify(self, method: str, params: Payload) -> None: ...

    def ask(self, message: bytes) -> bool:
        return False


def look(
    server: Served,
    replica: str,
    task_id: str,
    asker: Asker,
    deadline: float,
    then: Callable[[bytes], None] | None = None,
) -> Look:
    """Ask. `deadline`: reactor time. `then` takes what the server says, if it says anything."""
    found = Look(asker.address, then)
    found.call = call = FrontCall(
        found, b"0", asker.era, asker.version, GET, task_id, b'{"taskId":%b}' % msgspec.json.encode(task_id), meta=b"",
        client_info=asker.client_info, progress_token=b"", log_level="", deadline=deadline, replica=replica,
        abilities=asker.abilities, interaction=KEPT if task_id.startswith(tasks.KEPT) else 0, client=asker.client,
    )  # fmt: skip
    server.submit(call)
    return found

"""Gives out handles of tasks and takes them back: which task it is, where it is, and whose."""

from __future__ import annotations

from protocol.session_token import digest
from protocol.task_handle import TaskFacts, seal, unseal
from protocol.versions import Era
from workers.front.calls import ClientTable, FrontCall
from workers.front.rounds import PRINCIPAL

Table = dict[bytes, FrontCall]
"""The calls in flight of a client."""


class TaskHandles:
    """All handles, of which none is remembered."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def give(self, place: tuple[str, str], owner: str, task_id: str, *, is_kept: bool = False) -> str:
        """Return the handle of a task. `place`: the server's public name, and its replica or ""."""
        return seal(self._key, TaskFacts(*place, owner, task_id, is_kept))

    def read(self, handle: str, owner: str = PRINCIPAL) -> TaskFacts | None:
        """Return what a handle says, None if we did not give it out, or not to this one."""
        facts = unseal(self._key, handle)
        return facts if facts is not None and facts.owner == owner else None


def owner_of(table: Table | None, era: Era) -> str:
    """Return whose tasks those of this client are: its session's if it has one, else those of its principal."""
    if era is Era.LEGACY and isinstance(table, ClientTable):
        return digest(table.client.decode())
    return PRINCIPAL

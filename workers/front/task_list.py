"""Lists a legacy client's tasks (`tasks/list` of 2025-11-25): those it was given, as their servers say they are now.

Rule 1: no server is asked for its list. All legacy clients share a session with it, so it would list tasks of others.
Rule 2: which tasks a session was given is noted with it (`Sessions.own_tasks`); what its server says it does not know
is forgotten. A server that does not answer in time is named as missing, as in every other list.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final

import msgspec
import trio

from protocol.errors import INTERNAL_ERROR, INVALID_PARAMS
from protocol.jsonrpc import RpcError, encode_object
from protocol.limits import TASK_LIST_WAIT_S, TASKS_PER_PAGE_MAX
from protocol.versions import Era
from workers.front import task_news
from workers.front.calls import ClientTable
from workers.front.merging import MISSING_SERVERS_KEY, cursor_of
from workers.front.reads import Asked
from workers.front.served import ServedByName
from workers.front.sessions import OwnTask, Session, Sessions
from workers.front.task_handles import Table, TaskHandles, owner_of
from workers.front.task_looks import Asker, Look, look
from workers.reactor import Reactor

_CURSOR: Final = b"t1:"
_CURSOR_CHARACTERS_MAX: Final = 64


class TaskList:
    """Serves `tasks/list` at one endpoint."""

    def __init__(
        self, reactor: Reactor, servers: ServedByName, handles: TaskHandles, sessions: Sessions, endpoint: str
    ) -> None:
        self._reactor = reactor
        self._servers = servers
        self._handles = handles
        self._sessions = sessions
        self._endpoint = endpoint

    def add(self, table: Table | None, place: tuple[str, str], task_id: str) -> None:
        """A client was given a task; modern ones have no such list. `place`: the server, and its replica or ""."""
        if (session := self._session(table)) is not None:
            self._sessions.add_own_task(session, *place, task_id)

    def serve(self, asked: Asked) -> None:
        """Answer in a while. Errors: `RpcError` -32602 if the cursor is none of ours."""
        after = _read_cursor(cursor_of(asked.message))
        session = self._session(asked.in_flight)
        self._reactor.start_soon(self._list, asked, self._sessions.own_tasks(session) if session else [], after)

    def _session(self, table: Table | None) -> Session | None:
        if not isinstance(table, ClientTable):
            return None
        return self._sessions.find(table.client.decode(), self._endpoint)

    async def _list(self, asked: Asked, own: list[OwnTask], after: int) -> None:
        try:
            own = [task for task in own if task.number > after and task.server in self._servers]
            looks = [(task, self._look(asked, task)) for task in own[:TASKS_PER_PAGE_MAX]]
            with trio.move_on_after(TASK_LIST_WAIT_S):
                for _, each in looks:
                    await each.done.wait()
            asked.reply.result(self._result(asked, looks, has_more=len(own) > len(looks)))
        except Exception:
            asked.reply.error(INTERNAL_ERROR, "The tasks could not be listed; the log of the proxy says more")
            raise

    def _look(self, asked: Asked, task: OwnTask) -> Look:
        client = asked.questions.client if asked.questions is not None else 0
        asker = Asker(
            Era.LEGACY, asked.version, asked.abilities, asked.client_info, client, asked.reply.client
        )  # fmt: skip
        deadline = self._reactor.now + TASK_LIST_WAIT_S
        return look(self._servers[task.server], task.replica, task.task_id, asker, deadline)

    def _result(self, asked: Asked, looks: list[tuple[OwnTask, Look]], *, has_more: bool) -> bytes:
        found: list[bytes] = []
        gone: set[int] = set()
        missing: dict[str, None] = {}
        for task, each in looks:
            if not each.done.is_set() and each.call is not None:
                each.call.cancel("its client waits no longer")
            if each.code == INVALID_PARAMS:
                gone.add(task.number)  # its server does not know it (any more)
            elif (view := self._view(asked, task, each.found)) is not None:
                found.append(view)
            else:
                missing[task.server] = None
        session = self._session(asked.in_flight)
        if gone and session is not None:
            self._sessions.drop_own_tasks(session, gone)
        members = [b'"tasks":[%b]' % b",".join(found)]
        if has_more:
            members.append(b'"nextCursor":%b' % msgspec.json.encode(_write_cursor(looks[-1][0].number)))
        if missing:
            names = msgspec.json.encode(list(missing))
            members.append(b'"_meta":{"%b":%b}' % (MISSING_SERVERS_KEY.encode(), names))
        return b"{%b}" % b",".join(members)

    def _view(self, asked: Asked, task: OwnTask, found: bytes) -> bytes | None:
        """Return a task as its client knows it, None if its server has not said how it is."""
        handle = self._handles.give((task.server, task.replica), owner_of(asked.in_flight, Era.LEGACY), task.task_id)
        try:
            return encode_object(task_news.told(found, handle))
        except RpcError:
            return None


def _write_cursor(number: int) -> str:
    return base64.urlsafe_b64encode(_CURSOR + b"%d" % number).decode().rstrip("=")


def _read_cursor(cursor: str | None) -> int:
    """Return the number of the last task that the client has been told of; 0 if it begins."""
    if cursor is None:
        return 0
    try:
        if len(cursor) <= _CURSOR_CHARACTERS_MAX:
            content = base64.urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4))
            if content.startswith(_CURSOR) and content[len(_CURSOR) :].isdigit():
                return int(content[len(_CURSOR) :])
    except (binascii.Error, UnicodeError, ValueError):
        pass
    raise RpcError(INVALID_PARAMS, "Invalid cursor")

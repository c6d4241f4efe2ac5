"""Tasks of servers: gives clients handles in place of the servers' own ids, and passes on what is asked about a task.

The front keeps nothing about a task: its handle says whose it is, signed (protocol/task_handle.py), so that any front
can serve the next request. A task is known to the server that made it alone, so nobody else is ever asked about it.
"""

from __future__ import annotations

from typing import Final

import msgspec

from protocol.abilities import TASKS
from protocol.errors import INVALID_PARAMS
from protocol.jsonrpc import Object, Raw, RpcError, encode_object
from protocol.limits import CALL_CEILING_S
from protocol.link import Payload
from protocol.task_handle import TaskFacts
from protocol.tasks import (
    EXTENSION,
    LEGACY_CAPABILITY,
    LEGACY_SINCE,
    LIST,
    METHODS,
    RESULT,
    UPDATE,
    answer_renamer,
    created_id,
    created_renamed,
    missing_extension,
    text_member,
    topic,
)
from protocol.versions import Era
from workers.front.calls import KEPT, ClientTable, FrontCall, Reply
from workers.front.reads import Asked
from workers.front.served import ServedByName
from workers.front.subscriptions import Subscriptions, Target
from workers.front.task_handles import Table, TaskHandles, owner_of
from workers.front.task_list import TaskList
from workers.front.task_replies import RenamingQuestions, RenamingReply
from workers.reactor import Reactor

OFFERED: Final = {Era.MODERN: f"extensions.{EXTENSION}", Era.LEGACY: LEGACY_CAPABILITY}
"""What a server offers that has tasks, by the era of the clients that it has them for."""
LEGACY_OFFER: Final = b'{"list":{},"cancel":{},"requests":{"tools":{"call":{}}}}'
_NOT_FOUND: Final = "Task not found: this proxy did not give out this id, or gave it to another client"


class Tasks:
    """Serves `tasks/*` (and is `workers.front.calls.Handles`)."""

    def __init__(
        self,
        reactor: Reactor,
        servers: ServedByName,
        handles: TaskHandles,
        subscriptions: Subscriptions,
        task_list: TaskList,
    ) -> None:
        self._reactor = reactor
        self._servers = servers
        self._handles = handles
        self._subscriptions = subscriptions
        self._list = task_list

    # --- tasks that servers make ----------------------------------------------------------------------------
    def created(self, call: FrontCall, result: Payload, *, is_kept: bool) -> bytes:
        """Return a `CreateTaskResult` of a modern call. Errors: `RpcError` -32603 if it has no id that can be used."""
        return self._created(call, result, None, is_kept=is_kept)

    def augmented(self, call: FrontCall, table: Table | None) -> Reply:
        """Return the reply for a legacy call that the client wants to become a task."""
        return RenamingReply(call.reply, lambda result: self._created(call, result, table))

    def _created(self, call: FrontCall, result: Payload, table: Table | None, *, is_kept: bool = False) -> bytes:
        task_id = created_id(result, call.era)
        if task_id is None or call.server is None:
            return bytes(result)
        server, replica = call.server.place
        handle = self._handles.give((server, replica), owner_of(table, call.era), task_id, is_kept=is_kept)
        self._list.add(table, (server, replica), task_id)
        self._follow(table, (server, topic(replica, task_id)), handle)
        return created_renamed(result, handle, call.era)

    def may_augment(self, server: str, version: str) -> bool:
        """Whether a client of this revision may ask this server for a task in place of a result."""
        offers = self._servers[server].offers
        return version == LEGACY_SINCE and offers is not None and LEGACY_CAPABILITY in offers

    def is_offered(self, era: Era) -> bool:
        """Whether some server has tasks. One that has not been reached yet may."""
        name = OFFERED[era]
        return any(server.offers is None or name in server.offers for server in self._servers.values())

    # --- what clients ask about them ------------------------------------------------------------------------
    def serve(self, asked: Asked) -> bool:
        """Serve a request, if it is about a task and the client's revision has such. Errors: `RpcError`."""
        method, params = asked.message.method or "", asked.message.params
        if asked.era is Era.LEGACY and asked.version < LEGACY_SINCE:
            return False
        if method == LIST and asked.era is Era.LEGACY and self.is_offered(asked.era):
            self._list.serve(asked)
            return True
        if method not in METHODS[asked.era]:
            return False
        handle = text_member(params, "taskId") or ""
        facts = self._handles.read(handle, owner_of(asked.in_flight, asked.era))
        if facts is None and not self.is_offered(asked.era):
            return False
        if asked.era is Era.MODERN and not asked.abilities & TASKS:
            raise missing_extension()
        if facts is None:
            raise RpcError(INVALID_PARAMS, _NOT_FOUND)
        if facts.server not in self._servers:
            text = f'Task not found: server "{facts.server}", which has it, is not here (any more)'
            raise RpcError(INVALID_PARAMS, text)
        self._pass_on(asked, method, handle, facts)
        return True

    def _pass_on(self, asked: Asked, method: str, handle: str, facts: TaskFacts) -> None:
        request_id, meta, server = asked.message.id, asked.meta, self._servers[facts.server]
        assert request_id is not None
        reply = RenamingReply(asked.reply, answer_renamer(method, handle), handle)
        call = FrontCall(
            reply, request_id, asked.era, asked.version, method, facts.task_id, _addressed(asked, method, facts),
            meta=meta.rest, client_info=asked.client_info, progress_token=meta.progress_token,
            log_level=meta.log_level or asked.log_level, deadline=self._reactor.now, abilities=asked.abilities,
            questions=RenamingQuestions(asked.questions, handle) if asked.questions is not None else None,
            replica=facts.replica, interaction=KEPT if facts.is_kept else 0, client=asked.client,
        )  # fmt: skip
        call.deadline += CALL_CEILING_S if method == RESULT else server.timeout_s(call)
        if asked.in_flight is not None:
            call.in_flight = asked.in_flight
            asked.in_flight[request_id] = call
        asked.reply.call = call
        self._follow(asked.in_flight, (facts.server, topic(facts.replica, facts.task_id)), handle)
        server.submit(call)

    def _follow(self, table: Table | None, target: Target, handle: str) -> None:
        """Tell a legacy client what its server says of its task unasked."""
        if isinstance(table, ClientTable):
            self._subscriptions.follow_task(table.client.decode(), target, handle)


def _addressed(asked: Asked, method: str, facts: TaskFacts) -> bytes:
    """Return the parameters as the server is to get them. Errors: `RpcError` -32602."""
    params: Object = asked.message.params | {"taskId": Raw(msgspec.json.encode(facts.task_id))}
    if method == UPDATE and not bytes(params.get("inputResponses", b"")).startswith(b"{"):
        raise RpcError(INVALID_PARAMS, f"{UPDATE} needs params.inputResponses, an object")
    return encode_object(params)

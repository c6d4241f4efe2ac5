"""Tasks as they are on the wire: the extension of 2026-07-28, and what 2025-11-25 had in its place.

Source: extension io.modelcontextprotocol/tasks (SEP-2663); 2025-11-25, basic, utilities, tasks. Only what the proxy has
to know is read: that something is a task, and which.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from protocol.errors import INTERNAL_ERROR, MISSING_CAPABILITY
from protocol.jsonrpc import DECODE_ERRORS, Object, Raw, RpcError, decode_object, encode_object
from protocol.limits import TASK_ID_CHARACTERS_MAX
from protocol.link import Payload
from protocol.uris import read_client
from protocol.versions import Era

EXTENSION: Final = "io.modelcontextprotocol/tasks"
RELATED_KEY: Final = "io.modelcontextprotocol/related-task"
"""`_meta` of what belongs to a task (2025-11-25)."""
GET: Final = "tasks/get"
RESULT: Final = "tasks/result"
UPDATE: Final = "tasks/update"
CANCEL: Final = "tasks/cancel"
LIST: Final = "tasks/list"
"""Only in 2025-11-25, and answered by us alone."""
METHODS: Final = {Era.MODERN: frozenset({GET, UPDATE, CANCEL}), Era.LEGACY: frozenset({GET, RESULT, CANCEL})}
ANY: Final = METHODS[Era.MODERN] | METHODS[Era.LEGACY]
LEGACY_SINCE: Final = "2025-11-25"
"""The only legacy revision that has them."""
LEGACY_CAPABILITY: Final = "tasks"
STATUS: Final = {Era.MODERN: "notifications/tasks", Era.LEGACY: "notifications/tasks/status"}
"""What tells of a task's status, by era."""
KEPT: Final = "kept:"
"""Begins the ids of tasks that our workers keep."""
FINAL: Final = frozenset({"completed", "failed", "cancelled"})
"""A task with such a status does not change any more."""

_decode_str: Final = msgspec.json.Decoder(str).decode
_TOPIC: Final = "task\0"
"""What no URI begins with."""


REQUIRED: Final = "required"
OPTIONAL: Final = "optional"
FORBIDDEN: Final = "forbidden"
"""What a tool of 2025-11-25 says in `execution.taskSupport`."""


class _Execution(msgspec.Struct, rename="camel"):
    task_support: str = FORBIDDEN


class Glimpse(msgspec.Struct, rename="camel"):
    """What is read of a task."""

    task_id: str
    status: str = ""


def topic(replica: str, task_id: str) -> str:
    """Return what stands for a task where resources are named by their URIs. `replica`: of a group, or ""."""
    return f"{_TOPIC}{replica}\0{task_id}"


def read_topic(text: str) -> tuple[str, str] | None:
    """Return (replica, task id) of a topic, also of one client's (`protocol.uris.of_client`); None if it is a URI."""
    _, text = read_client(text)
    if not text.startswith(_TOPIC):
        return None
    replica, _, task_id = text[len(_TOPIC) :].partition("\0")
    return replica, task_id


def glimpse(task: Payload | Raw) -> Glimpse | None:
    """Return which task this is and how it is; None if it cannot be read."""
    try:
        return msgspec.json.decode(task, type=Glimpse)
    except DECODE_ERRORS:
        return None


def created_id(result: Payload, era: Era) -> str | None:
    """Return the id of the task in a `CreateTaskResult`, None if a legacy result is none.

    Errors: `RpcError` -32603 if it has none that can be used.
    """
    members = decode_object(result, "the result")
    if era is Era.LEGACY:
        if "task" not in members or "content" in members:
            return None
        found = glimpse(members["task"])
    else:
        found = glimpse(result)
    if found is None or not found.task_id:
        raise RpcError(INTERNAL_ERROR, "the server answered with a task that has no id: this is a fault of that server")
    if len(found.task_id) > TASK_ID_CHARACTERS_MAX:
        text = f"the server answered with a task id of more than {TASK_ID_CHARACTERS_MAX} characters"
        raise RpcError(INTERNAL_ERROR, text)
    return found.task_id


def renamed(task: Payload | Raw, handle: str) -> bytes:
    """Return a task, or a result that is one, under another id; also of what in `_meta` names it."""
    return encode_object(_with_related(decode_object(task, "a task") | {"taskId": _text(handle)}, handle))


def created_renamed(result: Payload, handle: str, era: Era) -> bytes:
    """Return a `CreateTaskResult` with another task id."""
    if era is Era.MODERN:
        return renamed(result, handle)
    members = decode_object(result, "the result")
    members["task"] = Raw(renamed(members["task"], handle))
    return encode_object(_with_related(members, handle))


def related_renamed(message: Payload, handle: str) -> bytes:
    """Return params or a result whose `_meta` names the task it belongs to by its handle, if it names one at all."""
    if RELATED_KEY.encode() not in bytes(message):
        return bytes(message)
    return encode_object(_with_related(decode_object(message, "a message"), handle))


def answer_renamer(method: str, handle: str) -> Callable[[Payload], bytes]:
    """Return what puts the client's handle into the server's answer to this method."""

    def rename(result: Payload) -> bytes:
        members = decode_object(result, "the result")
        if method != RESULT and "taskId" in members:
            members["taskId"] = _text(handle)
        return encode_object(_with_related(members, handle))

    return rename


def augmented(params: Payload) -> bytes:
    """Return the parameters of a legacy call that is to become a task."""
    return encode_object(decode_object(params, "params") | {"task": Raw(b"{}")})


def without_related(result: Payload) -> bytes:
    """Return a result whose `_meta` does not say which task it is of, which modern clients must not find there."""
    members = decode_object(result, "the result")
    if "_meta" in members and RELATED_KEY.encode() in bytes(members["_meta"]):
        meta = decode_object(members["_meta"], "_meta")
        meta.pop(RELATED_KEY, None)
        members["_meta"] = Raw(encode_object(meta))
    return encode_object(members)


def support(tool: Object) -> str:
    """Return what a legacy tool says of tasks: required, optional, or forbidden, which is also what silence means."""
    try:
        return msgspec.json.decode(tool["execution"], type=_Execution).task_support
    except (KeyError, *DECODE_ERRORS):
        return FORBIDDEN


def missing_extension() -> RpcError:
    """The client has not declared the extension ("Protocol Errors")."""
    data = msgspec.json.encode({"requiredCapabilities": {"extensions": {EXTENSION: {}}}})
    return RpcError(MISSING_CAPABILITY, f"Missing required client capability: extensions.{EXTENSION}", data)


def text_member(params: Object, name: str) -> str | None:
    """Return a member that must be a string; None if it is none."""
    try:
        return _decode_str(params[name])
    except (KeyError, *DECODE_ERRORS):
        return None


def _with_related(members: Object, handle: str) -> Object:
    meta = members.get("_meta")
    if meta is not None and RELATED_KEY.encode() in bytes(meta):
        rest = decode_object(meta, "_meta")
        if RELATED_KEY in rest:
            rest[RELATED_KEY] = Raw(b'{"taskId":%b}' % _text(handle))
            return members | {"_meta": Raw(encode_object(rest))}
    return members


def _text(text: str) -> Raw:
    return Raw(msgspec.json.encode(text))

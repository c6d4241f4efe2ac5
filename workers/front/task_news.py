"""What clients are told of tasks unasked: in the words of their era, and under the handles that they know."""

from __future__ import annotations

import msgspec

from protocol.jsonrpc import Object, Raw, decode_object
from protocol.link import Payload
from protocol.tasks import FINAL, glimpse

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

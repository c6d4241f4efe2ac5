"""What two versions of the root tell each other during an upgrade. Pure: messages to packets and back.

Old and new need not be the same release, so messages are JSON objects whose unknown members are ignored, and every
member added later needs a default.

    old → new   Inheritance (with the listening sockets attached), and as many Ended and Configured as it says
    new → old   Prepared       its front and its workers are up; nothing is accepted yet
    old → new   TakeOver       from now on you are the service
    new → old   Taken          clients are accepted; the old one finishes what it has begun
    old → new   Announced      the service manager knows; speak to it
    both ways   Ended          a client ended these sessions; until the old one is gone
"""

from __future__ import annotations

from typing import Final

import msgspec

from supervisor.config import Server

HANDOVER_VERSION: Final = 1


class _Message(msgspec.Struct, tag_field="is"):
    """Base of all messages between roots."""


class Inheritance(_Message, tag="inheritance"):
    """The first packet. Attached: the listening sockets, in order, and after them those of the admin door, if any."""

    session_key: bytes
    """Signs session ids. Kept in a file where that is possible; where it is not, this is its only copy."""
    ended_parts: int
    """How many messages with sessions that have ended follow, the oldest first."""
    servers: int = -1
    """How many servers follow then, which are to be served instead of those that the arguments name; -1: those are."""
    admin: str = ""
    """Where the socket of the admin door is; "" if there is none."""
    admin_ports: int = 0
    """How many sockets of the admin port come last."""
    version: int = HANDOVER_VERSION
    """Changes only if what came before is not understood any more."""


class Ended(_Message, tag="ended"):
    """Sessions that clients ended, oldest first; they must stay ended."""

    session_ids: list[str]


class Configured(_Message, tag="configured"):
    """One server, as it is now. It may have been added or changed at run time, and be in no file."""

    server: Server


class Prepared(_Message, tag="prepared"):
    pass


class TakeOver(_Message, tag="take-over"):
    pass


class Taken(_Message, tag="taken"):
    pass


class Announced(_Message, tag="announced"):
    pass


FromOld = Inheritance | Ended | Configured | TakeOver | Announced
FromNew = Ended | Prepared | Taken

_encoder: Final = msgspec.json.Encoder()
decode_from_old: Final = msgspec.json.Decoder(FromOld).decode
decode_from_new: Final = msgspec.json.Decoder(FromNew).decode


def encode(message: FromOld | FromNew) -> bytes:
    """Return the packet of a message."""
    return _encoder.encode(message)

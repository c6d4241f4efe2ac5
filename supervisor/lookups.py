"""What became of looking up the name of a server whose replicas are found so (discovery.py)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class LookUp:
    """What became of the look-ups of one server's name."""

    problem: str = ""
    """Why the last one failed; "" if it did not."""
    failures: int = 0
    at: float = 0.0
    """When the last one ended, in seconds since 1970."""
    is_too_many: bool = False
    """There are more addresses than there may be replicas."""

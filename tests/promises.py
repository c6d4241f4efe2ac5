"""The promises of docs/reliability.md as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tests.catalogue import rows


@dataclass(frozen=True)
class Promise:
    id: str
    text: str
    number: str
    """What would make the promise broken."""
    source: str
    """Where the number comes from."""


PROMISES: Final = {cells[0]: Promise(*cells) for cells in rows(r"R\d\d")}

NOT_YET_SHOWN: Final[dict[str, str]] = {}
"""Promises without a test, and why. One that gets its test leaves."""

"""The protocol revisions this proxy speaks and how a version is agreed on (specification: basic, versioning)."""

from __future__ import annotations

import enum
from typing import Final


class Era(enum.IntEnum):
    """The two shapes of the protocol: with a handshake, and stateless."""

    LEGACY = 0
    """2024-11-05 … 2025-11-25: initialize, sessions, server-to-client requests."""
    MODERN = 1
    """2026-07-28: every request carries its version and capabilities in `_meta`."""

    @property
    def other(self) -> Era:
        return Era.LEGACY if self is Era.MODERN else Era.MODERN


LEGACY_VERSIONS: Final = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
"""Handshake revisions, oldest first."""
MODERN_VERSIONS: Final = ("2026-07-28",)
"""Stateless revisions, oldest first."""
LATEST_LEGACY: Final = LEGACY_VERSIONS[-1]
LATEST_MODERN: Final = MODERN_VERSIONS[-1]


def negotiate_legacy(offered: str) -> str:
    """Return the version `initialize` answers with: the offered one if known, else our newest."""
    return offered if offered in LEGACY_VERSIONS else LATEST_LEGACY

"""What is supervised: one `ChildSpec` for each process the root keeps. Every bad value has its own message."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from protocol import limits

KILL_AFTER_S_MAX: Final = limits.STOP_S
"""No child may take longer to stop than the whole tree may."""


class SpecError(ValueError):
    """A child specification that cannot be obeyed."""


class Role(enum.Enum):
    """What a child is to the tree; its place in the orders of start and stop (see tree.py)."""

    ZYGOTE = "zygote"
    """Every other child is forked by it and dies with it."""
    FRONT = "front"
    SERVER = "server"


class Restart(enum.Enum):
    """Which ends of a child call for another incarnation (the table is in restart.py)."""

    PERMANENT = "permanent"
    """Every end that was not asked for."""
    TRANSIENT = "transient"
    """Every end that was neither asked for nor clean."""
    TEMPORARY = "temporary"
    """None."""


class Excess(enum.Enum):
    """What happens to a child that ends more often than its restart intensity allows."""

    PARK = "park"
    """It is left alone and tried once every few minutes: one bad server must not take the others along."""
    ESCALATE = "escalate"
    """What it stands on is restarted, and in the end the root gives up with an error."""


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """How one child is kept.

    Errors: `SpecError` naming the child and the value.
    """

    name: str
    """As in titles and logs: "zygote", "front", "server main". A child that is there besides another of its family has
    " #" and a number behind that."""
    role: Role
    restart: Restart = Restart.PERMANENT
    shutdown_s: float = limits.WORKER_STOP_S
    """Time between being asked to stop and SIGKILL."""
    significant: bool = False
    """When it has ended and is not restarted, the whole tree stops (OTP: auto_shutdown)."""
    excess: Excess = Excess.PARK
    intensity: int = limits.RESTART_INTENSITY
    """Restarts allowed within `period_s`; one more is excess."""
    period_s: float = limits.RESTART_PERIOD_S
    delay_s_max: float = limits.RESTART_BACKOFF_MAX_S
    """Longest delay of a restart within the intensity."""

    def __post_init__(self) -> None:
        if not self.name:
            raise SpecError("a child needs a name")
        if not (math.isfinite(self.shutdown_s) and 0 <= self.shutdown_s <= KILL_AFTER_S_MAX):
            raise SpecError(
                f"{self.name}: shutdown_s must be between 0 and {KILL_AFTER_S_MAX:g}, not {self.shutdown_s}: "
                "a stop that may take for ever is none"
            )
        if self.significant and self.restart is Restart.PERMANENT:
            raise SpecError(f"{self.name}: a permanent child never ends for good, so it cannot be significant")
        if self.intensity < 1:
            raise SpecError(f"{self.name}: intensity must be at least 1, not {self.intensity}")
        for field, value in (("period_s", self.period_s), ("delay_s_max", self.delay_s_max)):
            if not (math.isfinite(value) and value > 0):
                raise SpecError(f"{self.name}: {field} must be a positive number of seconds, not {value}")


def family(name: str) -> str:
    """Return what a child has in common with its successor: "server main" is the family of "server main #2"."""
    return name.partition(" #")[0]


def check(specs: Sequence[ChildSpec]) -> None:
    """Check what no single specification can know.

    Errors: `SpecError`.
    """
    names = [spec.name for spec in specs]
    if twice := next((name for name in names if names.count(name) > 1), ""):
        raise SpecError(f"two children are called {twice!r}")
    zygotes = sum(spec.role is Role.ZYGOTE for spec in specs)
    if zygotes != 1:
        raise SpecError(f"a tree needs exactly one zygote, not {zygotes}")

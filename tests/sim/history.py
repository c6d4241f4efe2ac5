"""What happened in one run, as everybody outside of the proxy saw it, and what was done to it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests.sim.kernel import Kernel

Json = dict[str, Any]


@dataclass
class Call:
    """One request of a client that wants a tool executed."""

    uid: str
    """In its arguments and in every answer to it, and nowhere else."""
    client: str
    transport: str
    """http or stdio."""
    server: str
    tool: str
    id: Any
    sent_at: float
    outcome: str = ""
    """result, error, http, lost, left (the client went away or cancelled), none (it waited too long). "" while open."""
    ended_at: float = 0.0
    code: int = 0
    data: Json = field(default_factory=dict[str, Any])
    text: str = ""
    finals: int = 0
    """Final answers that came."""


@dataclass(frozen=True)
class Cause:
    """Something that was done to the world."""

    kind: str
    at: float
    until: float
    """When its effects are over, at the latest."""
    servers: frozenset[str] | None
    """Whose calls may suffer; None: everybody's."""
    front: bool = False
    """Connections of clients may break."""


@dataclass(frozen=True)
class Ended:
    """A process is gone."""

    name: str
    at: float
    status: int


@dataclass
class History:
    """Everything the checkers look at."""

    kernel: Kernel
    calls: list[Call] = field(default_factory=list[Call])
    executed: dict[str, list[tuple[str, float]]] = field(default_factory=dict[str, "list[tuple[str, float]]"])
    """By uid: which server carried the call out, and when."""
    members: dict[str, frozenset[str]] = field(default_factory=dict[str, "frozenset[str]"])
    """The servers of each group of replicas, by the name that clients see."""
    causes: list[Cause] = field(default_factory=list[Cause])
    faults: Counter[str] = field(default_factory=Counter[str])
    received: list[tuple[str, float, str]] = field(default_factory=list["tuple[str, float, str]"])
    """Which client got which message of the proxy, but for those of calls that ended well."""
    violations: list[str] = field(default_factory=list[str])
    """What was seen to be wrong the moment it happened."""
    starts: list[tuple[str, float]] = field(default_factory=list["tuple[str, float]"])
    ends: list[Ended] = field(default_factory=list[Ended])
    logs: list[tuple[str, str, str, str]] = field(default_factory=list["tuple[str, str, str, str]"])
    """Process, level, event, fields."""
    peaks: Counter[str] = field(default_factory=Counter[str])
    rest: dict[str, int] = field(default_factory=dict[str, int])
    """What was still held when everything had come to rest."""
    probes: list[tuple[str, float, float, str]] = field(default_factory=list["tuple[str, float, float, str]"])
    """After all faults: server, when it should serve again at the latest, when it did (inf: never), what it said."""
    healed_at: float = float("inf")
    stopped_at: float = float("inf")
    """When the root was told to stop."""
    finished_at: float = float("inf")
    exit_status: int | None = None
    quiet_stop: bool = False
    """The stop came when nothing was wrong and nothing was under way."""

    def serving(self, name: str) -> frozenset[str]:
        """Return the servers behind a name that clients see."""
        return self.members.get(name) or frozenset((name,))

    def note(self, who: str, what: str, data: bytes = b"") -> None:
        self.kernel.note(who, what, data)

    def wrong(self, text: str) -> None:
        self.violations.append(f"{self.kernel.times.now():.3f} s: {text}")

    def begin(self, call: Call) -> Call:
        self.calls.append(call)
        self.note(call.client, f"calls {call.server}.{call.tool} {call.uid} {call.id!r}")
        return call

    def end(self, call: Call, outcome: str, code: int = 0, data: Json | None = None, text: str = "") -> None:
        if call.outcome:
            self.wrong(f"{call.uid} ended as {call.outcome} and again as {outcome}")
            return
        call.outcome, call.code, call.data, call.text = outcome, code, data or {}, text
        call.ended_at = self.kernel.times.now()
        self.note(call.client, f"sees {call.uid} end: {outcome} {code}")

    def execute(self, uid: str, server: str) -> None:
        self.executed.setdefault(uid, []).append((server, self.kernel.times.now()))
        self.note(server, f"executes {uid}")

    def cause(
        self, kind: str, lasts_s: float, servers: frozenset[str] | None = None, *, front: bool = False, effects_s: float
    ) -> None:
        """Note a fault. `effects_s`: how long it may be felt after its end."""
        now = self.kernel.times.now()
        self.faults[kind] += 1
        self.causes.append(Cause(kind, now, now + lasts_s + effects_s, servers, front))
        self.note("nemesis", f"{kind} {lasts_s:.6f} {sorted(servers) if servers is not None else 'all'}")

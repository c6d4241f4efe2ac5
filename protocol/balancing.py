"""Which replica of a group gets a call: one class per policy. Pure: time and chance come in.

Sources: Mitzenmacher, "The power of two choices in randomized load balancing"; Finagle's peak EWMA; nginx's smooth
weighted round robin; Thaler and Ravishankar's rendezvous hashing, weighted as by Schindelhauer and Schomaker; Mirrokni
and others, "Consistent hashing with bounded loads".
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import msgspec

from protocol.limits import FAIL_BACK_S, LATENCY_MEMORY_S, SLOW_START_S, STICKY_FLOOR, STICKY_LOAD_MAX

LATENCY_FLOOR_S: Final = 1e-3
"""Below this a latency says nothing about a replica; and one that was never measured counts as so fast."""
LATENCIES_ALIKE: Final = 2.0
"""Latencies whose ratio is smaller are the same. Else who is faster by a hair would get all calls of a calm time."""
SLOW_START_LEAST: Final = 0.1
"""The share of its weight that a replica begins with."""
CREDITS_KEPT_MAX: Final = 1024
_HASHES: Final = 2.0**64
_CANARY: Final = b"canary"


class Candidate(msgspec.Struct, frozen=True, gc=False):
    """A replica that could take the call."""

    name: str
    weight: float
    """More than 0; a slow start has been taken into account (`slow_start`)."""
    in_flight: int
    """Calls that it has or that wait for it."""
    latency_s: float
    """How long an answer of it is expected to take."""
    since: float
    """When it last became usable."""


class Policy(Protocol):
    """Chooses one of the candidates, of which there is at least one.

    `key`: what stands for the client or whatever else its calls are to be kept together by; b"" for nothing.
    `draw`: returns another number in [0, 1) each time.
    """

    def choose(
        self, candidates: Sequence[Candidate], key: bytes, now: float, draw: Callable[[], float]
    ) -> Candidate: ...


class LeastLoaded:
    """The better of two taken at random: the one whose calls in flight, and one more, would take less time.

    Taking the best of all instead would send everything that comes at once to the same replica.
    """

    def choose(self, candidates: Sequence[Candidate], key: bytes, now: float, draw: Callable[[], float]) -> Candidate:
        del key, now
        count = len(candidates)
        if count == 1:
            return candidates[0]
        first = int(draw() * count)
        second = int(draw() * (count - 1))
        one, other = candidates[first], candidates[second + (second >= first)]
        return other if _is_less_loaded(other, one) else one


class Turns:
    """One after the other, each as often as its weight says, and those of a heavy one spread over the round."""

    def __init__(self) -> None:
        self._credits: dict[str, float] = {}

    def choose(self, candidates: Sequence[Candidate], key: bytes, now: float, draw: Callable[[], float]) -> Candidate:
        del key, now, draw
        held = self._credits
        if len(held) > CREDITS_KEPT_MAX:
            self._credits = held = {one.name: held.get(one.name, 0.0) for one in candidates}
        for one in candidates:
            held[one.name] = held.get(one.name, 0.0) + one.weight
        chosen = max(candidates, key=lambda one: held[one.name])  # of equals the first
        held[chosen.name] -= sum(one.weight for one in candidates)
        return chosen


class InOrder:
    """The first of them, and the others only while it cannot be used.

    It gets the calls back when it has been usable for `FAIL_BACK_S`: one that comes and goes moves nobody twice.
    """

    def __init__(self) -> None:
        self._used = ""

    def choose(self, candidates: Sequence[Candidate], key: bytes, now: float, draw: Callable[[], float]) -> Candidate:
        """Candidates come in the order of preference."""
        del key, draw
        used = next((at for at, one in enumerate(candidates) if one.name == self._used), -1)
        if used < 0:
            chosen = candidates[0]
        else:
            settled = (one for one in candidates[:used] if now - one.since >= FAIL_BACK_S)
            chosen = next(settled, candidates[used])
        self._used = chosen.name
        return chosen


class Sticky:
    """The calls of one key go to one replica as long as it has not far more than its share of the calls in flight.

    A replica that comes or goes moves no calls but those that it gets or had. Without a key: as `LeastLoaded`.
    """

    def __init__(self) -> None:
        self._otherwise = LeastLoaded()

    def choose(self, candidates: Sequence[Candidate], key: bytes, now: float, draw: Callable[[], float]) -> Candidate:
        if not key:
            return self._otherwise.choose(candidates, key, now, draw)
        in_flight = sum(one.in_flight for one in candidates) + 1
        share = STICKY_LOAD_MAX * in_flight / sum(one.weight for one in candidates)
        ranked = sorted(candidates, key=lambda one: -_rank(one, key))
        # The bounds together are more than all calls in flight, so there is always one below its own.
        return next(one for one in ranked if one.in_flight < max(STICKY_FLOOR, math.ceil(share * one.weight)))


POLICIES: Final[Mapping[str, Callable[[], Policy]]] = {
    "least_loaded": LeastLoaded,
    "round_robin": Turns,
    "weighted": Turns,
    "priority": InOrder,
    "sticky": Sticky,
}
"""By their names in the configuration, the usual one first."""
STICKY_HEADER: Final = "header:"
"""What stands before the name of a header field where the argument of a call might stand."""
USES_WEIGHTS: Final = frozenset({"least_loaded", "weighted", "sticky"})


def slow_start(weight: float, since: float, now: float) -> float:
    """Return the weight that counts now: it grows with the time since the replica became usable."""
    grown = (now - since) / SLOW_START_S
    return weight if grown >= 1 else weight * max(SLOW_START_LEAST, grown)


def canary(percents: Mapping[str, float], key: bytes, draw: Callable[[], float]) -> str:
    """Return the replica that gets this call because a percentage of all calls is set apart for it; "" if none does.

    `percents`: of such replicas, together at most 100. Calls of one key are all set apart, or none of them.
    """
    point = 100 * (_hash(_CANARY, key) if key else draw())
    for name, percent in percents.items():
        if point < percent:
            return name
        point -= percent
    return ""


class PeakEwma:
    """How long answers take: a longer one counts at once, shorter ones bring it down with time, and so does silence."""

    __slots__ = ("_at", "_value")

    def __init__(self) -> None:
        self._value = 0.0
        self._at = 0.0

    def observe(self, seconds: float, now: float) -> None:
        """Note an answer."""
        kept = math.exp(-max(0.0, now - self._at) / LATENCY_MEMORY_S)
        self._value = max(seconds, seconds + (self._value - seconds) * kept)
        self._at = now

    def at(self, now: float) -> float:
        """Return the seconds that an answer is expected to take; 0 if nothing is known."""
        return self._value * math.exp(-max(0.0, now - self._at) / LATENCY_MEMORY_S)


def _is_less_loaded(one: Candidate, other: Candidate) -> bool:
    latency, others = max(one.latency_s, LATENCY_FLOOR_S), max(other.latency_s, LATENCY_FLOOR_S)
    if latency < LATENCIES_ALIKE * others and others < LATENCIES_ALIKE * latency:
        latency = others
    return latency * (one.in_flight + 1) * other.weight < others * (other.in_flight + 1) * one.weight


def _rank(one: Candidate, key: bytes) -> float:
    return -one.weight / math.log(_hash(one.name.encode(), key))


def _hash(of: bytes, key: bytes) -> float:
    """Return a number in (0, 1), so that its logarithm is neither 0 nor infinite."""
    digest = hashlib.blake2b(key, key=of, digest_size=8).digest()
    return (int.from_bytes(digest) + 0.5) / _HASHES

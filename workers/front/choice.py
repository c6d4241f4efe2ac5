"""Chooses which replica of a group gets a call.

Rule 1: of the replicas that offer what is asked for, only those of the best standing get calls (`Standing`), so that
one that is not known to work gets none as long as another is.
Rule 2: among them those that were ejected are left out, unless too few are left (`PANIC_SHARE`).
Rule 3: where a client has a session of its own, its calls stay with the replica that has it, as long as that one may
get calls (homes.py); where it begins is decided as follows.
Rule 4: a percentage of the calls may be set apart for a replica; else who gets the call is for the policy to say
(protocol/balancing.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from protocol.balancing import POLICIES, STICKY_HEADER, Candidate, PeakEwma, Sticky, canary, slow_start
from protocol.clients import UNKNOWN
from protocol.control import GroupInfo
from protocol.limits import PANIC_SHARE
from protocol.outliers import Outliers
from workers.front.calls import ClientTable, FrontCall
from workers.front.homes import Homes
from workers.front.replica import Replica, Standing
from workers.front.replica_lists import ReplicaLists
from workers.reactor import Reactor


class _Arguments(msgspec.Struct):
    """The parameters of a call, as far as they may decide who gets it."""

    arguments: dict[str, msgspec.Raw] = {}


_decode_arguments = msgspec.json.Decoder(_Arguments).decode


class Choice:
    """Who gets the calls of one group."""

    def __init__(self, reactor: Reactor, info: GroupInfo, lists: ReplicaLists, outliers: Outliers) -> None:
        self._reactor = reactor
        self._lists = lists
        self._outliers = outliers
        self._draw = reactor.machine.random.random
        self._info = info
        self._sticky_header = b""
        self._policy = POLICIES[info.policy]()
        self._by_client = Sticky()
        self._homes = Homes()
        self._is_isolated = False
        self._latency: dict[str, PeakEwma] = {}
        self._percents: dict[str, float] = {}
        """Of calls that are set apart for single replicas."""
        self.become(info)

    def become(self, info: GroupInfo) -> None:
        """From now on it is configured so."""
        if info.policy != self._info.policy:
            self._policy = POLICIES[info.policy]()
        self._info = info
        self._sticky_header = b""
        if info.sticky_by.startswith(STICKY_HEADER):
            self._sticky_header = info.sticky_by.removeprefix(STICKY_HEADER).lower().encode()

    def serve(self, replicas: Sequence[Replica]) -> None:
        """From now on these are the replicas."""
        self._is_isolated = any(replica.is_isolated for replica in replicas)
        self._latency = {one.name: self._latency.get(one.name) or PeakEwma() for one in replicas}
        self._percents = {one.name: one.percent for one in replicas if one.percent}

    # --- what replicas and clients do -----------------------------------------------------------------------
    def answered(self, replica: Replica, call: FrontCall, seconds: float) -> None:
        """It has answered a call that it was sent so long ago."""
        if self._is_isolated and (client := self._client(call)):
            self._homes.answered(client, replica.name, call.tried)
        self.took(replica, seconds)

    def took(self, replica: Replica, seconds: float) -> None:
        """It needs so long for a call, or longer."""
        if latency := self._latency.get(replica.name):
            latency.observe(seconds, self._reactor.now)

    def client_gone(self, client: int) -> None:
        """This client has ended its session."""
        self._homes.leave(client)

    def is_at_home(self, call: FrontCall, replica: Replica) -> bool:
        """Whether the replica works, and has the session of the call's client."""
        client = self._client(call)
        if not client or self._homes.of(client) != replica.name:
            return False
        return replica.standing is Standing.READY and not self._outliers.is_ejected(replica.name, self._reactor.now)

    # --- choosing -------------------------------------------------------------------------------------------
    def choose(self, call: FrontCall, among: Sequence[Replica]) -> Replica:
        """Return the one of these, of which there is at least one, that gets the call."""
        if (offering := self._lists.offering(call.method, call.era, call.name)) is not None:
            among = [one for one in among if one.name in offering] or among
        found = self.usable(among)
        policy, key = self._policy, b""
        if client := self._client(call):
            if (home := self._home(client, among, found)) is not None:
                return home
            policy, key = self._policy if self._info.policy == "priority" else self._by_client, b"%d" % client
        elif self._info.policy == "sticky":
            key = self._key(call)
        # A place at once before a place in a queue.
        found = [one for one in found if one.has_place] or found
        if self._percents:
            found = self._set_apart(found, key)
        if len(found) == 1:
            return found[0]
        now = self._reactor.now
        by_name = {one.name: one for one in found}
        candidates = [self._candidate(one, now) for one in found]
        return by_name[policy.choose(candidates, key, now, self._draw).name]

    def usable(self, among: Sequence[Replica]) -> Sequence[Replica]:
        """Return those that may get a call now: rules 1 and 2."""
        now = self._reactor.now
        open_ = [one for one in among if one.weight > 0] or among
        best = min(one.standing for one in open_)
        ready = [one for one in open_ if one.standing is best]
        found = [one for one in ready if not self._outliers.is_ejected(one.name, now)]
        return ready if len(found) < PANIC_SHARE * len(open_) else found

    def _home(self, client: int, among: Sequence[Replica], found: Sequence[Replica]) -> Replica | None:
        """Return the replica that has this client's session, if it may get the call."""
        name = self._homes.of(client)
        home = next((one for one in among if one.name == name), None)
        if home is None or home in found:
            return home
        self._homes.leave(client)
        return None

    def _client(self, call: FrontCall) -> int:
        """Return the number of the client, if its calls are to stay together because it has a session of its own."""
        if not self._is_isolated or self._info.sticky_by:
            return UNKNOWN
        return call.questions.client if call.questions is not None else call.client

    def _set_apart(self, found: Sequence[Replica], key: bytes) -> Sequence[Replica]:
        """Return those among which the call is spread: one that a percentage is set apart for is alone, or left out."""
        name = canary(self._percents, key, self._draw)
        chosen = [one for one in found if one.name == name]
        return chosen or [one for one in found if not one.percent] or found

    def _candidate(self, one: Replica, now: float) -> Candidate:
        since = max(one.ready_since, self._outliers.returned_at(one.name))
        weight = slow_start(one.weight or 1.0, since, now)
        return Candidate(one.name, weight, one.in_flight, self._latency[one.name].at(now), since)

    def _key(self, call: FrontCall) -> bytes:
        """Return what the calls have in common that belong together by the policy "sticky"."""
        if self._sticky_header:
            return call.reply.header(self._sticky_header)
        if self._info.sticky_by:
            try:
                return bytes(_decode_arguments(call.payload).arguments[self._info.sticky_by])
            except (KeyError, msgspec.DecodeError):
                return b""
        table = call.in_flight
        if isinstance(table, ClientTable):
            return table.client
        return b"%d" % id(table) if table is not None else b""

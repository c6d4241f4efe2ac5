"""Judge a history: the checkers C1 to C11 of the reliability plan, and that the proxy lives on and stops well.

Each takes a history and yields what is wrong with it; none looks at the proxy. C12, that the same seed gives the same
history, is a comparison of two runs and made by whoever runs them (`world.run`, `History.kernel.digest`).
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Final

from protocol import errors, flight, limits
from tests.sim.history import Call, Cause, History
from tests.sim.server import HINTS
from tests.sim.world import PARKED, SESSION_KEY

OURS: Final = frozenset(
    {errors.SERVER_UNAVAILABLE, errors.OUTCOME_UNKNOWN, errors.CALL_TIMEOUT, errors.OVERLOADED, errors.INTERNAL_ERROR}
)
"""Errors that the proxy makes up for a call of a tool that there is."""
STOP_SLACK_S: Final = 1.0
FRONT_DESCRIPTORS_MAX: Final = 200
STREAM_SLACK_BYTES: Final = 2 * limits.MIB
_UID: Final = re.compile(r"~c\d+\.\d+\.")

Checker = Callable[[History], Iterator[str]]


def _suffered(history: History, call: Call, causes: list[Cause] | None = None) -> bool:
    """Something was done to the world while the call was under way that explains that it did not go well."""
    until = call.ended_at or math.inf
    if "is parked" in call.text:
        return any(cause.at <= until and cause.servers != frozenset() for cause in history.causes)
    for cause in history.causes if causes is None else causes:
        if (
            cause.at <= until
            and call.sent_at <= cause.until
            and (cause.servers is None or history.serving(call.server) & cause.servers)
        ):
            return True
    return until >= history.stopped_at


def _all_suffered(history: History, call: Call) -> bool:
    """Something was done to each of the servers that could have served the call."""
    return all(
        _suffered(history, call, [cause for cause in history.causes if cause.servers is None or name in cause.servers])
        for name in history.serving(call.server)
    )


def _front_suffered(history: History, call: Call) -> bool:
    return _suffered(history, call, [cause for cause in history.causes if cause.front])


def c1_every_call_ends_exactly_once(history: History) -> Iterator[str]:
    for call in history.calls:
        if call.finals > 1:
            yield f"{call.uid} got {call.finals} final answers"
        if not call.outcome and history.stopped_at == math.inf:
            yield f"{call.uid} never ended"
        elif call.outcome == "none" and not _front_suffered(history, call):
            yield f"{call.uid}, sent at {call.sent_at:.3f}, got no answer"
        elif call.outcome == "lost" and not _front_suffered(history, call):
            yield f"the connection of {call.uid}, sent at {call.sent_at:.3f}, was lost at {call.ended_at:.3f}"


def c2_answers_belong_to_their_calls(history: History) -> Iterator[str]:
    for call in history.calls:
        if call.outcome == "result":
            uid, server, tool, _ = (call.text + "||||").split("|", 3)
            if (uid, tool) != (call.uid, call.tool) or server not in history.serving(call.server):
                yield f"{call.uid} of {call.server}.{call.tool} was answered with {call.text!r}"
            if call.uid not in history.executed:
                yield f"{call.uid} has a result and was never carried out"
        elif call.outcome == "error" and "server" in call.data:
            named = call.data["server"]
            if named != call.server and named not in history.serving(call.server):
                yield f"{call.uid} of {call.server} got an error of {named}"


def c3_nothing_follows_the_end(history: History) -> Iterator[str]:
    """What is wrong with a message is seen when it comes (tests/sim/client.py); so is everything else out of place."""
    yield from history.violations


def c4_nobody_gets_what_belongs_to_another(history: History) -> Iterator[str]:
    for client, at, text in history.received:
        for uid in _UID.findall(text):
            if not uid.startswith(client + "."):
                yield f"{client} got a message about {uid} at {at:.3f}: {text[:200]}"
    for uid, places in history.executed.items():
        calls = [call for call in history.calls if call.uid == uid]
        if len(calls) != 1:
            yield f"{uid} was carried out and belongs to {len(calls)} calls"
        elif not {server for server, _ in places} <= history.serving(calls[0].server):
            yield f"{uid} for {calls[0].server} was carried out by {places}"


def c5_at_most_once_after_send(history: History) -> Iterator[str]:
    for call in history.calls:
        count = len(history.executed.get(call.uid, ()))
        allowed = 1 + limits.RETRIES if HINTS[call.tool] else 1
        if count > allowed:
            yield f"{call.uid} ({call.tool}) was carried out {count} times"
        if call.outcome == "error" and call.data.get("sent") is False and count:
            yield f"{call.uid}: the client was told that it was not sent ({call.text}), and it was carried out"


def c6_few_calls_are_sent_again(history: History) -> Iterator[str]:
    """Within any period, over all servers: their share of the calls, and the floor of each server."""
    again = [at for places in history.executed.values() for _, at in places[1:]]
    servers = {server for call in history.calls for server in history.serving(call.server)}
    period = limits.REPLAY_PERIOD_S
    for at in again:
        sent = sum(at - 2 * period <= call.sent_at <= at for call in history.calls)
        repeated = sum(at - period <= one <= at for one in again)
        # A front that has just begun knows nothing of what the one before it repeated.
        fronts = 1 + sum(name == "front" and at - period <= started <= at for name, started in history.starts)
        if repeated > limits.REPLAY_SHARE * sent + limits.REPLAY_FLOOR * len(servers) * fronts:
            yield f"{repeated} calls were carried out again within {period} s before {at:.3f}, of {sent}"
            return


def c7_everything_is_bounded(history: History) -> Iterator[str]:
    servers = len({name for name, _ in history.starts if name.startswith("server ")})
    bounds = {
        "processes": servers + 2,
        "in flight": limits.IN_FLIGHT_PER_SERVER_MAX,
        "queued": limits.QUEUE_PER_SERVER_MAX,
        "pool": limits.POOL_CONNECTIONS_MAX,
        "pool queue": limits.QUEUE_PER_SERVER_MAX,
        "connections": limits.CONNECTIONS_MAX,
        "link bytes": limits.STREAM_BUFFER_HIGH_BYTES + STREAM_SLACK_BYTES,
        "descriptors of one": FRONT_DESCRIPTORS_MAX,
        "links of a worker": flight.LINKS,
    }
    for name, bound in bounds.items():
        if history.peaks[name] > bound:
            yield f"{name}: {history.peaks[name]}, and the bound is {bound}"


def c8_nothing_is_left(history: History) -> Iterator[str]:
    for name, count in history.rest.items():
        if count:
            yield f"{name}: {count}"


def c9_restarts_stay_in_their_window(history: History) -> Iterator[str]:
    """All workers are started anew with a zygote, which is the zygote's restart and not theirs."""
    starts: dict[str, list[float]] = defaultdict(list)
    for name, at in history.starts:
        if name == "zygote":
            starts = defaultdict(list, {"zygote": starts["zygote"]})
        starts[name].append(at)
        intensity, period = limits.RESTART_INTENSITY, limits.RESTART_PERIOD_S
        if name == "zygote":
            intensity, period = limits.TREE_INTENSITY, limits.TREE_PERIOD_S
        recent = [one for one in starts[name] if at - one <= period]
        if len(recent) > intensity + 1:
            yield f"{name} was started {len(recent)} times within {period:g} s before {at:.3f}"


def c10_a_healthy_server_is_never_refused(history: History) -> Iterator[str]:
    for call in history.calls:
        if call.outcome in ("error", "http") and not _suffered(history, call):
            when = f"sent at {call.sent_at:.3f}, failed at {call.ended_at:.3f}"
            yield f"{call.uid} of {call.server}, {when} for no reason: {call.code} {call.text}"
        elif call.outcome == "error" and call.data.get("sent") is False and not _all_suffered(history, call):
            yield f"{call.uid} failed at {call.ended_at:.3f} though a replica of {call.server} worked: {call.text}"
        if call.outcome == "error" and call.code not in OURS and not _suffered(history, call):
            yield f"{call.uid} got the error {call.code} {call.text}"


def c11_no_secret_is_told(history: History) -> Iterator[str]:
    """Arguments of calls, and the key of sessions."""
    secrets = (SESSION_KEY.hex(), repr(SESSION_KEY)[2:-1])
    for label, _, event, fields in history.logs:
        text = event + fields
        if _UID.search(text) or any(secret in text for secret in secrets):
            yield f"{label} logged {text[:300]}"


def liveness(history: History) -> Iterator[str]:
    """After all faults every server serves again; but for those whose workers failed so often that they are parked.

    The root itself may give up, but only if what it needs to start anything has failed again and again.
    """
    if history.finished_at < history.stopped_at:
        short = history.faults["zygote cannot be launched"] + history.faults["root is out of descriptors"]
        tried = sum(name == "zygote" for name, _ in history.starts) + 2 * short
        if tried <= limits.TREE_INTENSITY or history.exit_status != 1:
            yield f"the root left by itself at {history.finished_at:.3f}, with status {history.exit_status}"
        return
    for server, limit, served_at, said in history.probes:
        if served_at > limit or (served_at == math.inf and said != PARKED):
            yield f"{server} should serve again by {limit:.3f}, healed at {history.healed_at:.3f}; it said: {said}"


def stops_in_order(history: History) -> Iterator[str]:
    """Front, then servers' workers, then the zygote; and in time."""
    slept = sum(cause.until - cause.at for cause in history.causes if cause.kind == "machine suspended")
    if history.finished_at - history.stopped_at > limits.STOP_S + STOP_SLACK_S + slept:
        yield f"stopping took from {history.stopped_at:.3f} to {history.finished_at:.3f}"
    if not history.quiet_stop:
        return
    if history.exit_status != 0:
        yield f"the exit status is {history.exit_status}"
    ends = [end for end in history.ends if end.at >= history.stopped_at]
    order = [end.name for end in ends]
    if order[:1] != ["front"] or order[-1:] != ["zygote"] or len(set(order)) != len(order):
        yield f"the order of the ends is {order}"
    if any(end.status for end in ends):
        yield f"not everybody left by itself: {ends}"


CHECKERS: Final[dict[str, Checker]] = {
    "C1": c1_every_call_ends_exactly_once,
    "C2": c2_answers_belong_to_their_calls,
    "C3": c3_nothing_follows_the_end,
    "C4": c4_nobody_gets_what_belongs_to_another,
    "C5": c5_at_most_once_after_send,
    "C6": c6_few_calls_are_sent_again,
    "C7": c7_everything_is_bounded,
    "C8": c8_nothing_is_left,
    "C9": c9_restarts_stay_in_their_window,
    "C10": c10_a_healthy_server_is_never_refused,
    "C11": c11_no_secret_is_told,
    "liveness": liveness,
    "stop": stops_in_order,
}


def check(history: History) -> list[str]:
    """Return everything that is wrong with a history, each line beginning with its checker."""
    return [f"{name}: {text}" for name, checker in CHECKERS.items() for text in checker(history)]

"""Each policy for groups of replicas does what it is chosen for: fair, bounded, and calm when replicas come and go."""

from __future__ import annotations

import math
import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from protocol.balancing import POLICIES, Candidate, InOrder, LeastLoaded, PeakEwma, Sticky, Turns, canary, slow_start
from protocol.limits import FAIL_BACK_S, LATENCY_MEMORY_S, SLOW_START_S, STICKY_FLOOR, STICKY_LOAD_MAX

NAMES = [f"search-{number}" for number in range(1, 7)]


def candidate(
    name: str, *, weight: float = 1.0, in_flight: int = 0, latency_s: float = 0.01, since: float = 0.0
) -> Candidate:
    return Candidate(name, weight, in_flight, latency_s, since)


def no_chance() -> float:
    raise AssertionError("this policy is not one of chance")


candidates = st.lists(
    st.builds(
        Candidate,
        name=st.sampled_from(NAMES),
        weight=st.floats(0.01, 100),
        in_flight=st.integers(0, 300),
        latency_s=st.floats(0, 60),
        since=st.floats(0, 100),
    ),
    min_size=1,
    unique_by=lambda one: one.name,
)


@given(candidates, st.binary(max_size=8), st.floats(0, 1e6), st.integers())
def test_every_policy_chooses_one_of_the_candidates(found: list[Candidate], key: bytes, now: float, seed: int):
    draw = random.Random(seed).random
    for make in POLICIES.values():
        policy = make()
        for _ in range(3):
            assert policy.choose(found, key, now, draw) in found


# --- least loaded ----------------------------------------------------------------------------------------------------
@given(st.integers(2, 6), st.integers())
def test_least_loaded_never_takes_the_worst_of_all(count: int, seed: int):
    """Of two taken at random it is at most one, and then the other is better."""
    draw = random.Random(seed).random
    found = [candidate(name, in_flight=number) for number, name in enumerate(NAMES[:count])]
    for _ in range(50):
        assert LeastLoaded().choose(found, b"", 0.0, draw) is not found[-1]


def test_least_loaded_spreads_calls_over_equals():
    draw = random.Random(1).random
    load = dict.fromkeys(NAMES, 0)
    for _ in range(6000):
        found = [candidate(name, in_flight=in_flight) for name, in_flight in load.items()]
        load[LeastLoaded().choose(found, b"", 0.0, draw).name] += 1
    # With one choice the spread would be about the root of 1000; with two it is a few (ln ln n).
    assert max(load.values()) - min(load.values()) <= 6


def test_least_loaded_gives_a_replica_that_is_ten_times_slower_a_tenth_of_the_calls_at_a_time():
    draw = random.Random(2).random
    found = [candidate("slow", latency_s=0.1, in_flight=1), candidate("fast", latency_s=0.01, in_flight=18)]
    assert LeastLoaded().choose(found, b"", 0.0, draw).name == "fast"
    found = [candidate("slow", latency_s=0.1, in_flight=1), candidate("fast", latency_s=0.01, in_flight=20)]
    assert LeastLoaded().choose(found, b"", 0.0, draw).name == "slow"


def test_who_is_faster_by_a_hair_does_not_get_everything():
    draw = random.Random(4).random
    found = [candidate("a", latency_s=0.010), candidate("b", latency_s=0.011), candidate("c", latency_s=0.019)]
    taken = Counter(LeastLoaded().choose(found, b"", 0.0, draw).name for _ in range(3000))
    assert all(900 < count < 1100 for count in taken.values())


@given(st.floats(0.1, 100), st.integers(0, 60))
def test_least_loaded_takes_weights_into_account(weight: float, in_flight: int):
    draw = random.Random(5).random
    found = [candidate("a", weight=weight, in_flight=in_flight), candidate("b", in_flight=in_flight)]
    if weight != 1.0:
        assert LeastLoaded().choose(found, b"", 0.0, draw).name == ("a" if weight > 1.0 else "b")


# --- turns -----------------------------------------------------------------------------------------------------------
@given(st.integers(1, 6), st.integers(1, 20))
def test_round_robin_is_exact(count: int, rounds: int):
    policy, found = Turns(), [candidate(name) for name in NAMES[:count]]
    turns = [policy.choose(found, b"", 0.0, no_chance).name for _ in range(count * rounds)]
    assert turns == NAMES[:count] * rounds


@given(st.lists(st.integers(1, 20), min_size=1, max_size=6))
def test_weighted_turns_are_exact_in_each_round_and_never_far_from_it_within(weights: list[int]):
    policy = Turns()
    found = [candidate(name, weight=weight) for name, weight in zip(NAMES, weights, strict=False)]
    taken: Counter[str] = Counter()
    for number in range(1, sum(weights) + 1):
        taken[policy.choose(found, b"", 0.0, no_chance).name] += 1
        for one in found:
            assert abs(taken[one.name] - number * one.weight / sum(weights)) < len(weights)
    assert taken == {one.name: one.weight for one in found}


def test_a_heavy_replica_does_not_get_its_calls_in_one_go():
    policy, found = Turns(), [candidate("a", weight=5), candidate("b"), candidate("c")]
    assert "".join(policy.choose(found, b"", 0.0, no_chance).name for _ in range(7)) == "aabacaa"


def test_a_replica_that_was_away_does_not_make_up_for_it():
    policy, both, one = Turns(), [candidate("a"), candidate("b")], [candidate("a")]
    for _ in range(1000):
        policy.choose(one, b"", 0.0, no_chance)
    taken = Counter(policy.choose(both, b"", 0.0, no_chance).name for _ in range(10))
    assert taken == {"a": 5, "b": 5}


# --- in order --------------------------------------------------------------------------------------------------------
def test_the_first_gets_everything_and_the_next_only_while_it_is_away():
    policy, first, second = InOrder(), candidate("first"), candidate("second")
    assert policy.choose([first, second], b"", 100.0, no_chance) is first
    assert policy.choose([second], b"", 101.0, no_chance) is second


def test_the_first_gets_the_calls_back_only_when_it_has_been_back_for_a_while():
    policy, second = InOrder(), candidate("second")
    policy.choose([second], b"", 0.0, no_chance)
    back = candidate("first", since=50.0)
    assert policy.choose([back, second], b"", 50.0 + FAIL_BACK_S - 0.1, no_chance) is second
    assert policy.choose([back, second], b"", 50.0 + FAIL_BACK_S, no_chance) is back
    assert policy.choose([back], b"", 60.0, no_chance) is back


# --- sticky ----------------------------------------------------------------------------------------------------------
@given(st.integers(2, 6), st.integers(0, 5), st.lists(st.binary(min_size=1, max_size=16), min_size=1, max_size=50))
def test_when_a_replica_goes_only_its_own_clients_move(count: int, gone: int, keys: list[bytes]):
    found = [candidate(name) for name in NAMES[:count]]
    left = [one for one in found if one is not found[gone % count]]
    for key in keys:
        before = Sticky().choose(found, key, 0.0, no_chance)
        after = Sticky().choose(left, key, 0.0, no_chance)
        assert after is before or before is found[gone % count]


def test_clients_are_spread_as_the_weights_say():
    found = [candidate("a", weight=1), candidate("b", weight=1), candidate("c", weight=2)]
    taken = Counter(Sticky().choose(found, b"client %d" % number, 0.0, no_chance).name for number in range(8000))
    for name, share in (("a", 0.25), ("b", 0.25), ("c", 0.5)):
        assert abs(taken[name] / 8000 - share) < 0.02


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=6), st.lists(st.integers(0, 3), max_size=400))
def test_no_replica_gets_much_more_than_its_share_however_popular_its_clients_are(
    weights: list[float], calls: list[int]
):
    policy = Sticky()
    load = {name: 0 for name, _ in zip(NAMES, weights, strict=False)}
    for total, client in enumerate(calls):
        found = [candidate(name, weight=w, in_flight=load[name]) for name, w in zip(NAMES, weights, strict=False)]
        chosen = policy.choose(found, b"popular %d" % client, 0.0, no_chance)
        load[chosen.name] += 1
        bound = math.ceil(STICKY_LOAD_MAX * (total + 1) * chosen.weight / sum(weights))
        assert load[chosen.name] <= max(STICKY_FLOOR, bound)


def test_calls_without_a_key_are_spread():
    draw = random.Random(3).random
    found = [candidate(name) for name in NAMES]
    assert {Sticky().choose(found, b"", 0.0, draw).name for _ in range(200)} == set(NAMES)


# --- canaries --------------------------------------------------------------------------------------------------------
@given(st.lists(st.floats(0.1, 30), max_size=3), st.integers())
def test_each_canary_gets_its_percentage(percents: list[float], seed: int):
    draw = random.Random(seed).random
    wanted = dict(zip(NAMES, percents, strict=False))
    taken = Counter(canary(wanted, b"", draw) for _ in range(4000))
    for name in wanted:
        expected = wanted[name] / 100
        assert abs(taken[name] / 4000 - expected) < 5 * math.sqrt(expected * (1 - expected) / 4000)
    assert set(taken) <= {*wanted, ""}


@given(st.floats(0.1, 90), st.floats(0, 0.9), st.lists(st.binary(min_size=1, max_size=16), max_size=50))
def test_calls_of_one_client_are_all_set_apart_or_none_and_stay_so_when_the_percentage_grows(
    percent: float, less: float, keys: list[bytes]
):
    for key in keys:
        before = canary({"a": percent * less}, key, no_chance)
        after = canary({"a": percent}, key, no_chance)
        assert after == canary({"a": percent}, key, no_chance)
        assert not before or after == before


# --- what the policies are told --------------------------------------------------------------------------------------
def test_a_replica_that_has_come_back_gets_its_weight_little_by_little():
    assert slow_start(2.0, 0.0, 0.0) == 0.2
    assert slow_start(2.0, 0.0, SLOW_START_S / 2) == 1.0
    assert slow_start(2.0, 0.0, SLOW_START_S) == 2.0


def test_a_slow_answer_counts_at_once_and_is_forgotten_with_time():
    latency = PeakEwma()
    latency.observe(0.01, 0.0)
    latency.observe(1.0, 1.0)
    assert latency.at(1.0) == 1.0
    latency.observe(0.01, 1.0 + LATENCY_MEMORY_S)
    assert math.isclose(latency.at(1.0 + LATENCY_MEMORY_S), 0.01 + 0.99 / math.e)
    assert latency.at(1.0 + 20 * LATENCY_MEMORY_S) < 1e-6

"""Places that several fronts share: never more calls in flight than places, and nobody who waits is forgotten."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.backend.places import Places


class PlayedFront:
    """A front as the worker sees it through its link: what either says arrives later, in order."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.limit = 0
        self.waiting = 0
        self.unanswered = 0
        """Calls sent, of whose end it has not heard."""
        self.in_flight = 0
        """At the worker."""
        self.wants = False
        self.to_worker: deque[tuple[str, int]] = deque()
        self.to_front: deque[tuple[str, int]] = deque()
        self.served = 0

    def pump(self) -> None:
        while self.waiting and self.unanswered < self.limit:
            self.waiting -= 1
            self.unanswered += 1
            self.to_worker.append(("call", 0))
        if (wants := self.waiting > 0) is not self.wants:
            self.wants = wants
            self.to_worker.append(("want", int(wants)))

    def hear(self) -> None:
        what, number = self.to_front.popleft()
        if what == "limit":
            self.limit = number
            self.to_worker.append(("limited", number))
        else:
            self.unanswered -= 1
            self.served += 1
        self.pump()


class World:
    """A worker and its fronts."""

    def __init__(self, total: int, count: int) -> None:
        self.total = total
        self.places = Places[PlayedFront](total, count, lambda front: front.in_flight)
        self.fronts = [PlayedFront(self) for _ in range(count)]
        for front in self.fronts:
            self.tell([(front, self.places.join(front))])

    def tell(self, limits: list[tuple[PlayedFront, int]]) -> None:
        for front, limit in limits:
            front.to_front.append(("limit", limit))

    def hear(self, front: PlayedFront) -> None:
        """The worker reads one frame of a front."""
        what, number = front.to_worker.popleft()
        if what == "call":
            front.in_flight += 1
        elif what == "want":
            self.tell(self.places.want(front, wants=bool(number)))
        else:
            self.tell(self.places.acknowledged(front))
        self.check()

    def end(self, front: PlayedFront) -> None:
        """A call of a front ends at the server."""
        front.in_flight -= 1
        front.to_front.append(("end", 0))
        self.tell(self.places.ended())
        self.check()

    def check(self) -> None:
        assert sum(front.in_flight for front in self.fronts) <= self.total

    def settle(self) -> None:
        """Let everything arrive; no call ends."""
        while any(front.to_worker or front.to_front for front in self.fronts):
            for front in self.fronts:
                if front.to_worker:
                    self.hear(front)
                if front.to_front:
                    front.hear()

    def submit(self, front: PlayedFront, count: int) -> None:
        front.waiting += count
        front.pump()


STEPS = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from(["submit", "hear", "told", "end", "withdraw"])), max_size=120
)


@settings(max_examples=150, deadline=None)
@given(total=st.integers(1, 9), count=st.integers(2, 4), steps=STEPS)
def test_whatever_comes_in_whatever_order_the_places_hold_and_all_calls_are_served(
    total: int, count: int, steps: list[tuple[int, str]]
):
    world = World(total, count)
    for number, what in steps:
        front = world.fronts[number % count]
        if what == "submit":
            world.submit(front, 2)
        elif what == "hear" and front.to_worker:
            world.hear(front)
        elif what == "told" and front.to_front:
            front.hear()
        elif what == "end" and front.in_flight:
            world.end(front)
        elif what == "withdraw" and front.waiting:
            front.waiting -= 1
            front.pump()
    for _ in range(sum(front.waiting + front.unanswered for front in world.fronts) + 1):
        world.settle()
        for front in world.fronts:
            if front.in_flight:
                world.end(front)
    world.settle()
    assert [front.waiting + front.unanswered for front in world.fronts] == [0] * count


def test_one_front_that_is_alone_with_its_load_gets_nearly_all_places():
    world = World(64, 3)
    world.submit(world.fronts[0], 100)
    world.settle()
    assert world.fronts[0].in_flight == 62, "each of the others keeps one, so that its next call need not ask"


def test_fronts_that_all_want_more_get_equal_shares():
    world = World(64, 2)
    world.submit(world.fronts[0], 200)
    world.settle()
    world.submit(world.fronts[1], 200)
    for _ in range(80):
        world.settle()
        busiest = max(world.fronts, key=lambda front: front.in_flight)
        world.end(busiest)
    world.settle()
    assert [front.in_flight for front in world.fronts] == [32, 32]


def test_a_single_place_goes_around():
    world = World(1, 3)
    for front in world.fronts:
        world.submit(front, 5)
    order: list[int] = []
    for _ in range(15):
        world.settle()
        (one,) = [front for front in world.fronts if front.in_flight]
        order.append(world.fronts.index(one))
        world.end(one)
    for at in range(0, 15, 3):
        assert sorted(order[at : at + 3]) == [0, 1, 2]


@pytest.mark.parametrize("total", [1, 6])
def test_the_places_of_a_front_that_is_gone_are_free_again(total: int):
    world = World(total, 2)
    world.submit(world.fronts[0], 9)
    world.settle()
    gone = world.fronts.pop(0)
    gone.in_flight = 0
    world.submit(world.fronts[0], 9)
    world.tell(world.places.leave(gone))
    world.settle()
    assert world.fronts[0].in_flight == total

    new = PlayedFront(world)
    world.fronts.append(new)
    world.tell([(new, world.places.join(new))])
    world.submit(new, 1)
    for _ in range(3):
        world.settle()
        world.end(world.fronts[0])
    world.settle()
    assert new.served + new.in_flight == 1

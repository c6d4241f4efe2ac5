"""Fronts that share listening sockets also share what comes there."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.workers.front.test_other_fronts import Inboxes, inboxes  # noqa: F401
from tests.workers.scripted import bounded, running_front
from workers.front.crowd import LEAD_MAX, Crowd
from workers.reactor import ACCEPT_BURST_MAX


@pytest.fixture
def crowds() -> Iterator[list[Crowd]]:
    fd = os.memfd_create("crowd")
    os.truncate(fd, 16)
    made = [Crowd(os.dup(fd), 2, number) for number in range(2)]
    os.close(fd)
    yield made
    for one in made:
        one.close()


def test_who_has_many_more_connections_than_another_is_ahead(crowds: list[Crowd]):
    first, second = crowds
    first.note(LEAD_MAX)
    assert (first.is_ahead, second.is_ahead) == (False, False)
    first.note(LEAD_MAX + 1)
    assert (first.is_ahead, second.is_ahead) == (True, False)
    second.note(1)
    assert (first.is_ahead, second.is_ahead) == (False, False)


async def test_a_front_that_is_ahead_lets_another_accept_and_accepts_what_that_does_not_take(inboxes: Inboxes):  # noqa: F811
    count = ACCEPT_BURST_MAX
    other = Crowd(os.dup(inboxes.memory_fd), 2, 1)
    async with running_front(fronts=2, number=0, shared=inboxes.of(0)) as front:
        streams = [await trio.open_tcp_stream("127.0.0.1", front.port) for _ in range(count)]
        with bounded():
            while front.connections < count:  # nobody else takes them
                await wait_all_tasks_blocked(0.001)
        doors = front.worker._doors
        assert doors._holds_back() > 0
        other.note(count)
        assert doors._holds_back() == 0
        for stream in streams:
            stream.socket.close()
    other.close()

"""Fixtures of all tests of workers."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.workers.scripted import Front, RecordingLog, running_front, running_reactor
from workers.reactor import Reactor


@pytest.fixture
async def running() -> AsyncIterator[tuple[Reactor, RecordingLog]]:
    async with running_reactor() as pair:
        yield pair


@pytest.fixture
def reactor(running: tuple[Reactor, RecordingLog]) -> Reactor:
    """A reactor that runs. The test fails if one of its callbacks did and the test took no note of it."""
    return running[0]


@pytest.fixture
def log(running: tuple[Reactor, RecordingLog]) -> RecordingLog:
    """What that reactor logged."""
    return running[1]


@pytest.fixture
async def front() -> AsyncIterator[Front]:
    """A front with one server, called main."""
    async with running_front() as running:
        yield running

"""Waiting for what cannot tell us that it has happened, such as another process: look again until time is up."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

T = TypeVar("T")

PAUSE_MIN_S = 0.002
PAUSE_MAX_S = 0.05


def wait_until(look: Callable[[], T], what: str, timeout_s: float = 30.0) -> T:
    """Return the first truthy value of `look`.

    Errors: `AssertionError` naming `what` after `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    pause_s = PAUSE_MIN_S
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, PAUSE_MAX_S)
    return found


async def eventually(look: Callable[[], Awaitable[T]], what: str, timeout_s: float = 30.0) -> T:
    """Return the first truthy value of the asynchronous `look`.

    Errors: `AssertionError` naming `what` after `timeout_s`.
    """
    pause_s = PAUSE_MIN_S
    with trio.move_on_after(timeout_s):
        while True:
            if found := await look():
                return found
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSE_MAX_S)
    raise AssertionError(f"not within {timeout_s:g} s: {what}")

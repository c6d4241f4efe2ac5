"""The last 1.x of the official SDK, which has the transports that 2.x has dropped; kept in `.cache` of the checkout.

It cannot be installed beside 2.x, so it runs in processes of its own: `tests/peers/sdk1_peer.py`, with `environment`.
"""

from __future__ import annotations

import functools
import os
import sys

import pytest

from tests.nodejs import CACHE, UnavailableError, alone, run

REQUIREMENT = "mcp[ws]>=1.26,<2"


@functools.cache
def environment() -> dict[str, str]:
    """Return the variables of a process that imports it, installed first if it has not been."""
    home = CACHE / "sdk1"
    ready = home / "ready"
    try:
        with alone():
            if not ready.exists():
                run([sys.executable, "-m", "pip", "install", "-qq", "--target", str(home), REQUIREMENT])
                ready.touch()
    except UnavailableError as error:
        reason = f"{REQUIREMENT} cannot be installed here: {error}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return os.environ | {"PYTHONPATH": str(home), "PYTHONWARNINGS": "ignore"}

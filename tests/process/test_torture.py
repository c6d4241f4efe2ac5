"""Every call the root makes to the system fails now and then: it never dies of it, and in the end everybody serves."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

import pytest

from tests.process.harness import root
from tests.waiting import eventually

PATIENT = """
from protocol import limits
limits.RESTART_INTENSITY = limits.TREE_INTENSITY = 1000
limits.RESTART_BACKOFF_MIN_S, limits.RESTART_BACKOFF_MAX_S = 0.001, 0.05
"""
FAILING = (
    PATIENT
    + """
import errno, os
from supervisor.machine import LinuxMachine
calls = {{}}

def failing(name):
    real = getattr(LinuxMachine, name)
    def call(self, *arguments):
        calls[name] = calls.get(name, 0) + 1
        if calls[name] in {failing}:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(self, *arguments)
    setattr(LinuxMachine, name, call)

for name in {names}:
    failing(name)
"""
)
CALLS = ("launch", "open_process", "require_descriptors", "shared_memory", "control_pair", "link_pair", "duplicate")
TWO = {"main": "mcp", "other": "mcp"}


@pytest.mark.case("C-29", "C-22", "C-21")
async def test_a_call_to_the_system_that_fails_is_a_failed_start_and_nothing_worse():
    async with root(TWO, prelude=FAILING.format(names=CALLS, failing=(1, 2, 4, 7, 8, 12))) as proxy:
        for victim in ("server main", "front", "zygote", "server main", "front"):
            for name in TWO:
                await proxy.server(name)
            if pid := proxy.process_of(victim):  # it may be dead already, with its zygote
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for name in TWO:
            assert (await proxy.server(name))["name"] == name
        assert not [line for line in proxy.lines if "crashed" in line], "the root, the zygote, or a worker"

        async def are_all_there() -> bool:
            return sorted(proxy.roles()) == ["front", "server main", "server other", "zygote"]

        await eventually(are_all_there, "one process of each kind")

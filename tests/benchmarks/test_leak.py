"""python -m benchmarks leak: what comes and goes and what is killed leaves nothing, and if it did, it would be seen."""

from __future__ import annotations

import dataclasses
import json
import os
import socket

import pytest

from benchmarks.leak import FRONT, WORKERS, ZYGOTE, Held, compare
from benchmarks.visits import reset
from tests.benchmarks.runs import Start, finished

pytestmark = pytest.mark.alone  # what is measured is compared with something

MIB = 1024 * 1024
HELD = Held(6, 87, 0, {"root": 30 * MIB, ZYGOTE: 30 * MIB, FRONT: 30 * MIB, WORKERS: 90 * MIB})


def missed(between: Held = HELD, after: Held = HELD) -> list[str]:
    return [verdict.what for verdict in compare(HELD, between, after) if not verdict.kept]


def test_what_is_as_before_is_no_leak() -> None:
    assert missed() == []
    assert missed(after=dataclasses.replace(HELD, rss=HELD.rss | {FRONT: 40 * MIB})) == [], "that front is another one"


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"processes": 7}, "processes more or fewer"),
        ({"descriptors": 88}, "descriptors more or fewer"),
        ({"descriptors": 86}, "descriptors more or fewer"),
        ({"clients": 1}, "connections of clients left"),
    ],
)
def test_one_thing_more_is_a_leak_in_either_half(changed: dict[str, int], what: str) -> None:
    assert missed(between=dataclasses.replace(HELD, **changed)) == [f"{what} after clients came and went"]
    assert missed(after=dataclasses.replace(HELD, **changed)) == [f"{what} after processes were killed"]


@pytest.mark.parametrize("role", ["root", ZYGOTE, FRONT, WORKERS])
def test_more_memory_is_a_leak_wherever_it_is(role: str) -> None:
    grown = dataclasses.replace(HELD, rss=HELD.rss | {role: int(HELD.rss[role] * 1.06)})

    assert missed(between=grown) == [f"% more memory in {role} after clients came and went"]


def test_a_client_that_crashes_sends_a_reset() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
        with accepted:
            reset(client)
            client.close()
            with pytest.raises(ConnectionResetError):
                os.read(accepted.fileno(), 1)


@pytest.mark.slow
@pytest.mark.promise("R13", "R14")
@pytest.mark.case("A-21", "A-27", "C-01", "C-04", "C-05")
def test_a_thousand_clients_and_some_kills_leave_nothing_behind(start_run: Start) -> None:
    code, out, err = finished(start_run("leak", "--quick", "--check", "--json", "-"))

    assert code == 0, err
    found = json.loads(out)
    assert found["killed"] == {"server's worker": 10, "front": 4, "zygote": 1}
    assert found["stayed"]["answered"] + found["stayed"]["failed"] == 125
    assert found["stayed"]["answered"] > 100
    assert len(found["targets"]) == 12

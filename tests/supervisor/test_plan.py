"""What the processes are told when they start."""

from __future__ import annotations

import pytest

from protocol import limits
from protocol.control import PACKET_BYTES_MAX, encode
from supervisor import config, memory
from supervisor.config import Group, Server, Settings
from supervisor.memory import ClientMemory
from supervisor.plan import Holdings, child_specs, front_boot, queue_share, server_boot
from supervisor.spec import Role

HOLDINGS = Holdings(listeners=(), session_key=b"k" * 32, log_fd=7, inherited=frozenset())


def test_the_largest_boot_order_that_the_command_line_allows_fits_into_a_packet():
    tools = tuple((f"{number:03}", 1.5) for number in range(config.TOOLS_BYTES_MAX // (3 + config.TOOL_EXTRA_BYTES)))
    own = {"call_timeout_s": 0.1, "in_flight_max": 64, "queue_max": config.QUEUE_MAX}
    groups = tuple(Group(f"{number:032}", policy="round_robin") for number in range(limits.GROUPS_MAX))
    servers = tuple(
        Server(f"s{number:031}", "u" * 200, group=groups[number % len(groups)].name, **own)
        for number in range(config.SERVERS_MAX)
    )
    settings = Settings(
        (
            *servers,
            Server("last", "u" * (config.SERVERS_BYTES_MAX - 232 * config.SERVERS_MAX - 4), tool_timeouts=tools),
        ),
        groups,
        allowed_hosts=("h" * 253,) * config.NAMES_MAX,
        allowed_origins=("o" * config.ORIGIN_CHARS_MAX,) * config.NAMES_MAX,
        path="/" + "p" * (config.PATH_CHARS_MAX - 1),
    )
    kept = ClientMemory()
    kept.keep_stdio_session("s" * memory.ID_CHARS_MAX)
    for number in range(10_000):
        kept.keep_ended(str(number))

    boot, _ = front_boot(settings, settings.servers, HOLDINGS, 1, kept.stdio_session, next(kept.ended_parts()))

    assert len(encode(boot)) < PACKET_BYTES_MAX
    assert b"uuu" not in encode(boot), "where servers are is no business of a front"


def test_what_is_allowed_for_all_servers_is_told_to_the_worker_of_each():
    for allowed in (False, True):
        settings = Settings((server := Server("main", "https://a.example/mcp"),), allow_private=allowed)
        boot, _ = server_boot(settings, HOLDINGS, 1, server)
        assert boot.settings.route.allow_private is allowed


def test_descriptors_come_in_the_documented_order():
    settings = Settings((Server("main", "http://a/"),), stdio=True)

    assert front_boot(settings, settings.servers, HOLDINGS, 1, "", [], ledger=5)[1] == [0, 1, 5, 7]
    assert front_boot(settings, settings.servers, HOLDINGS, 1, None, [])[1] == [7]
    assert server_boot(settings, HOLDINGS, 1, settings.servers[0])[1] == [7]


def test_several_fronts_are_children_of_their_own_and_know_which_they_are():
    settings = Settings((Server("main", "http://a/"),), http=True, fronts=3)
    names = [spec.name for spec in child_specs(settings) if spec.role is Role.FRONT]
    assert names == ["front", "front #2", "front #3"]
    for number, name in enumerate(names):
        boot, fds = front_boot(settings, settings.servers, HOLDINGS, 1, None, [], number=number, inboxes=[20, 21])
        assert (boot.name, boot.settings.number, boot.settings.fronts) == (name, number, 3)
        assert fds == [20, 21, 7]


@pytest.mark.parametrize(("queue_max", "fronts", "shares"), [(256, 1, [256]), (256, 3, [86, 85, 85]), (0, 1, [0])])
def test_the_calls_that_may_wait_for_a_server_are_divided_among_the_fronts(
    queue_max: int, fronts: int, shares: list[int]
):
    assert [queue_share(queue_max, number, fronts) for number in range(fronts)] == shares


def test_each_of_several_fronts_may_let_one_call_wait_for_a_place_it_has_to_ask_for():
    assert [queue_share(0, number, 2) for number in range(2)] == [1, 1]

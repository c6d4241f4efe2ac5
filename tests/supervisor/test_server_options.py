"""Options that are for every server or for one: who gets which limit, and how mistakes are told."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from protocol import limits
from protocol.control import BackendSettings, FrontSettings, ServerInfo
from supervisor import config, plan
from supervisor.cli import UsageError, parse
from supervisor.config import Settings
from supervisor.machine import LinuxMachine
from supervisor.memory_watch import MemoryWatch
from supervisor.plan import Holdings

BASE = ["--http", "--servers", "main=http://a/mcp,slow=http://b/mcp"]
HOLDINGS = Holdings(listeners=(), session_key=b"k" * 32, log_fd=None, inherited=frozenset())


def told(settings: Settings) -> dict[str, ServerInfo]:
    """What the processes are told of each server: its own worker all, the front all but where it is."""
    boot, _ = plan.front_boot(settings, settings.servers, HOLDINGS, 1, None, [])
    assert isinstance(boot.settings, FrontSettings)
    for server, info in zip(settings.servers, boot.settings.servers, strict=True):
        own, _ = plan.server_boot(settings, HOLDINGS, 1, server)
        assert isinstance(own.settings, BackendSettings)
        assert msgspec.structs.replace(own.settings.server, url="") == info
    return {info.name: info for info in boot.settings.servers}


def memory(settings: Settings) -> dict[str, int]:
    watch = MemoryWatch(LinuxMachine(), settings.memory_limit, lambda *_: None)
    return {server.name: watch.limit(server) for server in settings.servers}


def test_without_options_every_server_has_the_documented_limits():
    settings = parse(BASE)

    for info in told(settings).values():
        assert (info.call_timeout_s, info.tool_timeouts) == (60.0, {})
        assert (info.in_flight_max, info.queue_max) == (64, 256)
    assert memory(settings) == {"main": 1024 * limits.MIB, "slow": 1024 * limits.MIB}


def test_a_timeout_is_for_every_server_for_one_or_for_one_tool():
    timeouts = ("30", "slow=120", "slow.report=600", "main.ns.tool=x=1.5")
    infos = told(parse([*BASE, *(part for each in timeouts for part in ("--call-timeout", each))]))

    assert (infos["main"].call_timeout_s, infos["slow"].call_timeout_s) == (30.0, 120.0)
    assert infos["slow"].timeout_s("tools/call", "report") == 600.0
    assert infos["slow"].timeout_s("tools/call", "other") == 120.0
    assert infos["main"].timeout_s("tools/call", "report") == 30.0
    assert infos["main"].timeout_s("tools/call", "ns.tool=x") == 1.5, "names of tools may hold dots and '='"


def test_a_timeout_of_zero_means_as_long_as_a_call_may_take():
    infos = told(parse([*BASE, "--call-timeout", "0", "--call-timeout", "slow=5", "--call-timeout", "slow.report=0"]))

    assert infos["main"].call_timeout_s == limits.CALL_CEILING_S
    assert infos["slow"].call_timeout_s == 5.0
    assert infos["slow"].timeout_s("tools/call", "report") == limits.CALL_CEILING_S


def test_of_two_values_for_the_same_the_last_counts():
    infos = told(parse([*BASE, "--call-timeout", "5", "--call-timeout", "main=6", "--call-timeout", "7",
                        "--call-timeout", "main=8"]))  # fmt: skip

    assert (infos["main"].call_timeout_s, infos["slow"].call_timeout_s) == (8.0, 7.0)


@pytest.mark.parametrize(
    ("size", "bytes_"),
    [
        ("512MiB", 512 * 2**20),
        ("1GiB", 2**30),
        ("1.5 GiB", 3 * 2**29),
        ("500MB", 500_000_000),
        ("2g", 2_000_000_000),
        ("64mib", 64 * 2**20),
        ("134217728", 2**27),
        ("0", 0),
    ],
)
def test_memory_is_given_as_people_write_sizes(size: str, bytes_: int):
    assert memory(parse([*BASE, "--memory-limit", f"slow={size}"])) == {"main": 1024 * limits.MIB, "slow": bytes_}
    assert memory(parse([*BASE, "--memory-limit", size])) == {"main": bytes_, "slow": bytes_}


def test_calls_in_flight_and_waiting_are_limited_for_each_server():
    options = ["--in-flight", "8", "--in-flight", "slow=1", "--queue", "slow=0"]
    infos = told(parse([*BASE, *options]))

    assert {name: (info.in_flight_max, info.queue_max) for name, info in infos.items()} == {
        "main": (8, 256),
        "slow": (1, 0),
    }


def test_calls_are_given_to_the_next_worker_as_often_as_the_options_say(tmp_path: Path):
    infos = told(parse([*BASE, "--retries", "1", "--retries", "slow=0"]))
    assert (infos["main"].retries_max, infos["slow"].retries_max) == (1, 0)

    file = tmp_path / "c.toml"
    file.write_text(
        'http = true\nretries = 3\ntrust_annotations = false\n[servers.main]\nurl = "http://a/mcp"\n'
        '[servers.slow]\nurl = "http://b/mcp"\nretries = 1\ntrust_annotations = true\n'
    )
    infos = told(parse(["--config", str(file)]))
    assert [(one.retries_max, one.trust_annotations) for one in infos.values()] == [(3, False), (1, True)]


def test_calls_become_tasks_after_a_time_for_all_servers_or_for_one_and_never_unless_told():
    assert {info.durable_after_s for info in told(parse(BASE)).values()} == {0.0}
    infos = told(parse([*BASE, "--durable-after", "10", "--durable-after", "slow=2.5"]))
    assert (infos["main"].durable_after_s, infos["slow"].durable_after_s) == (10.0, 2.5)


@pytest.mark.parametrize("value", ["-1", "3600", "nan", "soon"])
def test_a_time_after_which_no_call_runs_any_more_is_refused(value: str):
    with pytest.raises(UsageError, match=r"--durable-after.*seconds, less than 3600"):
        parse([*BASE, "--durable-after", value])


def test_an_option_counts_more_than_the_file_and_leaves_alone_what_it_does_not_say(tmp_path: Path):
    file = tmp_path / "c.toml"
    file.write_text(
        'http = true\ncall_timeout = 10\nmemory_limit = "512MiB"\nin_flight = 8\nqueue = 16\n'
        '[servers.main]\nurl = "http://a/mcp"\n'
        '[servers.slow]\nurl = "http://b/mcp"\ncall_timeout = 120\ntool_timeouts = { report = 600, quick = 1 }\n'
        'memory_limit = "2GiB"\nin_flight = 4\nqueue = 0\n'
    )
    asked = ["--config", str(file)]
    plain = parse(asked)
    infos = told(plain)
    assert (infos["main"].call_timeout_s, infos["main"].in_flight_max, infos["main"].queue_max) == (10.0, 8, 16)
    assert (infos["slow"].call_timeout_s, infos["slow"].in_flight_max, infos["slow"].queue_max) == (120.0, 4, 0)
    assert infos["slow"].tool_timeouts == {"report": 600.0, "quick": 1.0}
    assert memory(plain) == {"main": 512 * limits.MIB, "slow": 2048 * limits.MIB}

    given = parse(
        [*asked, "--call-timeout=20", "--call-timeout=slow.quick=2", "--memory-limit=slow=1GiB", "--queue=32"]
    )
    infos = told(given)
    assert (infos["main"].call_timeout_s, infos["main"].in_flight_max, infos["main"].queue_max) == (20.0, 8, 32)
    assert (infos["slow"].call_timeout_s, infos["slow"].in_flight_max, infos["slow"].queue_max) == (120.0, 4, 0)
    assert infos["slow"].tool_timeouts == {"report": 600.0, "quick": 2.0}
    assert memory(given) == {"main": 512 * limits.MIB, "slow": 1024 * limits.MIB}


WRONG = {
    "a server that is not there": ("--call-timeout", "slo=5", "no server 'slo'; the servers are main, slow"),
    "a tool of a server that is not there": ("--call-timeout", "slo.report=5", "no server 'slo'"),
    "a tool without a name": ("--call-timeout", "slow.=5", "names no tool"),
    "a tool with a long name": ("--call-timeout", f"slow.{'x' * 129}=5", "names no tool"),
    "nothing before the =": ("--call-timeout", "=5", "no server ''"),
    "a time that is none": ("--call-timeout", "slow=soon", "'soon' is not a time"),
    "a negative time": ("--call-timeout", "slow=-1", "'-1' is not a time"),
    "more than the ceiling": ("--call-timeout", "slow.report=3601", "at most 3600"),
    "a tool where there can be none": ("--memory-limit", "slow.report=1GiB", "no server 'slow.report'"),
    "a size that is none": ("--memory-limit", "slow=lots", "'lots' is not a memory limit"),
    "a size of another unit": ("--memory-limit", "1TiB", "not a memory limit"),
    "less than a worker needs": ("--memory-limit", "slow=63MiB", "at least 64MiB"),
    "a negative size": ("--memory-limit", "-1GiB", "--memory-limit"),
    "no call at all": ("--in-flight", "slow=0", "from 1 to 64"),
    "more calls than connections": ("--in-flight", "65", "from 1 to 64"),
    "a number of calls that is none": ("--in-flight", "slow=many", "'many' is not a number of calls"),
    "an endless queue": ("--queue", "4097", "from 0 to 4096"),
}
"""What is wrong → the option, its value, and what the message must say."""


@pytest.mark.parametrize(("option", "value", "said"), WRONG.values(), ids=WRONG.keys())
def test_a_limit_that_makes_no_sense_is_refused_by_name(option: str, value: str, said: str):
    with pytest.raises(UsageError) as refused:
        parse([*BASE, f"{option}={value}"])

    assert option in str(refused.value)
    assert said in str(refused.value)


def test_more_tools_than_a_boot_order_holds_are_refused():
    count = config.TOOLS_BYTES_MAX // (112 + config.TOOL_EXTRA_BYTES)
    timeouts = [f"--call-timeout=slow.{number:0112}=5" for number in range(count)]
    parse([*BASE, *timeouts])
    with pytest.raises(UsageError, match=f"--call-timeout: {count + 1} tools have timeouts"):
        parse([*BASE, *timeouts, "--call-timeout=main.oneTooMany=5"])

"""What the processes are told when they start."""

from __future__ import annotations

from protocol.control import PACKET_BYTES_MAX, encode
from supervisor import config, memory
from supervisor.config import Server, Settings
from supervisor.memory import ClientMemory
from supervisor.plan import Holdings, front_boot, server_boot

HOLDINGS = Holdings(listeners=(), session_key=b"k" * 32, log_fd=7, inherited=frozenset())


def test_the_largest_boot_order_that_the_command_line_allows_fits_into_a_packet():
    tools = tuple((f"{number:03}", 1.5) for number in range(config.TOOLS_BYTES_MAX // (3 + config.TOOL_EXTRA_BYTES)))
    own = {"call_timeout_s": 0.1, "in_flight_max": 64, "queue_max": config.QUEUE_MAX}
    servers = tuple(Server(f"s{number:03}", "u" * 200, **own) for number in range(config.SERVERS_MAX))
    settings = Settings(
        (
            *servers,
            Server("last", "u" * (config.SERVERS_BYTES_MAX - 204 * config.SERVERS_MAX - 4), tool_timeouts=tools),
        ),
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


def test_descriptors_come_in_the_documented_order():
    settings = Settings((Server("main", "http://a/"),), stdio=True)

    assert front_boot(settings, settings.servers, HOLDINGS, 1, "", [])[1] == [0, 1, 7]
    assert front_boot(settings, settings.servers, HOLDINGS, 1, None, [])[1] == [7]
    assert server_boot(settings, HOLDINGS, 1, settings.servers[0])[1] == [7]

"""Read the options that are for every server or for one: `[SERVER=]VALUE`, and `[SERVER[.TOOL]=]SECONDS` for timeouts.

Each may be given several times; of two values for the same the last counts, as for other options.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, TypeVar

from supervisor import config
from supervisor.config import ConfigError, Server, Settings, shown

OPTIONS: Final = ("call_timeout", "memory_limit", "in_flight", "queue", "retries", "durable_after")
"""As argparse names them; what `apply` takes."""
_T = TypeVar("_T")


def apply(
    settings: Settings,
    *,
    call_timeout: Iterable[str],
    memory_limit: Iterable[str],
    in_flight: Iterable[str],
    queue: Iterable[str],
    retries: Iterable[str],
    durable_after: Iterable[str],
) -> Settings:
    """Return the settings with what these options say, each of which counts more than what was there before.

    Errors: `ConfigError` that names the option.
    """
    names = [server.name for server in settings.servers]
    timeouts = _read("--call-timeout", call_timeout, config.parse_call_timeout, names, tools=True)
    memory = _read("--memory-limit", memory_limit, config.parse_memory_limit, names)
    flights = _read("--in-flight", in_flight, config.parse_in_flight, names)
    queues = _read("--queue", queue, config.parse_queue, names)
    retried = _read("--retries", retries, config.parse_retries, names)
    kept = _read("--durable-after", durable_after, config.parse_durable_after, names)

    def with_own(server: Server) -> Server:
        own = [(target.split(".", 1), timeout_s) for target, timeout_s in timeouts.items() if "." in target]
        tools = {tool: timeout_s for (name, tool), timeout_s in own if name == server.name}
        return dataclasses.replace(
            server,
            call_timeout_s=timeouts.get(server.name, server.call_timeout_s),
            tool_timeouts=tuple({**dict(server.tool_timeouts), **tools}.items()),
            memory_limit=memory.get(server.name, server.memory_limit),
            in_flight_max=flights.get(server.name, server.in_flight_max),
            queue_max=queues.get(server.name, server.queue_max),
            retries_max=retried.get(server.name, server.retries_max),
            durable_after_s=kept.get(server.name, server.durable_after_s),
        )

    changed = dataclasses.replace(
        settings,
        servers=tuple(map(with_own, settings.servers)),
        call_timeout_s=timeouts.get("", settings.call_timeout_s),
        memory_limit=memory.get("", settings.memory_limit),
        in_flight_max=flights.get("", settings.in_flight_max),
        queue_max=queues.get("", settings.queue_max),
        retries_max=retried.get("", settings.retries_max),
        durable_after_s=kept.get("", settings.durable_after_s),
    )
    try:
        config.check_servers(changed.servers)
    except ConfigError as error:
        raise ConfigError(f"--call-timeout: {error}") from None
    return changed


def _read(
    option: str, texts: Iterable[str], parse: Callable[[str], _T], names: Sequence[str], *, tools: bool = False
) -> Mapping[str, _T]:
    """Return the values by what they are for: "" for every server, "main", "main.report"."""
    values: dict[str, _T] = {}
    for text in texts:
        target, equals, value = (part.strip() for part in text.rpartition("="))  # a tool may have a "=" in its name
        try:
            if equals:
                _check_target(target, names, tools=tools)
            values[target] = parse(value)
        except ConfigError as error:
            raise ConfigError(f"{option}: {error}") from None
    return values


def _check_target(target: str, names: Sequence[str], *, tools: bool) -> None:
    server, dot, tool = target.partition(".") if tools else (target, "", "")
    if server not in names:
        raise ConfigError(f"there is no server {shown(server)}; the servers are {', '.join(names)}")
    if dot:
        try:
            config.check_tool_name(tool)
        except ConfigError:
            advice = "write SERVER.TOOL=SECONDS with the name the server gives it"
            raise ConfigError(f"{shown(target)} names no tool; {advice}") from None

"""The operations behind every management door: what may be asked for, and the exact shapes of the answers.

The doors (the tools of the front, the admin socket, `ctl` behind it) differ only in how a request gets here.
What is changed is written into the configuration file. Without one, or if it cannot be written, a change is made all
the same but does not outlive this run, and says so: `"persisted": false`.
"""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from protocol import management
from protocol.control import Checked
from protocol.health import ERROR, HEALTHY, PROXY_ERROR, UNHEALTHY
from protocol.limits import LOG_LINES_KEPT_MAX
from protocol.log_lines import clean, safe
from protocol.management import Request
from supervisor import command, config
from supervisor.changes import Changes, Refused, UnknownServer, Unreachable
from supervisor.config import ConfigError, Server, Settings
from supervisor.exposition import OPENMETRICS, TEXT
from supervisor.logs import Log
from supervisor.metrics import Metrics
from supervisor.news import News
from supervisor.roster import Roster
from supervisor.status import ConfigurationStatus, Status

if TYPE_CHECKING:
    from supervisor.configuration.config_file import ConfigFile
    from supervisor.configuration.reloading import Reloading

TRANSPORTS: Final = {"": "", "auto": "", "streamable-http": "http", "http": "http", "sse": "sse", "ws": "ws"}
"""Of servers that have a URL, by what callers write."""
COMMAND_TRANSPORTS: Final = frozenset({"", "auto", "stdio"})
NAME_SHOWN_MAX: Final = 80
NO_FILE: Final = "the proxy was started without a configuration file (--config)"
CONNECTION_REFUSED: Final = "Connection refused"

OK: Final = 200
CREATED: Final = 201
BAD_REQUEST: Final = 400
NOT_FOUND: Final = 404
CONFLICT: Final = 409
INTERNAL: Final = 500
BAD_GATEWAY: Final = 502


class Failed(msgspec.Struct, omit_defaults=True):
    """What went wrong. `status` is the health status of a server that did not answer as it should."""

    success: bool
    error: str
    status: str = ""
    available_servers: list[str] | None = None


class Changed(msgspec.Struct, omit_defaults=True):
    """A change was made, or need not be."""

    success: bool
    message: str
    name: str
    persisted: bool | None = None
    """Whether it outlives this run; None for what is no setting."""


class Added(msgspec.Struct, omit_defaults=True):
    """A server was taken in, or would be."""

    success: bool
    message: str
    name: str
    url: str
    """Or its command."""
    persisted: bool
    dry_run: bool = False
    tool_count: int | None = None
    tools: list[str] | None = None
    """As its own list names them; None if it was not asked. At most `TOOLS_REPORTED_MAX`."""
    response_time_ms: float | None = None


class HealthCheck(msgspec.Struct):
    """What one check found."""

    success: bool
    name: str
    health_status: str
    response_time_ms: float | None
    last_health_check: str | None
    error: str | None


class HealthSummary(msgspec.Struct):
    total_count: int
    enabled_count: int
    healthy_count: int


class HealthChecks(msgspec.Struct):
    """What the checks of all servers found."""

    success: bool
    results: dict[str, HealthCheck]
    summary: HealthSummary


class Lines(msgspec.Struct):
    """The last lines about a server, oldest first."""

    success: bool
    name: str
    lines: list[str]


class Reloaded(msgspec.Struct):
    """What the configuration file asks for, done or to be done."""

    success: bool
    message: str
    plan: list[str]
    """One step a line; empty if everything is so already."""


class Answer(msgspec.Struct, frozen=True):
    """The answer to a request, and the HTTP status that goes with it."""

    status: int
    body: bytes
    content_type: bytes = b"application/json"


class Operations:
    """Carries out requests. They may overlap; `Changes` sees to it that they do not get into each other's way."""

    def __init__(
        self,
        settings: Settings,
        roster: Roster,
        changes: Changes,
        news: News,
        status: Status,
        log: Log,
        file: ConfigFile | None = None,
        reloading: Reloading | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        """`file` and `reloading`: both, or none if there is no configuration file."""
        self._file = file
        self._reloading = reloading
        self._metrics = metrics
        self._separator = settings.separator
        self._allows_commands = settings.allow_stdio_add
        self._roster = roster
        self._changes = changes
        self._news = news
        self._status = status
        self._log = log
        self._doing: dict[str, Callable[[Request], Awaitable[Answer]]] = {
            management.ADD: self._add,
            management.REMOVE: self._remove,
            management.LIST: self._list,
            management.ENABLE: self._enable,
            management.DISABLE: self._disable,
            management.HEALTH: self._health,
            management.RESTART: self._restart,
            management.DRAIN: self._drain,
            management.UNDRAIN: self._undrain,
            management.WEIGHT: self._weigh,
            management.LOGS: self._logs,
            management.PROXY_STATUS: self._proxy_status,
            management.PROXY_HEALTH: self._proxy_health,
            management.RELOAD: self._reload,
            management.ROLLBACK: self._roll_back,
        }

    async def serve(self, request: Request) -> Answer:
        """Do what is asked for. Whatever goes wrong is an answer."""
        try:
            operation = self._doing.get(request.operation)
            if operation is None:
                return _failed(BAD_REQUEST, "there is no such operation")
            return await operation(request)
        except UnknownServer:
            return self._not_found(request.name)
        except Unreachable as error:
            return self._unreachable(error.checked)
        except Refused as error:
            return _failed(CONFLICT, str(error))
        except ConfigError as error:
            return _failed(BAD_REQUEST, str(error))
        except Exception as error:  # noqa: BLE001 - a defect in one operation must not take the root, and so everything
            self._log.error(f"the operation {request.operation} failed: {error!r}", exception=traceback.format_exc())
            return _failed(INTERNAL, "internal error; the log of the proxy says more")

    # --- questions ---------------------------------------------------------------------------------------------------
    async def _list(self, request: Request) -> Answer:
        del request
        return _answer(self._status.servers())

    async def _proxy_status(self, request: Request) -> Answer:
        del request
        return _answer(self._status.proxy(self._followed()))

    def metrics(self, *, openmetrics: bool) -> Answer:
        """Return what a Prometheus asks for. Only for the admin door: it is no JSON."""
        assert self._metrics is not None
        body = self._metrics.render(self._followed(), openmetrics=openmetrics)
        return Answer(OK, body, OPENMETRICS if openmetrics else TEXT)

    def _followed(self) -> ConfigurationStatus | None:
        if self._reloading is None:
            return None
        problem = safe(self._reloading.problem) or None
        return ConfigurationStatus(self._reloading.path, problem, list(self._reloading.restart_needed))

    async def _proxy_health(self, request: Request) -> Answer:
        del request
        return _answer(self._status.health())

    async def _logs(self, request: Request) -> Answer:
        if request.name not in self._roster.entries:
            raise UnknownServer
        if not 1 <= request.lines <= LOG_LINES_KEPT_MAX:
            return _failed(BAD_REQUEST, f"lines must be 1 to {LOG_LINES_KEPT_MAX}")
        return _answer(Lines(True, request.name, list(self._news.lines(request.name))[-request.lines :]))

    async def _health(self, request: Request) -> Answer:
        if request.name in ("", management.ALL):
            return await self._health_of_all()
        checked = await self._changes.check(request.name)
        if checked is not None and checked.problem:
            return self._unreachable(checked)
        check = self._health_check(request.name, checked)
        if check.error is not None:
            return _failed(OK, check.error, check.health_status)
        return _answer(check)

    async def _health_of_all(self) -> Answer:
        results: dict[str, HealthCheck] = {}

        async def check(name: str) -> None:
            try:
                results[name] = self._health_check(name, await self._changes.check(name))
            except UnknownServer:
                results.pop(name, None)  # it was removed meanwhile

        async with trio.open_nursery() as nursery:
            for name in self._roster.entries:
                nursery.start_soon(check, name)
        ordered = {name: results[name] for name in self._roster.entries if name in results}
        enabled = [name for name in ordered if self._roster.entries[name].server.enabled]
        healthy = sum(ordered[name].success for name in enabled)
        return _answer(HealthChecks(True, ordered, HealthSummary(len(ordered), len(enabled), healthy)))

    def _health_check(self, name: str, checked: Checked | None) -> HealthCheck:
        if name not in self._roster.entries:
            raise UnknownServer
        row = self._status.server(name)
        if checked is None and row.state != "disabled" and self._roster.entries[name].server.discover:
            found = row.health_status == HEALTHY
            error = None if found else row.last_error or "its name has not been looked up yet"
            return HealthCheck(found, name, row.health_status, None, row.last_health_check, error)
        if checked is None:
            error = {
                "disabled": f"Server '{name}' is disabled",
                "parked": f"The worker process of server '{name}' keeps failing; restart it, or wait for the next try",
            }.get(row.state, f"Server '{name}' has no worker process right now; it is being started")
            return HealthCheck(False, name, row.health_status, None, row.last_health_check, error)
        if not checked.problem:
            return HealthCheck(True, name, HEALTHY, round(checked.response_ms, 3), row.last_health_check, None)
        return HealthCheck(False, name, _health_of(checked), None, row.last_health_check, _problem(checked))

    # --- changes -----------------------------------------------------------------------------------------------------
    async def _add(self, request: Request) -> Answer:
        server = self._new_server(request)
        checked = await self._changes.add(server, force=request.force, dry_run=request.dry_run)
        what = "can be added" if request.dry_run else "added"
        persisted, but = (False, "") if request.dry_run else await self._keep(lambda file: file.add_server(server))
        if checked is None:
            message = f"Server '{server.name}' {what} without a check{but}"
            return _answer(Added(True, message, server.name, command.shown_place(server), persisted), CREATED)
        added = Added(
            True,
            f"Server '{server.name}' {what}; it has {checked.tool_count} tools{but}",
            server.name,
            command.shown_place(server),
            persisted,
            dry_run=request.dry_run,
            tool_count=checked.tool_count,
            tools=[safe(tool) for tool in checked.tools],
            response_time_ms=round(checked.response_ms, 3),
        )
        return _answer(added, OK if request.dry_run else CREATED)

    def _new_server(self, request: Request) -> Server:
        """Errors: `ConfigError`."""
        if request.command or request.transport == "stdio":
            return self._new_command(request)
        if request.args or request.env or request.cwd:
            raise ConfigError("args, env and cwd are for servers with a command")
        if request.transport not in TRANSPORTS:
            raise ConfigError(f"transport {config.shown(request.transport)} is not auto, http, sse or ws")
        if not request.name:
            raise ConfigError("name is missing")
        if not request.url:
            raise ConfigError("url is missing")
        if "${" in request.url or any("${" in value for value in request.headers.values()):
            # Whoever may call a tool could otherwise have any of our secrets sent to a server of their own.
            raise ConfigError("references such as ${env:NAME} are for configuration files only")
        name = config.parse_server_name(request.name, self._separator)
        config.check_url(request.url)
        if request.url.startswith("unix://") and not self._allows_commands:
            raise ConfigError(
                "a server behind a Unix socket cannot be added at run time, because whoever can add one can reach "
                "whatever else of this machine listens on one; start the proxy with --allow-stdio-add if that is meant"
            )
        headers = config.parse_headers(request.headers)
        transport = TRANSPORTS[request.transport]
        config.check_transport(transport, command="", url=request.url)
        group = config.parse_group(request.group)
        return Server(name, request.url, headers=headers, group=group, transport=transport)

    def _new_command(self, request: Request) -> Server:
        """Errors: `ConfigError`."""
        if not self._allows_commands:
            raise ConfigError(
                "a server that is a command cannot be added at run time, because whoever can add one can run any "
                "program; start the proxy with --allow-stdio-add if that is meant"
            )
        if request.transport not in COMMAND_TRANSPORTS:
            raise ConfigError(f"transport {config.shown(request.transport)} is not that of a command, which is stdio")
        if request.url or request.headers:
            raise ConfigError("a server has either a command or a url, and headers only with a url")
        if not request.name:
            raise ConfigError("name is missing")
        if not request.command:
            raise ConfigError("command is missing")
        for variable, value in request.env.items():
            command.check_variable(variable, value)
            if "${" in value:
                raise ConfigError("references such as ${env:NAME} are for configuration files only")
        return Server(
            config.parse_server_name(request.name, self._separator),
            "",
            group=config.parse_group(request.group),
            command=command.check_program(request.command),
            args=command.check_arguments(request.args),
            env=tuple(request.env.items()),
            cwd=command.check_directory(request.cwd) if request.cwd else "",
        )

    async def _remove(self, request: Request) -> Answer:
        if (entry := self._roster.entries.get(request.name)) and (owner := entry.server.found_for):
            advice = f"disable it, or remove '{owner}', whose address it is"
            raise Refused(f"Server '{request.name}' would be found again at the next look-up; {advice}")
        self._changes.remove(request.name)
        persisted, but = await self._keep(lambda file: file.remove_server(request.name))
        return _changed(request, f"Server '{request.name}' removed; calls in flight may end{but}", persisted)

    async def _enable(self, request: Request) -> Answer:
        news = self._changes.enable(request.name)
        persisted, but = await self._keep(lambda file: file.set_enabled(request.name, True))
        message = f"Server '{request.name}' {'enabled' if news else 'is enabled already'}{but}"
        return _changed(request, message, persisted)

    async def _disable(self, request: Request) -> Answer:
        news = self._changes.disable(request.name)
        persisted, but = await self._keep(lambda file: file.set_enabled(request.name, False))
        text = "disabled; calls in flight may end" if news else "is disabled already"
        return _changed(request, f"Server '{request.name}' {text}{but}", persisted)

    async def _restart(self, request: Request) -> Answer:
        await self._changes.restart(request.name)
        is_name = self._roster.entries[request.name].server.discover
        text = f"The name of server '{request.name}' is looked up" if is_name else f"Server '{request.name}' restarted"
        return _answer(Changed(True, text, request.name))

    async def _drain(self, request: Request) -> Answer:
        news = self._changes.drain(request.name)
        text = "gets no new calls; those that it has may end" if news else "is drained already"
        return _answer(Changed(True, f"Server '{request.name}' {text}", request.name))

    async def _undrain(self, request: Request) -> Answer:
        news = self._changes.undrain(request.name)
        text = "gets calls again" if news else "is not drained"
        return _answer(Changed(True, f"Server '{request.name}' {text}", request.name))

    async def _weigh(self, request: Request) -> Answer:
        text = request.weight if isinstance(request.weight, str) else f"{request.weight:g}"
        portion = self._changes.weigh(request.name, text)
        told = f"gets {portion.percent:g} % of the calls" if portion.percent else f"has the weight {portion.weight:g}"
        return _answer(Changed(True, f"Server '{request.name}' {told}", request.name))

    async def _reload(self, request: Request) -> Answer:
        if self._reloading is None:
            return _failed(CONFLICT, NO_FILE)
        plan = await (self._reloading.plan() if request.dry_run else self._reloading.reload())
        if plan is None:
            return _failed(CONFLICT, self._reloading.problem)
        done = "this would be done" if request.dry_run else "done"
        return _answer(Reloaded(True, done if plan.steps else "no server has changed", plan.lines()))

    async def _roll_back(self, request: Request) -> Answer:
        if self._file is None:
            return _failed(CONFLICT, NO_FILE)
        await trio.to_thread.run_sync(self._file.roll_back)
        return await self._reload(request)

    async def _keep(self, change: Callable[[ConfigFile], None]) -> tuple[bool, str]:
        """Write a change that has been made into the file; return whether that went well, and what to say if not."""
        if self._file is None:
            return False, ""
        try:
            await trio.to_thread.run_sync(change, self._file)
        except ConfigError as error:
            self._log.warning(f"a change of the servers ends with this run: {error}")
            return False, f", until the proxy is restarted: {error}"
        return True, ""

    # --- what went wrong ---------------------------------------------------------------------------------------------
    def _not_found(self, name: str) -> Answer:
        error = f"Server '{clean(name[:NAME_SHOWN_MAX])}' not found"
        return _answer(Failed(False, error, available_servers=list(self._roster.entries)), NOT_FOUND)

    def _unreachable(self, checked: Checked) -> Answer:
        return _failed(BAD_GATEWAY, _problem(checked), _health_of(checked))


def _problem(checked: Checked) -> str:
    return CONNECTION_REFUSED if checked.refused else safe(checked.problem)


def _health_of(checked: Checked) -> str:
    if not checked.number:
        return PROXY_ERROR  # the worker has not said anything
    return UNHEALTHY if checked.answers else ERROR


def _changed(request: Request, message: str, persisted: bool) -> Answer:
    return _answer(Changed(True, message, request.name, persisted))


def _failed(http_status: int, error: str, status: str = "") -> Answer:
    return _answer(Failed(False, error, status), http_status)


def _answer(body: msgspec.Struct, status: int = OK) -> Answer:
    return Answer(status, msgspec.json.encode(body))

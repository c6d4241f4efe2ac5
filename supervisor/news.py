"""Tell people what becomes of processes and servers, as often as people can read, and remember the last of it.

What is remembered (states, crash reports, the last lines about each server) is for whoever asks through one of the
management doors.
"""

from __future__ import annotations

import datetime
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import trio

from protocol.control import SAID_CHARS_MAX, SAID_LINES_MAX, Said, WorkerState
from protocol.health import health_status
from protocol.limits import LOG_LINES_KEPT_MAX
from protocol.log_lines import safe
from supervisor import wording
from supervisor.journal import CrashReport, Journal
from supervisor.lives import Life
from supervisor.logs import Log
from supervisor.outage import Outage
from supervisor.plan import ZYGOTE
from supervisor.restart import Action, End, RestartWindow
from supervisor.spec import Role, family
from supervisor.tree import Gone

LINES_PER_MINUTE: Final = 10
"""About the states of one server, for people."""
NOTES_PER_MINUTE: Final = 100
"""The same, for the debug log."""
SAID_PER_MINUTE: Final = 1000
"""Lines of a command's that are remembered; its worker tells fewer, if it can be trusted."""
LINE_CHARS_MAX: Final = 1000
"""Of a line that is remembered."""
STATES_FAILING: Final = frozenset({"backoff", "open", "parked"})
STATES_WORKING: Final = frozenset({"ready"})
STATES_TOLD: Final = STATES_FAILING | STATES_WORKING | {"degraded"}
STATES_UNDECIDED: Final = frozenset({"starting", "connecting", "negotiating"})
STATE_CHARS_MAX: Final = 32


class News:
    """`servers`: the names, in the tree, of the workers that have one. `has_file`: there is a log file.

    `wall_time`: seconds since 1970.
    """

    def __init__(
        self,
        servers: Iterable[str],
        announcement: str,
        log: Log,
        wall_time: Callable[[], float],
        *,
        has_file: bool,
    ) -> None:
        self._log = log
        self._wall_time = wall_time
        self._has_file = has_file
        self._announcement = announcement
        """Said when clients can connect."""
        self.states: dict[str, WorkerState] = {}
        """What the workers of servers last said, by the names of the tree; also after they are gone."""
        self._outage = Outage()
        self._journal = Journal()
        self._hangups_told = RestartWindow(LINES_PER_MINUTE, 60.0)
        self._states_told: dict[str, RestartWindow] = {}
        self._untold: dict[str, int] = {}
        """Changes of state since the last that was told, for there were too many."""
        self._states_noted: dict[str, RestartWindow] = {}
        self._said: dict[str, RestartWindow] = {}
        self._lines: dict[str, deque[str]] = {}
        """The last lines about each server, by its worker's title."""
        for child in servers:
            self.watch(child)

    # --- servers that come and go ------------------------------------------------------------------------------------
    def watch(self, child: str) -> None:
        """There is one more worker of a server."""
        self._states_told[child] = RestartWindow(LINES_PER_MINUTE, 60.0)
        self._states_noted[child] = RestartWindow(NOTES_PER_MINUTE, 60.0)
        self._said[child] = RestartWindow(SAID_PER_MINUTE, 60.0)
        self._lines.setdefault(family(child), deque(maxlen=LOG_LINES_KEPT_MAX))
        self._count_servers()

    def forget(self, child: str) -> None:
        """A worker is gone for good."""
        del self._states_told[child], self._states_noted[child], self._said[child]
        self.states.pop(child, None)
        self._untold.pop(child, None)
        self._count_servers()

    def forget_server(self, name: str) -> None:
        """A server has been removed; who asks for its lines now has come too late."""
        self._lines.pop(f"server {name}", None)
        self._outage.works(name)

    def lines(self, name: str) -> Sequence[str]:
        """Return the last lines about a server, oldest first."""
        return tuple(self._lines.get(f"server {name}", ()))

    @property
    def crash_reports(self) -> Sequence[CrashReport]:
        """Oldest first."""
        return self._journal.reports

    def _count_servers(self) -> None:
        self._outage.servers = len({family(child) for child in self._states_told})

    # --- what happens ------------------------------------------------------------------------------------------------
    def hangup(self, name: str) -> None:
        """The signal of that name came, and there is no file to read anew."""
        if self._hangups_told.allows(trio.current_time()):
            self._log.info(f"{name} does nothing without --config; servers can be changed with mcp-bulkhead ctl")

    def reading_certificate(self, name: str) -> None:
        """The signal of that name came, and the front was told to read its certificate."""
        if self._hangups_told.allows(trio.current_time()):
            self._log.info(f"{name}: reading the certificate again")

    def ready(self, life: Life) -> None:
        self._log.debug("worker is ready", who=life.title, incarnation=life.incarnation)

    def serving(self) -> None:
        """Clients can connect."""
        self._log.info(self._announcement)

    def note(self, name: str, what: str) -> None:
        """Somebody has changed something about a server."""
        self._remember(f"server {name}", what)
        self._log.info(what, who=f"server {name}")

    def looked_up(self, name: str, line: str, *, is_wrong: bool = False) -> None:
        """Something has become of looking up the name of a server, which has no worker that could tell it."""
        who = f"server {name}"
        self._lines.setdefault(who, deque(maxlen=LOG_LINES_KEPT_MAX))
        self._remember(who, line)
        (self._log.warning if is_wrong else self._log.info)(line, who=who)

    def state(self, life: Life, message: WorkerState) -> None:
        """A worker has said how its server is."""
        before = self.states.get(life.name)
        self.states[life.name] = message
        if before is None or (before.state, before.detail) != (message.state, message.detail):
            self._tell_state(life, message)

    def flood(self, life: Life) -> None:
        """A worker says more than the root listens to; told once in its life."""
        if life.flood_told:
            return
        life.flood_told = True
        count = life.channel.received
        line = f"worker says too much to the root ({count} messages so far), which from now on hears only some of it"
        self._log.warning(line, who=life.title)
        self._remember(life.title, line)

    def said(self, life: Life, message: Said) -> None:
        """A worker has passed on what its server, a command, wrote to standard error, or how it ended."""
        for line in message.lines[:SAID_LINES_MAX]:
            if self._said[life.name].allows(trio.current_time()):
                self._remember(life.title, f"said: {line[:SAID_CHARS_MAX]}")

    def end(self, gone: Gone, role: Role) -> None:
        """A child is gone."""
        who, end, verdict = gone.name if role is Role.FRONT else family(gone.name), gone.end, gone.verdict
        if verdict is None:
            self._log.debug(end.text, who=who)
            return
        what = end.text if gone.name == ZYGOTE else f"worker {end.text}"
        line = f"{what}; {wording.consequence(role, verdict)}"
        tell = self._log.error if verdict.action is Action.ESCALATE else self._log.warning
        tell(line, who=who, end=end.kind.value)
        self._remember(who, line)

    def crash(self, life: Life, end: End, at: float) -> None:
        """A worker failed. `at`: seconds since 1970."""
        report = self._journal.note(life.title, life.incarnation, end, at, life.dump())
        if report.dump and self._has_file:
            self._log.warning("what it was doing is in the log file", who=life.title, stack=report.dump)

    def _tell_state(self, life: Life, message: WorkerState) -> None:
        state = message.state[:STATE_CHARS_MAX]
        line = f"{state}: {message.detail}" if message.detail else state
        fields = {"who": life.title, "health": health_status(state, answers=message.answers)}
        now = trio.current_time()
        self._watch_outage(life, state, now)
        is_general = self._outage.is_general and state in STATES_FAILING
        is_news = state in STATES_TOLD and line != life.told_state and not is_general
        if is_news:
            life.told_state = line  # what is only noted in between does not make it news again
        if is_news and self._states_told[life.name].allows(now):
            untold = self._untold.pop(life.name, 0)
            line = f"{line} (and {untold} changes before, which were not told)" if untold else line
            self._log.info(line, **fields)
            self._remember(life.title, line)
            return
        if is_news:
            self._untold[life.name] = self._untold.get(life.name, 0) + 1
        if self._states_noted[life.name].allows(now):
            self._log.debug(line, **fields)

    def _watch_outage(self, life: Life, state: str, now: float) -> None:
        assert life.server
        if state in STATES_FAILING and self._outage.failed(life.server.name, now):
            self._log.warning(wording.GENERAL_OUTAGE)
        elif state in STATES_WORKING:
            self._outage.works(life.server.name)

    def _remember(self, who: str, line: str) -> None:
        if (lines := self._lines.get(who)) is not None:
            at = datetime.datetime.fromtimestamp(self._wall_time(), datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            lines.append(f"{at} {safe(line[:LINE_CHARS_MAX])}")

"""Tell people what becomes of processes and servers, as often as people can read, and keep the reports of crashes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import trio

from protocol.control import WorkerState
from protocol.health import UNKNOWN, health_status
from supervisor import wording
from supervisor.journal import Journal
from supervisor.lives import Life
from supervisor.logs import Log
from supervisor.outage import Outage
from supervisor.plan import ZYGOTE
from supervisor.restart import Action, End, RestartWindow
from supervisor.spec import Role
from supervisor.tree import Child, Gone

LINES_PER_MINUTE: Final = 10
"""About the states of one server, for people."""
NOTES_PER_MINUTE: Final = 100
"""The same, for the debug log."""
STATES_FAILING: Final = frozenset({"backoff", "open"})
STATES_WORKING: Final = frozenset({"ready"})
STATES_TOLD: Final = STATES_FAILING | STATES_WORKING | {"degraded"}
STATES_UNDECIDED: Final = frozenset({"starting", "connecting", "negotiating"})
STATE_CHARS_MAX: Final = 32


class News:
    """`servers`: the names, in the tree, of the workers that have one. `has_file`: there is a log file."""

    def __init__(self, servers: Iterable[str], announcement: str, log: Log, *, has_file: bool) -> None:
        self._log = log
        self._has_file = has_file
        self._announcement = announcement
        """Said when clients can connect."""
        self.states: dict[str, WorkerState] = {}
        """What the workers of servers last said, by the names of the tree; also after they are gone."""
        names = list(servers)
        self._outage = Outage(len(names))
        self._journal = Journal()
        self._hangups_told = RestartWindow(LINES_PER_MINUTE, 60.0)
        self._states_told = {name: RestartWindow(LINES_PER_MINUTE, 60.0) for name in names}
        self._states_noted = {name: RestartWindow(NOTES_PER_MINUTE, 60.0) for name in names}

    def hangup(self, name: str) -> None:
        """The signal of that name came, which means nothing yet."""
        if self._hangups_told.allows(trio.current_time()):
            self._log.info(f"{name} does nothing yet; to change the configuration, restart")

    def ready(self, life: Life) -> None:
        self._log.debug("worker is ready", who=life.name, incarnation=life.incarnation)

    def serving(self) -> None:
        """Clients can connect."""
        self._log.info(self._announcement)

    def state(self, life: Life, message: WorkerState) -> None:
        """A worker has said how its server is."""
        before = self.states.get(life.name)
        self.states[life.name] = message
        if before is None or (before.state, before.detail) != (message.state, message.detail):
            self._tell_state(life, message)

    def health(self, name: str, child: Child) -> str:
        """Return the health status of the server whose worker is that child (protocol/health.py)."""
        if child.parked:
            return health_status("parked", answers=False)
        state = self.states.get(name)
        return health_status(state.state, answers=state.answers) if state else UNKNOWN

    def end(self, gone: Gone, role: Role) -> None:
        """A child is gone."""
        name, end, verdict = gone.name, gone.end, gone.verdict
        if verdict is None:
            self._log.debug(end.text, who=name)
            return
        what = end.text if name == ZYGOTE else f"worker {end.text}"
        line = f"{what}; {wording.consequence(role, verdict)}"
        tell = self._log.error if verdict.action is Action.ESCALATE else self._log.warning
        tell(line, who=name, end=end.kind.value)

    def crash(self, life: Life, end: End, at: float) -> None:
        """A worker failed. `at`: seconds since 1970."""
        report = self._journal.note(life.name, life.incarnation, end, at, life.dump())
        if report.dump and self._has_file:
            self._log.warning("what it was doing is in the log file", who=life.name, stack=report.dump)

    def _tell_state(self, life: Life, message: WorkerState) -> None:
        state = message.state[:STATE_CHARS_MAX]
        line = f"{state}: {message.detail}" if message.detail else state
        fields = {"who": life.name, "health": health_status(state, answers=message.answers)}
        now = trio.current_time()
        self._watch_outage(life, state, now)
        is_general = self._outage.is_general and state in STATES_FAILING
        is_news = state in STATES_TOLD and line != life.told_state and not is_general
        if is_news:
            life.told_state = line  # what is only noted in between does not make it news again
        if is_news and self._states_told[life.name].allows(now):
            self._log.info(line, **fields)
        elif self._states_noted[life.name].allows(now):
            self._log.debug(line, **fields)

    def _watch_outage(self, life: Life, state: str, now: float) -> None:
        if state in STATES_FAILING and self._outage.failed(life.name, now):
            self._log.warning(wording.GENERAL_OUTAGE)
        elif state in STATES_WORKING:
            self._outage.works(life.name)

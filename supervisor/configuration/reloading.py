"""Follow the configuration file while the proxy runs: read it when it changes or SIGHUP comes, and do what it says.

Rule 1: nothing is changed unless the whole file makes sense; what is wrong with it is said once.
Rule 2: the file is compared with what it said before, so what was changed at run time and is not in the file stays.
Rule 3: a step that cannot be taken now is tried again at the next look, and holds up no other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Final, Protocol

import trio

from supervisor.cli import UsageError
from supervisor.config import ConfigError, Group, Server, Settings
from supervisor.configuration import files, steps
from supervisor.configuration.files import Identity
from supervisor.configuration.plan import Plan, Step, What, apply, diff
from supervisor.configuration.steps import Steps
from supervisor.logs import Log

LOOK_S: Final = 1.0
"""One stat a second is cheap, works on every file system, and sees through links that are turned to another file."""
SETTLE_S: Final = 0.1
"""A file is read when it has been the same for so long: editors and `cp` write in pieces."""
SETTLE_LOOKS_MAX: Final = 20
"""Whoever writes without end must not keep us from ever reading."""
PAUSE_S: Final = 0.1
"""Between two reloads, however many signals come."""


class Changes(steps.Changes, Protocol):
    """How servers and groups are changed."""

    def regroup(self, groups: Sequence[Group], servers: Mapping[str, Server]) -> None:
        """From now on these are the groups. `servers`: as they are to be; those that join or leave one become so."""
        ...


class Reloading:
    """`settings`: as loaded at the start. `load`: reads them anew. `refused`: what `changes` raises.

    `told`: lasts as long as each reload, for whoever has to know of it.
    """

    def __init__(
        self,
        settings: Settings,
        load: Callable[[], Awaitable[Settings]],
        changes: Changes,
        refused: type[Exception],
        log: Log,
        told: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self.path = settings.config_file
        self._loaded = settings
        """What the file said when it last made sense, but for steps that could not be taken yet."""
        self._load = load
        self._changes = changes
        self._refused = refused
        self._steps = Steps(changes, refused, log)
        self._log = log
        self._seen: Identity | None = settings.config_identity
        """Of the file that was read last, whether it made sense or not."""
        self._told = told
        self._wanted = trio.Event()
        self._ended = False
        self._unfinished = False
        self._one_at_a_time = trio.Lock()
        self.problem = ""
        """What is wrong with the file as it is now; "" if nothing is."""
        self.restart_needed: tuple[str, ...] = ()
        """Keys of the file whose values take effect only with a restart of the proxy."""

    def hangup(self) -> None:
        """Read the file as soon as possible, whether it seems to have changed or not."""
        self._wanted.set()

    def end(self) -> None:
        """Follow the file no more: the proxy stops."""
        self._ended = True

    async def run(self) -> None:
        """Follow the file until cancelled, or told to end."""
        while not self._ended:
            with trio.move_on_after(LOOK_S):
                await self._wanted.wait()
            if self._ended:
                return
            asked, self._wanted = self._wanted.is_set(), trio.Event()
            identity = files.identity(self.path)
            if not (asked or self._unfinished or identity != self._seen):
                continue
            if not asked:
                await self._settle(identity)
            await self.reload(asked=asked)
            await trio.sleep(PAUSE_S)

    async def reload(self, *, asked: bool = True) -> Plan | None:
        """Read the file and make what it says so; return what that was.

        If it makes no sense, say so, change nothing, and return None.
        """
        async with self._one_at_a_time:
            with self._told():
                return await self._reload(asked=asked)

    async def _reload(self, *, asked: bool) -> Plan | None:
        new = await self._read()
        if new is None:
            return None
        plan = diff(self._loaded, new)
        news = self._news(plan)  # of the plan, what is not so already
        await self._take(plan, news, new, asked=asked)
        return news

    async def plan(self) -> Plan:
        """Return what a reload would do now. Errors: `ConfigError`."""
        try:
            return self._news(diff(self._loaded, await self._load()))
        except UsageError as error:
            raise ConfigError(str(error)) from None

    async def _settle(self, identity: Identity | None) -> None:
        for _ in range(SETTLE_LOOKS_MAX):
            await trio.sleep(SETTLE_S)
            before, identity = identity, files.identity(self.path)
            if identity == before:
                return

    async def _read(self) -> Settings | None:
        self._seen = files.identity(self.path)  # should it change while it is read, it is read once more
        try:
            new = await self._load()
        except (ConfigError, UsageError) as error:
            if str(error) != self.problem:
                self.problem = str(error)
                for line in self.problem.split("\n"):
                    self._log.error(line)
                self._log.error("the configuration has not been changed; the proxy goes on with the one before")
            return None
        if self.problem:
            self.problem = ""
            self._log.info(f"{self.path} can be used again")
        for note in new.notes:
            if note not in self._loaded.notes:
                self._log.warning(note)
        return new

    async def _take(self, plan: Plan, news: Plan, new: Settings, *, asked: bool) -> None:
        """Take the steps, and remember which could be taken."""
        if news.steps or news.regrouped:
            regrouped = [f"regroup {', '.join(news.regrouped)}"] if news.regrouped else []
            self._log.info(f"{self.path} has changed: {'; '.join([*map(str, news.steps), *regrouped])}")
        elif asked:
            self._log.info(f"{self.path} asks for nothing that is not so")
        if plan.restart != self.restart_needed:
            self.restart_needed = plan.restart
            if plan.restart:
                self._log.warning(f"only after a restart of the proxy: {', '.join(plan.restart)}")
        done = await self._steps.take(step for step in plan.steps if step.what is What.REMOVE)
        regrouped = self._regroup(plan, new)
        done += await self._steps.take(step for step in plan.steps if step.what is not What.REMOVE)
        self._unfinished = len(done) < len(plan.steps) or not regrouped
        taken = Plan(
            tuple(step for step in plan.steps if step in done), plan.restart, plan.kept,
            plan.groups if regrouped else None,
        )  # fmt: skip
        self._loaded = _with_notes(apply(taken, self._loaded), new)

    def _regroup(self, plan: Plan, new: Settings) -> bool:
        """Return whether the groups are as they are to be."""
        if plan.groups is None:
            return True
        try:
            self._changes.regroup(plan.groups, {server.name: server for server in new.servers})
        except self._refused as error:
            self._log.warning(f"regroup {', '.join(plan.regrouped)} has to wait: {error}")
            return False
        return True

    def _news(self, plan: Plan) -> Plan:
        """Return the part of a plan that is not so already."""
        so = [step for step in plan.steps if self._is_so(step)]
        left = tuple(step for step in plan.steps if step not in so)
        kept = (*plan.kept, *(step.server.name for step in so if step.what is not What.REMOVE))
        return dataclasses.replace(plan, steps=left, kept=kept)

    def _is_so(self, step: Step) -> bool:
        """Whether it has been done through another door, which then wrote it into the file."""
        known = self._changes.servers().get(step.server.name)
        return known is None if step.what is What.REMOVE else known == step.server


def _with_notes(settings: Settings, new: Settings) -> Settings:
    return dataclasses.replace(settings, notes=new.notes)

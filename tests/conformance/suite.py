"""Runs the official conformance suite (npm `@modelcontextprotocol/conformance`) and reads what it found.

As a client it talks to a server or a proxy (`check_server`); as a server it is talked to by a command (`check_client`).
"""

from __future__ import annotations

import json
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests import nodejs

NAME = "@modelcontextprotocol/conformance"
VERSION = "0.2.0-alpha.12"
"""The newest; it alone knows 2026-07-28."""
RELEASE = "0.1.16"
"""The latest that is called a release."""
NODE_MAJOR_MIN = 22
SCENARIO_S_MAX = 10
RUN_S_MAX = 240.0
SCENARIOS_AT_ONCE = 5
REVISIONS = ("2025-06-18", "2025-11-25", "2026-07-28")
RELEASE_REVISIONS = REVISIONS[:2]
_STAMP = re.compile(r"-\d{4}-\d\d-\d\dT[\d-]+Z$")
_LISTED = re.compile(r"  - (\S+)(?: \[(.*)\])?$")


@dataclass(frozen=True)
class Check:
    """One check of one scenario."""

    scenario: str
    id: str
    status: str
    """SUCCESS, FAILURE, WARNING, SKIPPED or INFO."""
    message: str
    method: str = ""
    """Of the request it is about, if it says so."""

    def __str__(self) -> str:
        return f"{self.scenario}: {self.status.lower()}: {self.id}: {self.message}"


Checks = dict[str, list[Check]]
"""By scenario."""


def install() -> None:
    """Errors: `nodejs.UnavailableError`."""
    nodejs.node(NODE_MAJOR_MIN)
    for version in (VERSION, RELEASE):
        nodejs.package(NAME, version)


def run(*arguments: str, version: str = VERSION) -> subprocess.CompletedProcess[str]:
    node = nodejs.node(NODE_MAJOR_MIN)
    program = nodejs.package(NAME, version) / "dist" / "index.js"
    return subprocess.run(
        [*node.node, str(program), *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env=node.environment,
        timeout=RUN_S_MAX,
        check=False,
    )


def scenarios(leg: str, revision: str, version: str = VERSION) -> list[str]:
    """Return the scenarios of a revision for the "server" or the "client" leg, without those about authorization."""
    listed = run("list", f"--{leg}", "--spec-version", revision, version=version).stdout.splitlines()
    found = [match for line in listed if (match := _LISTED.match(line))]
    return [match[1] for match in found if match[2] != "extension" and not match[1].startswith("auth/")]


def extension_scenarios(name: str) -> list[str]:
    """Return the scenarios for servers of an extension; their names begin with its name."""
    listed = run("list", "--server").stdout.splitlines()
    return [match[1] for line in listed if (match := _LISTED.match(line)) and match[1].startswith(f"{name}-")]


def scored(leg: str, revision: str) -> set[str]:
    """Return the scenarios that conformance to the revision requires; all of them if no such set was ever fixed."""
    everything = set(scenarios(leg, revision))
    done = run("list", "--requirements", revision)
    if done.returncode:
        return everything
    section, found = "", set[str]()
    for line in done.stdout.splitlines():
        if line and not line.startswith(" "):
            section = line.lower()
        elif section.startswith(leg) and (match := _LISTED.match(line)):
            found.add(match[1])
    return everything & found


def check_server(url: str, revision: str, folder: Path, version: str = VERSION) -> Checks:
    """Run every scenario of a revision against a running server. Results are kept in the folder."""
    limit = ["--timeout", str(SCENARIO_S_MAX * 1000)] if version != RELEASE else []  # which has no such option
    chosen = ["--suite", "all", "--spec-version", revision, "-o", str(folder), *limit]
    done = run("server", "--url", url, *chosen, version=version)
    found = _read(folder, "server-")
    assert found, f"the suite did not run: {done.stdout[-1000:]}{done.stderr[-1000:]}"
    return found


def check_extension(url: str, name: str, folder: Path) -> Checks:
    """Run every scenario of an extension against a running server. Results are kept in the folder."""

    def check(scenario: str) -> None:
        run("server", "--url", url, "--scenario", scenario, "-o", str(folder), "--timeout", str(SCENARIO_S_MAX * 1000))

    with ThreadPoolExecutor(SCENARIOS_AT_ONCE) as pool:  # they mostly wait for tasks that take a while
        list(pool.map(check, extension_scenarios(name)))
    return _read(folder, "server-")


def check_client(command: str, scenario: str, revision: str, folder: Path, version: str = VERSION) -> list[Check]:
    """Run one scenario in which the suite is the server and starts `command URL` as its client."""
    chosen = ["--scenario", scenario, "--spec-version", revision]
    limit = str(6 * SCENARIO_S_MAX * 1000)
    done = run("client", "--command", command, *chosen, "-o", str(folder), "--timeout", limit, version=version)
    checks = _read(folder).get(scenario, [])
    if done.returncode and not failures(checks, warnings=True):
        checks.append(Check(scenario, "exit", "FAILURE", f"{done.stdout[-1000:]}{done.stderr[-1000:]}"))
    return checks


def failures(checks: list[Check], *, warnings: bool = False) -> list[Check]:
    bad = ("FAILURE", "WARNING") if warnings else ("FAILURE",)
    return [check for check in checks if check.status in bad]


def _read(folder: Path, prefix: str = "") -> Checks:
    """Read a folder of results. `prefix` is what the suite puts before the names of scenarios."""
    found: Checks = {}
    for path in sorted(folder.rglob("checks.json"), key=lambda path: path.stat().st_mtime):
        name = _STAMP.sub("", path.parent.relative_to(folder).as_posix()).removeprefix(prefix)
        rows = json.loads(path.read_text(encoding="utf-8"))
        found[name] = [
            Check(
                name,
                row["id"],
                row["status"],
                " ".join(str(row.get("errorMessage") or row["description"]).split()),
                _method(row.get("details") or {}),
            )
            for row in rows
        ]
    return found


def _method(details: dict[str, object]) -> str:
    return str(details.get("method") or details.get("expectedMethod") or "")

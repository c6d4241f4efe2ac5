"""The whole matrix: every scenario of both suites, every revision, every kind of server, through the proxy.

    python -m tests.conformance            through the proxy
    python -m tests.conformance direct     without it: what fails here is no fault of the proxy

Exit status: 0 if every scenario that counts passed, else 1.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from pathlib import Path

from tests import nodejs
from tests.conformance import suite
from tests.conformance.legs import CLIENT_ERAS, KINDS, client_command, is_expected, reference_server, tasks_server
from tests.processes import Proxy, Server


class Tally:
    """What passed and what did not, printed as it comes."""

    def __init__(self) -> None:
        self.passed = 0
        self.failed = 0
        self.expected = 0
        """Checks that failed, as they must."""

    def count(
        self, title: str, checks: suite.Checks, counted: set[str], *, warnings: bool = False, era: str = ""
    ) -> None:
        print(f"\n== {title}")
        passed = failed = 0
        for scenario in sorted(counted | set(checks)):
            failed_checks = suite.failures(checks.get(scenario, []), warnings=warnings)
            bad = [check for check in failed_checks if not is_expected(check, era)]
            self.expected += len(failed_checks) - len(bad)
            verdict = "pass" if not bad and scenario in checks else "FAIL"
            if scenario not in counted:
                verdict = f"({verdict.lower()}, does not count)"
            elif verdict == "pass":
                passed += 1
            else:
                failed += 1
            if verdict != "pass":
                print(f"{verdict} {scenario}", *(f"     {check}" for check in bad), sep="\n")
        print(f"{passed} of {passed + failed} passed")
        self.passed += passed
        self.failed += failed


def server_leg(kind: str, folder: Path, tally: Tally, *, direct: bool = False, beside: bool = False) -> None:
    """One kind of server, every revision; on its own it speaks only those of its era. `beside`: another, of both."""
    with contextlib.ExitStack() as stack:
        server = reference_server(kind, folder / f"{kind}.log")
        stack.callback(server.destroy)
        url = server.url
        if not direct:
            servers = {"main": url}
            if beside:
                other = Server(folder / f"{kind}-other.log")
                stack.callback(other.destroy)
                servers = {"other": other.url, **servers}
            proxy = Proxy(servers, folder / f"{kind}-proxy.log", "--namespace", "auto" if beside else "none")
            stack.callback(proxy.stop)
            url = proxy.url
        for revision in suite.REVISIONS:
            its_own = kind == "dual" or (kind == "modern") == (revision == "2026-07-28")
            if its_own or not direct:
                localhost = url.replace("127.0.0.1", "localhost")
                where = " beside another" if beside else ""
                results = folder / f"{kind}{where}-{revision}"
                checks = suite.check_server(localhost, revision, results)
                title = f"{kind} server{where}, {revision} client"
                tally.count(title, checks, suite.scored("server", revision))
                if revision in suite.RELEASE_REVISIONS:
                    checks = suite.check_server(localhost, revision, results / "release", suite.RELEASE)
                    counted = set(suite.scenarios("server", revision, suite.RELEASE))
                    tally.count(f"{title} ({suite.RELEASE})", checks, counted)


def tasks_leg(folder: Path, tally: Tally, *, direct: bool) -> None:
    """The scenarios of the extension for tasks, alone and beside another server."""
    with contextlib.ExitStack() as stack:
        server = tasks_server(folder / "tasks.log")
        stack.callback(server.destroy)
        urls = {"tasks server": server.url}
        if not direct:
            other = reference_server("dual", folder / "other.log")
            stack.callback(other.destroy)
            alone = Proxy({"main": server.url}, folder / "tasks-alone.log", "--namespace", "none")
            stack.callback(alone.stop)
            beside = Proxy({"other": other.url, "main": server.url}, folder / "tasks-beside.log", "--namespace", "auto")
            stack.callback(beside.stop)
            urls = {"tasks server": alone.url, "tasks server beside another": beside.url}
        for number, (title, url) in enumerate(urls.items()):
            localhost = url.replace("127.0.0.1", "localhost")
            checks = suite.check_extension(localhost, "tasks", folder / f"tasks-{number}")
            tally.count(title, checks, set(suite.extension_scenarios("tasks")))


def client_leg(revision: str, era: str, version: str, folder: Path, tally: Tally) -> None:
    """The suite is the server; our driver reaches it in one era."""
    checks: suite.Checks = {}
    everything = suite.scenarios("client", revision, version)
    for scenario in everything:
        command = client_command(era, folder / f"client-{version}-{scenario}-{era}.log")
        results = folder / f"client-{version}-{revision}-{era}"
        checks[scenario] = suite.check_client(command, scenario, revision, results, version)
    counted = suite.scored("client", revision) if version == suite.VERSION else set(everything)
    tally.count(f"the {revision} server of {version}, {era} client", checks, counted, warnings=True, era=era)


def main() -> int:
    direct = sys.argv[1:] == ["direct"]
    tally = Tally()
    try:
        suite.install()
    except nodejs.UnavailableError as error:
        print(f"The conformance suite cannot be installed: {error}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind in KINDS:
            server_leg(kind, folder, tally, direct=direct)
        if not direct:
            for kind in KINDS:
                server_leg(kind, folder, tally, beside=True)
        tasks_leg(folder, tally, direct=direct)
        for revision in suite.REVISIONS[1:]:
            for version in (suite.VERSION, suite.RELEASE):
                if version == suite.VERSION or revision in suite.RELEASE_REVISIONS:
                    for era in ("direct",) if direct else CLIENT_ERAS:
                        client_leg(revision, era, version, folder, tally)
    print(
        f"\n{tally.passed} passed, {tally.failed} failed; {tally.expected} checks failed as expected (legs.py says why)"
    )
    return 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(main())

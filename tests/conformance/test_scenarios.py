"""The official suite: every scenario for servers, and for clients those about what the proxy does as one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import nodejs
from tests.conformance import suite
from tests.conformance.legs import (
    COUNTS_INITIALIZE,
    KINDS,
    client_command,
    is_expected,
    reference_server,
    tasks_server,
)
from tests.processes import Proxy

pytestmark = pytest.mark.slow

SCENARIOS = {"2025-06-18": 27, "2025-11-25": 30, "2026-07-28": 37}
"""How many scenarios conformance to a revision requires of a server. All have to pass."""

RELEASE_SCENARIOS = 32
"""Of the latest release of the suite, for 2025-11-25, which has those of 2025-06-18 among them."""

TASK_SCENARIOS = 10
"""Of the extension io.modelcontextprotocol/tasks."""

CLIENT_SCENARIOS = {
    "2025-11-25": {
        "initialize",
        "tools_call",
        "json-schema-2020-12-preservation",
        "elicitation-sep1034-client-defaults",
        "sse-retry",
    },
    "2026-07-28": {
        "tools_call",
        "request-metadata",
        "sep-2322-client-request-state",
        "http-standard-headers",
        "http-custom-headers",
        "http-invalid-tool-headers",
        "json-schema-ref-no-deref",
        "json-schema-2020-12-preservation",
    },
}
"""What has to pass when the suite is the server behind the proxy, by revision of that server."""

OTHER_ERA = {"2025-11-25": "modern", "2026-07-28": "legacy"}
"""Where there is something to translate; `make conformance` has the clients of the server's own era as well."""

ONE_ERA = {
    "elicitation-sep1034-client-defaults": "legacy",
    "sse-retry": "legacy",
    "sep-2322-client-request-state": "modern",
    **dict.fromkeys(COUNTS_INITIALIZE, "modern"),
}
"""Scenarios that only clients of this era can pass, or that take long and say the same with the others."""


@pytest.fixture(scope="module", autouse=True)
def _installed() -> None:
    for version in (suite.VERSION, suite.RELEASE):
        nodejs.package_or_skip(suite.NAME, version)
    suite.install()


@pytest.fixture(scope="module", params=KINDS)
def proxy_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One proxy in front of each kind of reference server, one of which is met at its own endpoint."""
    folder = tmp_path_factory.mktemp(request.param)
    server = reference_server(request.param, folder / "server.log")
    try:
        own = request.param == "dual"
        proxy = Proxy({"main": server.url}, folder / "proxy.log", *(() if own else ("--namespace", "none")))
        yield proxy.url.replace("127.0.0.1", "localhost") + ("/main" if own else "")
        proxy.stop()
    finally:
        server.destroy()


@pytest.mark.parametrize("revision", SCENARIOS)
@pytest.mark.case("D-03")
def test_clients_of_every_revision_pass_in_front_of_every_kind_of_server(proxy_url: str, revision: str, tmp_path: Path):
    wanted = suite.scored("server", revision)
    assert len(wanted) == SCENARIOS[revision]

    found = suite.check_server(proxy_url, revision, tmp_path)

    assert wanted <= set(found), f"not run: {sorted(wanted - set(found))}"
    failed = [check for name in wanted for check in suite.failures(found[name])]
    unexpected = [check for check in failed if not is_expected(check)]
    assert not unexpected, "\n".join(map(str, unexpected))


@pytest.mark.parametrize("proxy_url", ["modern"], indirect=True)
@pytest.mark.case("D-03")
def test_clients_pass_the_latest_release_of_the_suite_too(proxy_url: str, tmp_path: Path):
    wanted = set(suite.scenarios("server", "2025-11-25", suite.RELEASE))
    assert len(wanted) == RELEASE_SCENARIOS

    found = suite.check_server(proxy_url, "2025-11-25", tmp_path, suite.RELEASE)

    assert wanted == set(found)
    failed = [check for checks in found.values() for check in suite.failures(checks)]
    assert not failed, "\n".join(map(str, failed))


@pytest.fixture
def tasks_url(tmp_path: Path) -> Iterator[str]:
    """A proxy in front of the reference server for tasks, and of another one whose tools have a prefix.

    (`python -m tests.conformance` runs the same scenarios without that other one, too.)
    """
    server = tasks_server(tmp_path / "server.log")
    other = reference_server("dual", tmp_path / "other.log")
    try:
        proxy = Proxy({"other": other.url, "main": server.url}, tmp_path / "proxy.log", "--namespace", "auto")
        yield proxy.url.replace("127.0.0.1", "localhost")
        proxy.stop()
    finally:
        server.destroy()
        other.destroy()


@pytest.mark.case("D-08")
def test_clients_that_take_tasks_pass(tasks_url: str, tmp_path: Path):
    wanted = suite.extension_scenarios("tasks")
    assert len(wanted) == TASK_SCENARIOS

    found = suite.check_extension(tasks_url, "tasks", tmp_path / "results")

    assert set(found) == set(wanted)
    failed = [check for checks in found.values() for check in suite.failures(checks)]
    assert not failed, "\n".join(map(str, failed))


@pytest.mark.parametrize(
    ("revision", "scenario", "era"),
    [
        (revision, scenario, ONE_ERA.get(scenario, OTHER_ERA[revision]))
        for revision, some in CLIENT_SCENARIOS.items()
        for scenario in sorted(some)
    ],
)
def test_the_proxy_is_a_correct_client_of_its_servers(revision: str, scenario: str, era: str, tmp_path: Path):
    checks = suite.check_client(client_command(era, tmp_path / "proxy.log"), scenario, revision, tmp_path / "results")

    failed = suite.failures(checks, warnings=True)
    assert checks
    assert not failed, "\n".join(map(str, failed))

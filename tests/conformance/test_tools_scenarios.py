"""The official suite's questions about what the proxy does: tools, versions, headers, logging, HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import nodejs
from tests.conformance import suite
from tests.conformance.legs import CLIENT_ERAS, KINDS, client_command, reference_server
from tests.processes import Proxy

pytestmark = pytest.mark.slow

_CONTENT = {f"tools-call-{kind}" for kind in ("simple-text", "image", "audio", "embedded-resource", "mixed-content")}
_COMMON = _CONTENT | {"tools-list", "tools-call-error", "tools-call-with-progress"}
_SESSIONS = {"server-initialize", "server-session-lifecycle", "ping", "logging-set-level", "tools-call-with-logging"}
_SINCE_2025_11_25 = {"json-schema-2020-12", "server-sse-multiple-streams", "dns-rebinding-protection"}
_STATELESS = {"server-stateless", "caching", "http-header-validation", "http-custom-header-server-validation"}

SCENARIOS = {
    "2025-06-18": _COMMON | _SESSIONS,
    "2025-11-25": _COMMON | _SESSIONS | _SINCE_2025_11_25,
    "2026-07-28": _COMMON | _SINCE_2025_11_25 | _STATELESS,
}
"""What has to pass, by revision of the client."""

NOT_BUILT = {
    ("logging-set-level", "logging-set-level"),
    ("tools-call-with-logging", "tools-call-with-logging"),
    ("server-stateless", "sep-2575-http-server-no-independent-requests-on-stream"),
    ("caching", "sep-2549-prompts-list-caching-hints"),
    ("caching", "sep-2549-resources-list-caching-hints"),
    ("caching", "sep-2549-resources-templates-list-caching-hints"),
    ("caching", "sep-2549-resources-read-caching-hints"),
    ("server-stateless", "sep-2575-server-sends-subscription-ack"),
    ("server-stateless", "sep-2575-server-tags-subscription-id"),
    ("server-stateless", "sep-2575-server-honors-notification-filter"),
    ("server-stateless", "sep-2575-server-sends-prompts-list-changed-on-subscription"),
    ("server-stateless", "sep-2575-server-sends-tools-list-changed-on-subscription"),
}
"""Checks of these scenarios about what the proxy does not have yet: logging/setLevel, elicitation, prompts, resources,
subscriptions/listen."""

CLIENT_SCENARIOS = {
    "2025-11-25": {"initialize", "tools_call", "json-schema-2020-12-preservation"},
    "2026-07-28": {
        "tools_call",
        "request-metadata",
        "http-standard-headers",
        "http-custom-headers",
        "http-invalid-tool-headers",
        "json-schema-ref-no-deref",
        "json-schema-2020-12-preservation",
    },
}
"""What has to pass when the suite is the server behind the proxy, by revision of that server."""

COUNTS_INITIALIZE = {"http-standard-headers", "request-metadata"}
"""Scenarios that count an `initialize` as a mistake. The proxy makes it once for a legacy client, to find out whether
the server has that client's era, so only modern clients are asked for here."""


@pytest.fixture(scope="module", autouse=True)
def _installed() -> None:
    nodejs.package_or_skip(suite.NAME, suite.VERSION)
    suite.install()


@pytest.fixture(scope="module", params=KINDS)
def proxy_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One proxy in front of each kind of reference server, for all revisions."""
    folder = tmp_path_factory.mktemp(request.param)
    server = reference_server(request.param, folder / "server.log")
    try:
        proxy = Proxy({"main": server.url}, folder / "proxy.log", "--namespace", "none")
        yield proxy.url.replace("127.0.0.1", "localhost")
        proxy.stop()
    finally:
        server.destroy()


@pytest.mark.parametrize("revision", SCENARIOS)
@pytest.mark.case("D-03")
def test_clients_of_every_revision_pass_in_front_of_every_kind_of_server(proxy_url: str, revision: str, tmp_path: Path):
    wanted = SCENARIOS[revision]

    found = suite.check_server(proxy_url, revision, tmp_path)

    assert wanted <= set(found), f"not run: {sorted(wanted - set(found))}"
    failed = [check for name in wanted for check in suite.failures(found[name])]
    unexpected = [check for check in failed if (check.scenario, check.id) not in NOT_BUILT]
    assert not unexpected, "\n".join(map(str, unexpected))


@pytest.mark.parametrize(
    ("revision", "scenario", "era"),
    [
        (revision, scenario, era)
        for revision, some in CLIENT_SCENARIOS.items()
        for scenario in sorted(some)
        for era in CLIENT_ERAS
        if era == "modern" or scenario not in COUNTS_INITIALIZE
    ],
)
def test_the_proxy_is_a_correct_client_of_its_servers(revision: str, scenario: str, era: str, tmp_path: Path):
    checks = suite.check_client(client_command(era, tmp_path / "proxy.log"), scenario, revision, tmp_path / "results")

    failed = suite.failures(checks, warnings=True)
    assert checks
    assert not failed, "\n".join(map(str, failed))

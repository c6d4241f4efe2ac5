"""Every feature between all eras, over every front: it works, and docs/bridging.md says so."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import trio

from tests.bridging import FEATURES, PAIRS, SERVERS, Outcomes, render, setting, try_all
from tests.catalogue import CHECKOUT

MESSAGES_MIN = 500
pytestmark = [pytest.mark.slow, pytest.mark.alone]  # 300 tries at once leave little of a busy machine


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcomes]:
    with setting(tmp_path_factory.mktemp("bridging")) as one:
        yield trio.run(try_all, one)


@pytest.mark.parametrize(("client_era", "server_era"), PAIRS)
@pytest.mark.parametrize("feature", FEATURES)
def test_it_works_between(outcomes: Outcomes, feature: str, client_era: str, server_era: str):
    tried = [
        each
        for each in (*outcomes.told, *outcomes.failures)
        if (each.feature, each.client_era, SERVERS[each.server][0]) == (feature, client_era, server_era)
    ]
    assert len(tried) == 3  # HTTP to HTTP, HTTP to pipes, stdio to HTTP
    failed = [f"{each}: {outcomes.failures[each]}" for each in tried if each in outcomes.failures]
    assert not failed, "\n".join(failed)


def test_every_message_to_a_client_or_a_server_is_as_its_schema_says(outcomes: Outcomes):
    assert outcomes.messages > MESSAGES_MIN
    assert outcomes.received > MESSAGES_MIN
    assert outcomes.faults == []


def test_the_table_in_the_documentation_says_what_happens(outcomes: Outcomes):
    page = (CHECKOUT / "docs" / "bridging.md").read_text(encoding="utf-8")
    assert page == render(outcomes), "python -m tests.bridging > docs/bridging.md"

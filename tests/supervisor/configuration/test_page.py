"""The page docs/configuration.md: every example is read, every key is on it, and what it shows is what is said."""

from __future__ import annotations

import re

import pytest

from supervisor import cli
from supervisor.configuration import document, keys, reading
from supervisor.configuration.problems import ConfigFileError
from tests.catalogue import CHECKOUT

PAGE = (CHECKOUT / "docs" / "configuration.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```(toml|yaml|json)\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize(("language", "text"), EXAMPLES)
def test_every_example_can_be_used(language: str, text: str):
    found = reading.read(document.parse(f"bulkhead.{language}", text), lambda reference: "secret")

    assert found.servers


def test_there_are_examples_of_every_format():
    assert {language for language, _ in EXAMPLES} == {"toml", "yaml", "json"}


def test_the_same_example_means_the_same_in_every_format():
    meant = [reading.read(document.parse(f"c.{language}", text), lambda _: "x") for language, text in EXAMPLES[:3]]

    assert meant[0].servers == meant[1].servers == meant[2].servers
    assert meant[0].options == meant[1].options == meant[2].options


def test_every_key_is_on_the_page_with_what_the_table_says():
    rows = re.findall(r"^\| `(\w+)` \| .* \| (.*) \|$", PAGE, re.MULTILINE)

    expected = [
        (name, key.about.rstrip(".")) for table in (keys.WHOLE, keys.SERVER, keys.GROUP) for name, key in table.items()
    ]
    for row in expected:
        assert row in rows, f"add to the page: | `{row[0]}` | ... | {row[1]} |"


def test_the_mistakes_shown_are_told_so():
    text = 'htpp = true\nport = "x"\n[servers.main]\nulr = "http://x/"\nurl = "http://x/"\n'

    with pytest.raises(ConfigFileError) as caught:
        reading.read(document.parse("bulkhead.toml", text), lambda _: "x")

    assert "\n".join(caught.value.lines) in PAGE


def test_the_help_names_the_page():
    assert "docs/configuration.md" in cli._parser().format_help()

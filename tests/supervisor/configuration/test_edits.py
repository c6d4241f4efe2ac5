"""Changing one server in a file's text: the change is made, and everything else is as its author wrote it."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.config import Server
from supervisor.configuration import document, reading
from supervisor.configuration.edits import EditError, add_server, remove_server, set_enabled, values_of
from supervisor.configuration.problems import ConfigFileError
from tests.supervisor.configuration import strategies

TOML = """\
# how we run it
http = true   # for everybody

[servers.main]  # the first one
url = 'http://localhost:8000/mcp'  # quotes stay

# the second one
[servers.second]
enabled = false
url = "http://localhost:8001/mcp"
"""
YAML = """\
# how we run it
http: true   # for everybody
servers:
    main:  # the first one
        url: 'http://localhost:8000/mcp'  # quotes stay
    # the second one
    second:
        enabled: false
        url: "http://localhost:8001/mcp"
"""


def servers_of(file: str, text: str) -> tuple[Server, ...]:
    return reading.read(document.parse(file, text), lambda _: "value").servers


@pytest.mark.parametrize("file", strategies.TEXTS)
@strategies.few
@given(listed=strategies.server_lists, new=strategies.servers())
def test_a_server_that_is_added_is_there_beside_the_others(file: str, listed: tuple[Server, ...], new: Server):
    text = strategies.TEXTS[file](listed)
    if any(server.name == new.name for server in listed):
        with pytest.raises(EditError, match="already"):
            add_server(file, text, new.name, values_of(new))
        return

    after = add_server(file, text, new.name, values_of(new))

    assert servers_of(file, after) == (*listed, new)
    if not file.endswith("json"):
        assert after.startswith(text.rstrip().removesuffix("[servers]").removesuffix("{}").rstrip())


@pytest.mark.parametrize("file", strategies.TEXTS)
@strategies.few
@given(listed=strategies.server_lists, data=st.data())
def test_a_server_that_is_removed_is_gone_and_no_other(file: str, listed: tuple[Server, ...], data: st.DataObject):
    text = strategies.TEXTS[file](listed)
    name = data.draw(strategies.names)
    if all(server.name != name for server in listed):
        with pytest.raises(EditError, match="has no server"):
            remove_server(file, text, name)
        return

    after = remove_server(file, text, name)

    assert servers_of(file, after) == tuple(server for server in listed if server.name != name)
    if len(listed) > 1 and not file.endswith("json"):
        assert after.count("  # where") == len(listed) - 1
        assert after.count("# about ") == len(listed)


@pytest.mark.parametrize("file", strategies.TEXTS)
@strategies.few
@given(listed=strategies.server_lists, enabled=st.booleans(), data=st.data())
def test_a_server_is_switched_and_switching_it_back_restores_the_meaning(
    file: str, listed: tuple[Server, ...], enabled: bool, data: st.DataObject
):
    if not listed:
        return
    chosen = data.draw(st.sampled_from(listed))
    text = strategies.TEXTS[file](listed)

    after = set_enabled(file, text, chosen.name, enabled=enabled)

    assert [server.enabled for server in servers_of(file, after) if server.name == chosen.name] == [enabled]
    assert servers_of(file, set_enabled(file, after, chosen.name, enabled=chosen.enabled)) == listed
    if enabled == chosen.enabled:
        assert servers_of(file, after) == listed


@pytest.mark.parametrize(("file", "text"), [("c.toml", TOML), ("c.yaml", YAML)])
def test_comments_order_and_quotes_stay(file: str, text: str):
    added = add_server(file, text, "third", {"url": "http://localhost:8002/mcp", "headers": {"A": "b c"}})
    switched = set_enabled(file, added, "second", enabled=True)

    assert added.startswith(text)
    assert "third" in added.removeprefix(text)
    assert [line for line in switched.splitlines() if "enabled" not in line] == [
        line for line in added.splitlines() if "enabled" not in line
    ]
    assert "enabled = true" in switched or "enabled: true" in switched
    assert remove_server(file, switched, "third").rstrip() == text.replace("false", "true").rstrip()
    first_gone = remove_server(file, text, "main")
    assert [line.strip() for line in first_gone.splitlines() if line.lstrip().startswith("#")] == [
        "# how we run it",
        "# the second one",
    ]
    assert first_gone.endswith(text[text.index("# the second") :])


INLINE = {
    "all in one line": 'servers = { main = { url = "http://x/" } } # all',
    "each in one line": '[servers]\nmain = { url = "http://x/" } # one',
    "dotted": 'servers.main.url = "http://x/"\nservers.main.enabled = true',
    "out of order": '[servers.main]\nurl = "http://x/"\n[servers.a]\nurl = "http://a/"\n'
    '[servers.main.headers]\nA = "b"',
    "empty": "[servers] # none yet",
    "missing": "http = true",
}


@pytest.mark.parametrize("text", INLINE.values(), ids=INLINE.keys())
def test_however_the_servers_are_written_a_change_is_right_or_refused(text: str):
    before = reading.names(document.parse("c.toml", text))
    for edit in (
        lambda: add_server("c.toml", text, "new", {"url": "http://new/", "headers": {"A": "b"}}),
        lambda: set_enabled("c.toml", text, "main", enabled=False),
        lambda: remove_server("c.toml", text, "main"),
    ):
        with contextlib.suppress(EditError):
            after = document.parse("c.toml", edit())
            assert reading.names(after) in (before, before | {"new"}, before - {"main"})
    assert "new" in reading.names(document.parse("c.toml", add_server("c.toml", text, "new", {"url": "http://n/"})))


def test_json_keeps_its_order_and_indentation():
    text = '{\n\t"servers": {\n\t\t"b": {\n\t\t\t"url": "http://ü/"\n\t\t}\n\t},\n\t"http": true\n}\n'

    assert set_enabled("c.json", text, "b", enabled=False) == text.replace('/"\n', '/",\n\t\t\t"enabled": false\n')


def test_json_with_comments_is_left_as_it_is():
    with pytest.raises(EditError, match="comments"):
        add_server("c.json", '{"servers": {} /* mine */}', "a", {"url": "http://x/"})


@pytest.mark.parametrize("text", ['{"mcpServers": {}}', '{"servers": {"a": {"type": "http", "url": "http://x/"}}}'])
def test_files_of_other_programs_are_never_written(text: str):
    with pytest.raises(EditError, match="belongs to another program"):
        add_server("c.json", text, "b", {"url": "http://x/"})


def test_a_file_that_cannot_be_read_cannot_be_changed():
    with pytest.raises(ConfigFileError):
        add_server("c.toml", "[servers", "b", {"url": "http://x/"})

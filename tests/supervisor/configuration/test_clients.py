"""Files of MCP clients are understood as they are; what of them cannot be used is said and does no harm."""

from __future__ import annotations

import json

import pytest

from supervisor.config import Server
from supervisor.configuration import clients, document, reading
from supervisor.configuration.problems import ConfigFileError
from supervisor.configuration.reading import FileSettings

CANARY = "hunter2canary"
CLAUDE = {
    "globalShortcut": "Ctrl+Space",
    "mcpServers": {
        "file system": {"command": "npx", "args": ["-y", "fs", CANARY], "env": {"KEY": CANARY, "OTHER": "${TOKEN}"}},
        "no": {"command": "npx", "args": ["--key", "${TOKEN}"]},
        "remote": {
            "type": "http",
            "url": "http://localhost:8000/mcp",
            "headers": {"Authorization": "Bearer ${TOKEN}", "X": "${env:Y}"},
        },
        "off": {"url": "http://localhost:8001/mcp", "disabled": True, "autoApprove": ["a"]},
        "old": {"type": "sse", "url": "http://localhost:8002/sse"},
        "tls": {"url": f"https://localhost:8003/mcp?key={CANARY}"},
    },
}
VSCODE = {
    "inputs": [{"type": "promptString", "id": "key", "password": True}],
    "servers": {
        "web": {"type": "http", "url": "http://localhost:8000/mcp"},
        "asks": {"type": "http", "url": "http://localhost:8001/mcp", "headers": {"K": "${input:key}"}},
        "local": {"type": "stdio", "command": "node", "args": ["x.js"], "cwd": "/srv"},
        "asks too": {"type": "stdio", "command": "node", "env": {"KEY": "${input:key}"}},
        "envelope": {"type": "stdio", "command": "node", "envFile": ".env"},
    },
}


def read(values: object) -> FileSettings:
    return reading.read(document.parse("c.json", json.dumps(values, indent=1)), lambda _: "A=value")


def test_the_file_of_claude_is_taken_as_it_is_and_what_cannot_be_used_is_said():
    found = read(CLAUDE)

    assert found.servers == (
        Server(
            "file-system",
            "",
            command="npx",
            args=("-y", "fs", CANARY),
            env=(("KEY", CANARY), ("OTHER", "${env:TOKEN}")),
        ),
        Server(
            "remote",
            "http://localhost:8000/mcp",
            headers=(("Authorization", "Bearer ${env:TOKEN}"), ("X", "${env:Y}")),
        ),
        Server("off", "http://localhost:8001/mcp", enabled=False),
        Server("old", "http://localhost:8002/sse", transport="sse"),
        Server("tls", f"https://localhost:8003/mcp?key={CANARY}"),
    )
    assert [note.split("[")[1].split("]")[0] for note in found.notes] == ["mcpServers.no.args"]
    assert "every user of the machine can see" in found.notes[0]
    assert CANARY not in "".join(found.notes)


def test_the_files_of_vs_code_are_taken_as_they_are():
    for values in (VSCODE, {"editor.fontSize": 12, "mcp": VSCODE}):
        found = read(values)

        assert found.servers == (
            Server("web", "http://localhost:8000/mcp"),
            Server("local", "", command="node", args=("x.js",), cwd="/srv"),
        )
        assert ["${input:...}" in note for note in found.notes] == [True, True, False]
        assert "envFile" in found.notes[2]


def test_a_file_of_variables_is_kept_if_it_can_be_found_from_anywhere():
    found = read({"servers": {"a": {"type": "stdio", "command": "node", "envFile": "/srv/a.env"}}})

    assert found.servers == (Server("a", "", command="node", env_file="/srv/a.env"),)


def test_cursor_and_windsurf_call_the_url_as_they_like():
    found = read({"mcpServers": {"cursor": {"url": "http://a/"}, "windsurf": {"serverUrl": "http://b/"}}})

    assert [server.url for server in found.servers] == ["http://a/", "http://b/"]


def test_a_file_of_ours_in_json_is_no_clients():
    values = {"http": True, "servers": {"main": {"url": "http://x/"}}}

    assert not clients.is_clients(document.parse("c.json", json.dumps(values)))
    assert read(values).options == {"http": True}


def test_names_become_possible_and_stay_apart():
    names = ["my server", "my.server", "my-server", "__", "ä" * 50, "x" * 50, "x" * 51, "a__b", "-a-"]

    found = read({"mcpServers": {name: {"url": "http://x/"} for name in names}})

    fitted = [server.name for server in found.servers]
    assert fitted == [
        "my-server",
        "my-server-2",
        "my-server-3",
        "server",
        "server-2",
        "x" * 32,
        "x" * 30 + "-2",
        "a_b",
        "a",
    ]


@pytest.mark.parametrize(
    "values", [{"mcpServers": {}}, {"mcpServers": {"a": {"command": ""}}}, {"mcpServers": {"a": 1}}]
)
def test_a_clients_file_of_which_nothing_can_be_used_is_refused(values: object):
    with pytest.raises(ConfigFileError):
        read(values)

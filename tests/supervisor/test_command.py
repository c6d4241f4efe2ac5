"""Servers that are commands: on the command line, at run time, and what they are started with."""

from __future__ import annotations

import pytest

from supervisor import cli, command, plan
from supervisor.cli import UsageError
from supervisor.config import ConfigError, Server, Settings
from supervisor.plan import Holdings

URL = "main=http://localhost:8000/mcp"
HOLDINGS = Holdings([], b"", None, frozenset())


def servers(*texts: str) -> tuple[Server, ...]:
    return cli.parse(["--http", "--servers", *texts]).servers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("files=npx -y server /data", ("npx", "-y", "server", "/data")),
        ("""files='/opt/my server' "a, b" c\\,d""", ("/opt/my server", "a, b", "c,d")),
        ("files=~/bin/server", ("~/bin/server",)),
        ("files=sh -c 'x; $(y) `z` | a > b & \"c\" *'", ("sh", "-c", 'x; $(y) `z` | a > b & "c" *')),
        ("files=server --url=http://x/?a=1", ("server", "--url=http://x/?a=1")),
        ("files=./relative", ("./relative",)),
    ],
)
@pytest.mark.case("D-14")
def test_a_command_is_split_into_words_and_nothing_in_it_means_anything(text: str, expected: tuple[str, ...]):
    (server,) = servers(text)

    assert (server.command, *server.args) == expected
    assert (server.url, server.shown_transport) == ("", "stdio")


def test_commands_and_urls_stand_side_by_side_and_a_comma_in_quotes_separates_nothing():
    found = servers(f"{URL}?q='a", "files=npx 'x,y=z' -y,other=http://x/?it's,last=run \"a\"")

    assert [(one.name, one.url, one.command, one.args) for one in found] == [
        ("main", "http://localhost:8000/mcp?q='a", "", ()),
        ("files", "", "npx", ("x,y=z", "-y")),
        ("other", "http://x/?it's", "", ()),
        ("last", "", "run", ("a",)),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("files=npx 'canary", "without its other half"),
        ("files=''", "must be a program"),
        ("files=ftp://canary/", "must begin with http://"),
        ("files=localhost:8000/mcp", "must begin with http://"),
        ("files=//host/x", "must begin with http://"),
        ("files=npx ${env:canary}", "every user of the machine"),
        ("files=npx -y, canary", "has no '='"),
    ],
)
def test_what_cannot_be_a_command_is_told_without_repeating_it(text: str, words: str):
    with pytest.raises(UsageError) as caught:
        servers(text)

    assert words in str(caught.value)
    assert "canary" not in str(caught.value) or "has no '='" in words


@pytest.mark.case("D-15")
def test_the_environment_is_what_programs_need_and_what_is_configured():
    ours = {
        "HOME": "/h", "PATH": "/bin", "LANG": "C", "LC_ALL": "C", "TMPDIR": "/t", "SHELL": "() { evil; }", "TERM": "x",
        "AWS_SECRET_ACCESS_KEY": "canary", "LD_PRELOAD": "/x", "PYTHONPATH": "/y", "NODE_OPTIONS": "--x",
        "USER": "u\udcff",
    }  # fmt: skip

    found = command.environment(ours, {"TOKEN": "mine", "PATH": "/own"})

    assert found == {
        "HOME": "/h", "PATH": "/own", "LANG": "C", "LC_ALL": "C", "TMPDIR": "/t", "TERM": "x", "USER": "u?",
        "TOKEN": "mine",
    }  # fmt: skip
    with pytest.raises(ConfigError, match="environment is longer"):
        command.environment({}, {"A": "x" * 100_000})


@pytest.mark.case("D-15")
def test_only_the_servers_own_worker_is_told_its_command(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TOKEN", "canary")
    monkeypatch.setenv("HOME", "/home/me")
    server = Server("files", "", command="npx", args=("-y",), env=(("KEY", "${env:TOKEN}"),), cwd="/srv")
    settings = Settings((server,))

    boot, _ = plan.server_boot(settings, HOLDINGS, 1, server)
    told = boot.settings.command
    assert (told.argv, told.cwd, told.secrets) == (["npx", "-y"], "/srv", ["canary"])
    assert told.environment["KEY"] == "canary"
    assert told.environment["HOME"] == "/home/me"
    assert "TOKEN" not in told.environment

    front, _ = plan.front_boot(settings, [server], HOLDINGS, 1, None, [])
    assert "npx" not in repr(front)
    assert "canary" not in repr(front)


@pytest.mark.case("D-14")
def test_a_command_is_shown_as_one_would_write_it_and_without_what_looks_like_a_secret():
    server = Server("x", "", command="/opt/my server", args=("$(rm -rf)", "a\nb", "--api-key=canary", "plain"))

    shown = command.shown_command(server)

    assert shown == "'/opt/my server' '$(rm -rf)' 'a\\nb' --api-key=[redacted] plain"
    assert command.shown_command(Server("x", "http://h/")) == ""
    assert command.shown_place(Server("x", "http://h/?k=canary")) == "http://h/?k=[redacted]"
    assert len(command.shown_command(Server("x", "", command="x" * 10_000))) == command.SHOWN_CHARS_MAX


@pytest.mark.parametrize("name", ["LD_PRELOAD", "LD_LIBRARY_PATH", "LD_AUDIT", "GLIBC_TUNABLES", "a b", "", "A=B"])
@pytest.mark.case("D-14")
def test_variables_that_change_what_programs_load_are_refused(name: str):
    with pytest.raises(ConfigError) as caught:
        command.check_variable(name, "canary")
    assert "canary" not in str(caught.value)


def test_commands_are_not_added_at_run_time_unless_that_is_allowed():
    assert not cli.parse(["--http", "--servers", URL]).allow_stdio_add
    assert cli.parse(["--http", "--allow-stdio-add", "--servers", URL]).allow_stdio_add

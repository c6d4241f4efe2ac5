"""The command line: what it understands, and that every mistake is told in one line that names it."""

from __future__ import annotations

from pathlib import Path

import pytest

from protocol.management import TOOL_NAMES
from protocol.names import Policy
from supervisor import cli
from supervisor.cli import UsageError, parse
from supervisor.config import Server, Settings

CANARY = "hunter2canary"
MAIN = "main=http://localhost:8000/mcp"


def test_the_smallest_command_line_gets_the_documented_defaults():
    assert parse(["--http", "--servers", MAIN]) == Settings(
        servers=(Server("main", "http://localhost:8000/mcp"),),
        http=True,
        hosts=("127.0.0.1",),
        port=8001,
        path="/mcp",
        separator="__",
        allowed_hosts=("127.0.0.1",),
        call_timeout_s=60.0,
        management=("manage", "proxy_status", "proxy_health"),
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["--servers", f"{MAIN},files=http://localhost:8010/mcp"],
        ["--servers", MAIN, "files=http://localhost:8010/mcp"],
        ["--servers", f" {MAIN} , files=http://localhost:8010/mcp"],
        ["--servers", MAIN, "--servers", "files=http://localhost:8010/mcp"],
    ],
)
def test_servers_may_be_given_together_or_one_by_one(arguments: list[str]):
    assert [server.name for server in parse(["--stdio", *arguments]).servers] == ["main", "files"]


def test_every_option_reaches_the_settings():
    clients = ["--stdio", "--http", "--host", "localhost", "--host", "::1", "--port", "0", "--path", "/a/b"]
    names = ["--allow-host", "Proxy.Example.com.", "--allow-origin", "HTTPS://app.example.com:8443", "--separator", "."]
    running = ["--call-timeout", "1.5", "--page-size", "20", "--log-file", "/x/log", "--state-dir", "/x"]
    running += ["--no-trust-annotations", "--management-prefix", "proxy-", "--no-admin", "--admin-socket", "/x/admin"]
    running += ["--admin-listen", "[::1]:9901", "--admin-token-file", "/x/token", "--fronts", "4"]

    settings = parse([*clients, *names, *running, "--servers", MAIN])

    assert settings == Settings(
        servers=(Server("main", "http://localhost:8000/mcp"),),
        stdio=True,
        http=True,
        hosts=("localhost", "::1"),
        port=0,
        path="/a/b",
        separator=".",
        allowed_hosts=("proxy.example.com", "localhost", "::1"),
        allowed_origins=("https://app.example.com:8443",),
        call_timeout_s=1.5,
        page_size=20,
        trust_annotations=False,
        log_file="/x/log",
        state_dir="/x",
        management=("proxy-manage", "proxy-proxy_status", "proxy-proxy_health"),
        admin=False,
        admin_socket="/x/admin",
        admin_listen=("::1", 9901),
        admin_token_file="/x/token",
        fronts=4,
    )


def test_the_management_tools_can_be_switched_off_and_have_the_names_that_the_front_knows():
    assert parse(["--http", "--servers", MAIN]).management == TOOL_NAMES
    assert parse(["--http", "--no-management", "--servers", MAIN]).management == ()


def test_names_may_go_without_prefixes():
    assert parse(["--http", "--servers", MAIN]).namespace is Policy.PREFIX
    assert parse(["--http", "--namespace", "none", "--servers", MAIN]).namespace is Policy.NONE
    assert parse(["--http", "--namespace", "auto", "--servers", MAIN]).namespace is Policy.AUTO


def test_names_may_be_as_long_as_the_clients_take_them():
    assert parse(["--http", "--servers", MAIN]).name_limit == 64
    assert parse(["--http", "--name-limit", "128", "--servers", MAIN]).name_limit == 128
    assert parse(["--http", "--name-limit", "0", "--servers", MAIN]).name_limit == 0


def test_debug_logs_to_a_file_of_its_own_unless_another_is_named():
    assert parse(["--http", "--debug", "--servers", MAIN]).log_file == cli.DEBUG_LOG_FILE
    assert parse(["--http", "--debug", "--log-file", "mine", "--servers", MAIN]).log_file == "mine"
    assert parse(["--http", "--servers", MAIN]).log_file == ""


def test_an_address_for_every_interface_is_no_name_that_clients_may_use():
    assert parse(["--http", "--host", "0.0.0.0", "--host", "10.1.2.3", "--servers", MAIN]).allowed_hosts == (
        "10.1.2.3",
    )


def test_gateways_are_networks_and_may_be_given_together_or_one_by_one():
    options = ["--trusted-proxies", "10.0.0.0/8, ::1", "--trusted-proxies", "unix,10.0.0.0/8", "--proxy-protocol"]
    settings = parse(["--listen-unix", "mcp.sock", *options, "--servers", MAIN])
    assert settings.trusted_proxies == ("10.0.0.0/8", "::1/128", "unix")
    assert (settings.proxy_protocol, settings.http, settings.has_http) == (True, False, True)


def test_options_count_more_than_the_file_and_servers_are_added_to_it(tmp_path: Path):
    file = tmp_path / "c.toml"
    file.write_text('http = true\nport = 1\npage_size = 5\n[servers.one]\nurl = "http://one/"\n')

    settings = parse(["--config", str(file), "--port", "2", "--servers", MAIN])

    assert (settings.http, settings.port, settings.page_size) == (True, 2, 5)
    assert [server.name for server in settings.servers] == ["one", "main"]
    assert settings.config_file == str(file)


def test_a_server_of_the_file_cannot_be_named_again(tmp_path: Path):
    file = tmp_path / "c.toml"
    file.write_text('http = true\n[servers.main]\nurl = "http://one/"\n')

    with pytest.raises(UsageError, match="two servers are called 'main'"):
        parse(["--config", str(file), "--servers", MAIN])


def test_a_file_may_leave_it_to_the_command_line_how_clients_connect(tmp_path: Path):
    file = tmp_path / "c.toml"
    file.write_text('[servers.main]\nurl = "http://one/"\n')

    assert parse(["--stdio", "--config", str(file)]).stdio
    with pytest.raises(UsageError, match=r"on the command line or in .*c\.toml"):
        parse(["--config", str(file)])


WRONG = {
    "neither stdio nor http": (["--servers", MAIN], "--stdio"),
    "no servers": (["--http"], "--servers"),
    "unknown option": (["--http", "--servers", MAIN, "--prot", "1"], "--prot"),
    "abbreviated option": (["--http", "--server", MAIN], "--server"),
    "option without its value": (["--http", "--port"], "--port"),
    "missing =": (["--http", "--servers", "localhost:8000/mcp"], "'localhost:8000/mcp' has no '='"),
    "URL without a name": (["--http", "--servers", "http://localhost:8000/mcp"], "no name"),
    "URL with a query without a name": (["--http", "--servers", "http://localhost/mcp?a=b"], "no name"),
    "WebSocket without HTTP": (["--stdio", "--ws", "--servers", MAIN], "--ws: WebSocket begins as HTTP"),
    "WebSocket in the place of HTTP": (["--http", "--ws", "/mcp/x", "--servers", MAIN], "something else is served"),
    "empty name": (["--http", "--servers", "=http://localhost:8000/mcp"], "no name before"),
    "empty entry": (["--http", "--servers", f"{MAIN},"], "empty entry"),
    "duplicate name": (["--http", "--servers", f"{MAIN},{MAIN}"], "two servers are called 'main'"),
    "duplicate name in two options": (
        ["--http", "--servers", MAIN, "--servers", MAIN],
        "two servers are called 'main'",
    ),
    "bad characters in a name": (["--http", "--servers", "ma!n=http://x/"], "'ma!n'"),
    "separator in a name": (["--http", "--servers", "a__b=http://x/"], "separator '__'"),
    "name that runs into the separator": (["--http", "--servers", "a_=http://x/"], "'a_'"),
    "dot in a name": (["--http", "--servers", "a.b=http://x/"], "'a.b'"),
    "name of 33 characters": (["--http", "--servers", f"{'a' * 33}=http://x/"], "32"),
    "name with a line break": (["--http", "--servers", "a\nb=http://x/"], "a\\nb"),
    "no URL": (["--http", "--servers", "main="], "server 'main': the URL is missing"),
    "relative socket": (["--http", "--servers", "main=unix://x/y.sock"], "an absolute path"),
    "folder for a socket": (["--http", "--servers", "main=unix:///run/"], "an absolute path"),
    "endpoint without a slash": (["--http", "--servers", "main=unix:///run/x.sock:mcp"], "begins with '/'"),
    "endless socket": (["--http", "--servers", f"main=unix:///{'a' * 107}"], "at most 107 bytes"),
    "fragment of a socket": (["--http", "--servers", f"main=unix:///run/x#{CANARY}"], "fragment"),
    "other scheme": (["--http", "--servers", "main=ftp://x/"], "server 'main': the URL must begin with http://"),
    "scheme without slashes": (["--http", "--servers", "main=http:x"], "must begin with http://"),
    "no scheme": (["--http", "--servers", "main=localhost:8000"], "must begin with http://"),
    "no host": (["--http", "--servers", "main=http:///mcp"], "no host"),
    "only a port": (["--http", "--servers", "main=http://:80/mcp"], "no host"),
    "port that is none": (["--http", "--servers", "main=http://x:eighty/"], "host or port"),
    "port too large": (["--http", "--servers", "main=http://x:65536/"], "host or port"),
    "port zero": (["--http", "--servers", "main=http://x:0/"], "host or port"),
    "empty port": (["--http", "--servers", "main=http://x:/"], "host or port"),
    "open bracket": (["--http", "--servers", "main=http://[::1/"], "host or port"),
    "host that is none": (["--http", "--servers", "main=http://a..b!/"], "host or port"),
    "password": (["--http", "--servers", f"main=http://me:{CANARY}@x/"], "user name or password"),
    "user": (["--http", "--servers", f"main=http://{CANARY}@x/"], "user name or password"),
    "fragment": (["--http", "--servers", f"main=http://x/#{CANARY}"], "fragment"),
    "space": (["--http", "--servers", "main=http://x/a b"], "percent-encoded"),
    "umlaut": (["--http", "--servers", "main=http://x/ü"], "percent-encoded"),
    "line break in a URL": (["--http", "--servers", "main=http://x/\nmain: fine"], "percent-encoded"),
    "backslash": (["--http", "--servers", "main=http://x\\y/"], "percent-encoded"),
    "password and no name": (["--http", "--servers", f"me:{CANARY}@x:80/"], "has no '='"),
    "comma in a URL": (["--http", "--servers", "main=http://x/a,b"], "%2C"),
    "endless URL": (["--http", "--servers", "main=http://x/" + "a" * 2048], "longer than 2048"),
    "too many servers": (["--http", "--servers", *(f"s{n}=http://x/" for n in range(201))], "at most 200"),
    "too long URLs": (["--http", "--servers", *(f"s{n}=http://x/{'a' * 2000}" for n in range(30))], "together"),
    "port word": (["--http", "--servers", MAIN, "--port", "http"], "--port: 'http' is not a port"),
    "port negative": (["--http", "--servers", MAIN, "--port=-1"], "--port"),
    "port above all": (["--http", "--servers", MAIN, "--port", "65536"], "--port"),
    "port in other digits": (["--http", "--servers", MAIN, "--port", "\uff18\uff10"], "--port"),
    "port of a million digits": (["--http", "--servers", MAIN, "--port", "1" * 100_000], "--port"),
    "host with a port": (["--http", "--servers", MAIN, "--host", "localhost:1"], "--host: 'localhost:1'"),
    "empty host": (["--http", "--servers", MAIN, "--host", ""], "--host"),
    "relative path": (["--http", "--servers", MAIN, "--path", "mcp"], "--path: 'mcp'"),
    "path with dots": (["--http", "--servers", MAIN, "--path", "/a/../b"], "--path"),
    "path with a query": (["--http", "--servers", MAIN, "--path", "/a?b"], "--path"),
    "double slash": (["--http", "--servers", MAIN, "--path", "//a"], "--path"),
    "empty separator": (["--http", "--servers", MAIN, "--separator", ""], "--namespace none"),
    "separator of letters": (["--http", "--servers", MAIN, "--separator", "ab"], "--separator"),
    "short names": (["--http", "--servers", MAIN, "--name-limit", "20"], "--name-limit"),
    "unknown namespace": (["--http", "--servers", MAIN, "--namespace", "both"], "--namespace"),
    "allowed host with a port": (["--http", "--servers", MAIN, "--allow-host", "a.com:80"], "without a port"),
    "allowed host with a star": (["--http", "--servers", MAIN, "--allow-host", "*"], "--allow-host"),
    "origin without scheme": (["--http", "--servers", MAIN, "--allow-origin", "a.com"], "--allow-origin"),
    "origin null": (["--http", "--servers", MAIN, "--allow-origin", "null"], "--allow-origin"),
    "origin with a path": (["--http", "--servers", MAIN, "--allow-origin", "https://a.com/"], "--allow-origin"),
    "origin with a password": (
        ["--http", "--servers", MAIN, "--allow-origin", f"https://u:{CANARY}@a"],
        "--allow-origin",
    ),
    "timeout negative": (["--http", "--servers", MAIN, "--call-timeout=-1"], "--call-timeout"),
    "timeout nan": (["--http", "--servers", MAIN, "--call-timeout", "nan"], "--call-timeout"),
    "timeout for ever": (["--http", "--servers", MAIN, "--call-timeout", "inf"], "3600"),
    "page size negative": (["--http", "--servers", MAIN, "--page-size", "-5"], "--page-size"),
    "page size of words": (["--http", "--servers", MAIN, "--page-size", "ten"], "--page-size: 'ten'"),
    "empty log file": (["--http", "--servers", MAIN, "--log-file", ""], "--log-file"),
    "gateway that is no network": (["--http", "--servers", MAIN, "--trusted-proxies", "10.0.0.1/8"], "no network"),
    "old transport without HTTP": (["--stdio", "--sse", "--servers", MAIN], "add --http or --listen-unix"),
    "too many fronts": (["--http", "--fronts", "9", "--servers", MAIN], "from 1 to 8"),
    "fronts without a port": (["--stdio", "--fronts", "2", "--servers", MAIN], "add --http or --listen-unix"),
    "gateways for nothing": (["--http", "--servers", MAIN, "--proxy-protocol"], "--trusted-proxies"),
    "mode that is none": (["--listen-unix", "s", "--listen-unix-mode", "888", "--servers", MAIN], "three octal digits"),
    "path too long": (["--listen-unix", "x" * 200, "--servers", MAIN], "--listen-unix"),
    "too many hosts": (["--http", "--servers", MAIN, *(["--allow-host", "a"] * 51)], "more than 50"),
    "endless origin": (["--http", "--servers", MAIN, "--allow-origin", f"{'a' * 300}://b"], "--allow-origin"),
}
"""What is wrong → the arguments, and what the message must name."""


@pytest.mark.parametrize(("arguments", "named"), WRONG.values(), ids=WRONG.keys())
def test_a_mistake_is_told_by_name_without_repeating_secrets(arguments: list[str], named: str):
    with pytest.raises(UsageError) as caught:
        parse(arguments)

    message = str(caught.value)
    assert named in message
    assert CANARY not in message
    assert len(message) < 500


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:8000/mcp",
        "HTTP://EXAMPLE.com",
        "http://127.0.0.1/",
        "http://[::1]:8000/mcp",
        "http://my_service.internal:80/a/b?x=1&y=%2C",
        "http://example.com.:8080/mcp",
    ],
)
def test_ordinary_urls_are_taken_as_they_are(url: str):
    assert parse(["--http", "--servers", f"main={url}"]).servers == (Server("main", url),)


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_are_printed_and_are_no_mistake(option: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        parse([option])

    assert caught.value.code in (None, 0)
    printed = capsys.readouterr()
    assert "mcp-bulkhead" in printed.out
    assert printed.err == ""

"""A file's values become settings, or every mistake is told at once: line, key, and what to do."""

from __future__ import annotations

import dataclasses
import json

import jsonschema
import pytest
from hypothesis import given

from protocol.tool_rules import Override, ToolRules
from supervisor import cli
from supervisor.config import ConfigError, Server
from supervisor.configuration import document, edits, keys, reading, resolving, schema
from supervisor.configuration.problems import PROBLEMS_MAX, ConfigFileError
from supervisor.configuration.reading import FileSettings
from supervisor.configuration.references import Reference
from tests.catalogue import CHECKOUT
from tests.supervisor.configuration import strategies

CANARY = "hunter2canary"
MAIN = '[servers.main]\nurl = "http://localhost:8000/mcp"\n'
TLS = '[servers.main]\nurl = "https://localhost:8000/mcp"\n'
NPX = '[servers.main]\ncommand = "npx"\n'


def nothing(reference: Reference) -> str:
    raise ConfigError(f"{reference} is not there")


def read(text: str, file: str = "c.toml", **given: object) -> FileSettings:
    return reading.read(document.parse(file, text), lambda reference: f"<{reference.what}>", given)


WHOLE = {
    "stdio": (True, True),
    "http": (True, True),
    "host": (["localhost", "::1"], ["localhost", "::1"]),
    "port": (9000, 9000),
    "ws": ("/live", "/live"),
    "listen_unix": ("/x/mcp.sock", "/x/mcp.sock"),
    "listen_unix_mode": ("660", 0o660),
    "tls_cert": ("/x/cert.pem", "/x/cert.pem"),
    "tls_key": ("/x/key.pem", "/x/key.pem"),
    "sse": (True, True),
    "trusted_proxies": (["10.0.0.0/8", "unix"], ["10.0.0.0/8", "unix"]),
    "proxy_protocol": (True, True),
    "path": ("/a/b", "/a/b"),
    "allow_host": ("Proxy.Example.com", ["proxy.example.com"]),
    "allow_origin": (["https://app.example.com"], ["https://app.example.com"]),
    "separator": (".", "."),
    "namespace": ("auto", "auto"),
    "name_limit": (128, 128),
    "tools": ("lazy", "lazy"),
    "lazy_above": (10, 10),
    "allow_private": (True, True),
    "allow_stdio_add": (True, True),
    "management": (False, False),
    "management_prefix": ("proxy_", "proxy_"),
    "admin": (False, False),
    "admin_socket": ("/x/s", "/x/s"),
    "admin_listen": ("9901", ("127.0.0.1", 9901)),
    "admin_token_file": ("/x/t", "/x/t"),
    "call_timeout": (1.5, 1.5),
    "memory_limit": ("512MiB", 512 * 2**20),
    "fronts": (3, 3),
    "in_flight": (8, 8),
    "queue": (16, 16),
    "retries": (0, 0),
    "durable_after": (10, 10.0),
    "page_size": (20, 20),
    "trust_annotations": (False, False),
    "debug": (True, True),
    "log_file": ("/x/log", "/x/log"),
    "state_dir": ("/x", "/x"),
}
"""Key → a value, and the option it stands for."""


RULES = {
    "allow": ["read_*", "list"],
    "deny": ["*_all"],
    "renames": {"list": "ls"},
    "overrides": {"read_file": {"title": "Read", "description": "Reads.", "annotations": {"readOnlyHint": True}}},
    "namespace": "f",
    "priority": 3,
    "group": "mine",
}


def test_what_is_said_about_a_servers_tools_becomes_its_rules_and_can_be_written_again():
    (server,) = read(json.dumps({"servers": {"a": {"url": "http://x/"} | RULES}}), "c.json").servers

    assert server.rules == ToolRules(
        allow=("read_*", "list"),
        deny=("*_all",),
        renames={"list": "ls"},
        overrides={"read_file": Override("Read", "Reads.", b'{"readOnlyHint":true}')},
    )
    assert (server.namespace, server.priority, server.group) == ("f", 3, "mine")
    for file, before in (("c.toml", "http = true\n"), ("c.yaml", "http: true\n"), ("c.json", '{"http": true}')):
        text = edits.add_server(file, before, "a", edits.values_of(server))
        assert read(text, file).servers == (server,)


LIMITS = {
    "call_timeout": 120,
    "tool_timeouts": {"report": 600.0, "ns.tool": 0},
    "memory_limit": "2GiB",
    "in_flight": 4,
    "queue": 0,
    "retries": 1,
    "durable_after": 2.5,
    "trust_annotations": False,
}


def test_what_is_said_about_a_servers_limits_can_be_written_again():
    (server,) = read(json.dumps({"servers": {"a": {"url": "http://x/"} | LIMITS}}), "c.json").servers

    assert (server.call_timeout_s, server.tool_timeouts) == (120.0, (("report", 600.0), ("ns.tool", 0.0)))
    assert (server.memory_limit, server.in_flight_max, server.queue_max) == (2 * 2**30, 4, 0)
    assert (server.retries_max, server.trust_annotations) == (1, False)
    assert server.durable_after_s == 2.5
    jsonschema.validate({"servers": {"a": {"url": "http://x/"} | LIMITS}}, schema.schema())
    for file, before in (("c.toml", "http = true\n"), ("c.yaml", "http: true\n"), ("c.json", '{"http": true}')):
        text = edits.add_server(file, before, "a", edits.values_of(server))
        assert read(text, file).servers == (server,)


def test_http_2_can_be_configured_and_written_again():
    (server,) = read(f"{TLS}http2 = true\n").servers
    (other,) = read(TLS).servers

    assert (server.http2, other.http2) == (True, False)
    text = edits.add_server("c.toml", "http = true\n", "main", edits.values_of(server))
    assert read(text).servers == (server,)


def test_every_key_of_the_whole_is_tried_here():
    assert set(WHOLE) == set(keys.WHOLE)


def test_everything_that_has_an_option_can_be_said_in_the_file():
    options = {action.dest for action in cli._parser()._actions if action.dest not in ("help", "version")}

    assert {key.option for key in keys.WHOLE.values()} == options - {"config", "servers", "group"}


def test_everything_that_a_server_can_be_told_can_be_said_in_the_file():
    fields = {field.name for field in dataclasses.fields(Server)}

    rules = {f"rules.{field.name}" for field in dataclasses.fields(ToolRules)}
    assert {key.option for key in keys.SERVER.values()} == fields - {"name", "rules", "found_for", "address"} | rules


@pytest.mark.parametrize("file", ["c.toml", "c.yaml", "c.json"])
@pytest.mark.parametrize("key", WHOLE)
def test_every_key_becomes_the_option_of_its_name(key: str, file: str):
    value, option = WHOLE[key]
    written = json.dumps(value)
    text = {
        "c.toml": f"{key} = {written}\n[servers]\n",
        "c.yaml": f"{key}: {written}\nservers: {{}}\n",
        "c.json": json.dumps({key: value, "servers": {}}),
    }[file]

    assert read(text, file).options == {keys.WHOLE[key].option: option}
    jsonschema.validate({key: value, "servers": {}}, schema.schema())


@strategies.few
@given(strategies.server_lists)
def test_the_same_servers_are_read_from_every_format(listed: tuple[Server, ...]):
    for file, write in strategies.TEXTS.items():
        assert read(write(listed), file).servers == listed


def test_an_option_of_the_command_line_decides_which_names_are_possible():
    text = 'separator = "."\n[servers.a__b]\nurl = "http://x/"\n'

    assert [server.name for server in read(text).servers] == ["a__b"]
    with pytest.raises(ConfigFileError, match="separator '__'"):
        read(text, separator="__")


WRONG = {
    "unknown key": ("htpp = true", 1, "htpp", "did you mean 'http'?"),
    "key with dashes": ("page-size = 1", 1, "page-size", "did you mean 'page_size'?"),
    "key like none": ("xyzzy = 1", 1, "xyzzy", "known are: admin"),
    "text for a number": ('\n\nport = "80"', 3, "port", "must be a number, not a text"),
    "truth for a number": ("port = true", 1, "port", "must be a number, not true or false"),
    "broken port": ("port = 80.5", 1, "port", "is not a port"),
    "number for a truth": ("http = 1", 1, "http", "must be true or false, not a number"),
    "number for a text": ("path = 1", 1, "path", "must be a text in quotes"),
    "bad path": ('path = "mcp"', 1, "path", "begins with '/'"),
    "one bad host of three": ('host = ["a", "b:1", "c"]', 1, "host[1]", "neither a host name nor"),
    "number among hosts": ("allow_host = [1]", 1, "allow_host[0]", "must be a text"),
    "table for hosts": ("host = {}", 1, "host", "must be a list of texts, not a table"),
    "namespace": ('namespace = "both"', 1, "namespace", 'write "prefix" or "auto" or "none"'),
    "tools": ('tools = "few"', 1, "tools", '"lazy"'),
    "prefix": (f'{MAIN}namespace = "a b"', 3, "servers.main.namespace", "as a server's name is"),
    "priority": (f"{MAIN}priority = 1.5", 3, "servers.main.priority", "must be a whole number"),
    "pattern": (f'{MAIN}allow = ["a", ""]', 3, "servers.main.allow[1]", "1 to 128 characters"),
    "rename": (f"{MAIN}renames = {{ a = 1 }}", 3, "servers.main.renames.a", "must be a text"),
    "override": (f'{MAIN}overrides.a.titel = "x"', 3, "servers.main.overrides.a.titel", "no such key"),
    "annotations": (f"{MAIN}overrides.a.annotations = 1", 3, "servers.main.overrides.a.annotations", "a table"),
    "timeout": ("call_timeout = -1", 1, "call_timeout", "give seconds"),
    "size": ('memory_limit = "1MiB"', 1, "memory_limit", "at least 64MiB"),
    "size that is a truth": (f"{MAIN}memory_limit = true", 3, "servers.main.memory_limit", 'such as "512MiB"'),
    "calls": (f"{MAIN}in_flight = 65", 3, "servers.main.in_flight", "from 1 to 64"),
    "waiting calls": (f"{MAIN}queue = 4097", 3, "servers.main.queue", "from 0 to 4096"),
    "timeout of a tool": (f'{MAIN}tool_timeouts = {{ x = "1" }}', 3, "servers.main.tool_timeouts.x", "a number"),
    "timeout of no tool": (f"{MAIN}tool_timeouts = {{ '' = 1 }}", 3, "servers.main.tool_timeouts.''", "names no tool"),
    "timeouts that are none": (f"{MAIN}tool_timeouts = 5", 3, "servers.main.tool_timeouts", "must be a table"),
    "server that is a text": ('servers.main = "x"', 1, "servers.main", "must be a table"),
    "server without url": ("[servers.main]\nenabled = true", 1, "servers.main", "has neither url nor command"),
    "server with a bad name": ('[servers."a b"]\nurl = "http://x/"', 1, "servers.'a b'", "letters, digits"),
    "server with a misspelt key": (f'{MAIN}ulr = "{CANARY}"', 3, "servers.main.ulr", "did you mean 'url'?"),
    "ca_file of http": (f'{MAIN}ca_file = "/ca"', 3, "servers.main.ca_file", "is for servers with an https:// URL"),
    "http2 of http": (f"{MAIN}http2 = true", 3, "servers.main.http2", "is for servers with an https:// URL"),
    "http2 of a WebSocket": (
        '[servers.main]\nurl = "wss://x/"\nhttp2 = true',
        3,
        "servers.main.http2",
        "is for servers with an https:// URL",
    ),
    "http2 of a socket": ('[servers.main]\nurl = "unix:///x"\nhttp2 = true', 3, "servers.main.http2", "https:// URL"),
    "http2 of a command": (f"{NPX}http2 = true", 3, "servers.main.http2", "is for servers with a url"),
    "ca_file of a command": (f'{NPX}ca_file = "/ca"', 3, "servers.main.ca_file", "is for servers with a url"),
    "relative file": (f'{TLS}client_cert = "me.pem"', 3, "servers.main.client_cert", "must begin with / or ~/"),
    "key of nothing": (f'{TLS}client_key = "/me.pem"', 3, "servers.main.client_key", "is there without client_cert"),
    "proxy of another kind": (f'{MAIN}proxy = "socks5://x"', 3, "servers.main.proxy", "must begin with http://"),
    "proxy before a socket": (
        '[servers.main]\nurl = "unix:///x"\nproxy = "http://x"',
        3,
        "servers.main.proxy",
        "is not possible before a Unix socket",
    ),
    "proxy that is none": (
        f'{MAIN}proxy = "http://me:{CANARY}@x/path"',
        3,
        "servers.main.proxy",
        "is not http://HOST:PORT or http://USER:PASSWORD@HOST:PORT",
    ),
    "password": (f'[servers.main]\nurl = "http://me:{CANARY}@x/"', 2, "servers.main.url", "user name or password"),
    "url and command": (f'{MAIN}command = "npx"', 3, "servers.main.command", "is there beside url"),
    "args of a url": (f"{MAIN}args = []", 3, "servers.main.args", "is for servers with a command"),
    "env of a url": (f'{MAIN}env = {{ K = "{CANARY}" }}', 3, "servers.main.env", "is for servers with a command"),
    "headers of a command": (f'{NPX}headers.A = "{CANARY}"', 3, "servers.main.headers", "in env"),
    "empty command": ('[servers.main]\ncommand = ""', 2, "servers.main.command", "must be a program"),
    "arguments in a text": (f'{NPX}args = "-y {CANARY}"', 3, "servers.main.args", "must be a list of texts"),
    "number among arguments": (f"{NPX}args = [1]", 3, "servers.main.args", "must be a list of texts"),
    "secret in an argument": (f'{NPX}args = ["${{env:X}}"]', 3, "servers.main.args", "every user of the machine"),
    "number for a variable": (f"{NPX}env.A = 1", 3, "servers.main.env.A", "must be a text"),
    "variable that is no name": (f'{NPX}env."a=b" = "{CANARY}"', 3, "servers.main.env.'a=b'", "not the name"),
    "variable of the loader": (f'{NPX}env.LD_PRELOAD = "/{CANARY}"', 3, "servers.main.env.LD_PRELOAD", "LD_PRELOAD="),
    "processes": (f"{NPX}process_limit = -1", 3, "servers.main.process_limit", "a whole number from 0"),
    "processors": (f"{NPX}cpu_limit = 1.5", 3, "servers.main.cpu_limit", "whole number"),
    "niceness": (f"{NPX}nice = 20", 3, "servers.main.nice", "from 0 to 19"),
    "relative directory": (f'{NPX}cwd = "x"', 3, "servers.main.cwd", "must begin with / or ~/"),
    "file of variables": (f'{NPX}env_file = "x"', 3, "servers.main.env_file", "must begin with / or ~/"),
    "file of something else": (f'{NPX}env_file = "/nope/x"', 3, "servers.main.env_file", "line 1 is not NAME=VALUE"),
    "file of variables for a url": (f'{MAIN}env_file = "/x"', 3, "servers.main.env_file", "command"),
    "a key of others": (f'{MAIN}type = "http"', 3, "servers.main.type", "is called transport here"),
    "another isolation": (f'{MAIN}isolation = "call"', 3, "servers.main.isolation", 'write "shared" or "session"'),
    "a limit of nothing": (f"{MAIN}session_limit = 3", 3, "servers.main.session_limit", "has no meaning without"),
    "unknown transport": (f'{MAIN}transport = "carrier"', 3, "servers.main.transport", 'write "http" or "sse" or "ws"'),
    "transport of a command": (
        f'{MAIN}transport = "stdio"',
        3,
        "servers.main.transport",
        "only a server with a command",
    ),
    "transport of a url": (f'{NPX}transport = "http"', 3, "servers.main.transport", "a command speaks on stdio"),
    "transport of another url": (f'{MAIN}transport = "ws"', 3, "servers.main.transport", "does not fit the URL"),
    "switch": (f'{MAIN}enabled = "no"', 3, "servers.main.enabled", "must be true or false"),
    "headers": (f'{MAIN}headers = "{CANARY}"', 3, "servers.main.headers", "must be a table"),
    "header of the connection": (f'{MAIN}headers = {{ TE = "x" }}', 3, "servers.main.headers.TE", "proxy itself"),
    "header of ours": (f'{MAIN}headers.Mcp-Method = "x"', 3, "servers.main.headers.Mcp-Method", "proxy itself"),
    "header that is no name": (f'{MAIN}headers."a b" = "x"', 3, "servers.main.headers.'a b'", "not a header name"),
    "header of two lines": (f'{MAIN}headers.A = "x\\r\\n{CANARY}"', 3, "servers.main.headers.A", "line break"),
    "header twice": (f'{MAIN}headers = {{ a = "x", A = "y" }}', 3, "servers.main.headers.A", "there twice"),
    "number for a header": (f"{MAIN}headers.A = 1", 3, "servers.main.headers.A", "must be a text"),
    "reference of the shell's": (f'{MAIN}headers.A = "${{X}}"', 3, "servers.main.headers.A", "write ${env:X}"),
    "reference in a host": ('[servers.main]\nurl = "http://${env:H}/"', 2, "servers.main.url", "after its '?' only"),
}
"""What is wrong → the text, and line, key and words of the message."""


@pytest.mark.case("C-19")
@pytest.mark.parametrize(("text", "line", "key", "words"), WRONG.values(), ids=WRONG.keys())
def test_a_mistake_is_told_with_its_line_its_key_and_what_to_do(text: str, line: int, key: str, words: str):
    if "servers" not in text:
        text += "\n[servers]\n"

    with pytest.raises(ConfigFileError) as caught:
        read(text)

    (problem,) = caught.value.problems
    assert (problem.line, problem.key) == (line, key)
    assert words in problem.text
    assert CANARY not in str(caught.value)
    assert str(caught.value).startswith(f"c.toml:{line}: [{key}] ")


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file_and_not_without_end():
    text = "".join(f"key{n} = 1\n" for n in range(30)) + "[servers]\n"

    with pytest.raises(ConfigFileError) as caught:
        read(text)

    lines = caught.value.lines
    assert [problem.line for problem in caught.value.problems] == list(range(1, PROBLEMS_MAX + 1))
    assert len(lines) == PROBLEMS_MAX + 1
    assert lines[-1] == "c.toml: ... and 10 more"


@pytest.mark.case("C-19")
@pytest.mark.parametrize("text", ["", "# all of it is a comment\n", "http = true\n"])
def test_a_file_without_servers_is_taken_for_one_that_is_being_written(text: str):
    with pytest.raises(ConfigFileError, match='has no "servers"'):
        read(text)


def test_a_file_may_say_that_no_servers_are_meant():
    assert read("http = true\n[servers]\n").servers == ()


def test_two_hundred_servers_are_enough():
    text = "".join(f'[servers.s{n}]\nurl = "http://x/"\n' for n in range(201))

    with pytest.raises(ConfigFileError, match="at most 200"):
        read(text)


def test_a_secret_that_is_not_there_is_told_before_anything_starts():
    text = f'{MAIN}headers.Authorization = "Bearer ${{env:NOPE}}"\n'

    with pytest.raises(ConfigFileError) as caught:
        reading.read(document.parse("c.toml", text), nothing)

    assert str(caught.value) == "c.toml:3: [servers.main.headers.Authorization] ${env:NOPE} is not there"


def test_secrets_of_servers_that_are_switched_off_need_not_be_there():
    text = f'{MAIN}enabled = false\nheaders.Authorization = "Bearer ${{env:NOPE}}"\n'

    assert not reading.read(document.parse("c.toml", text), nothing).servers[0].enabled


def test_settings_hold_the_reference_and_not_what_it_stands_for():
    (server,) = read(f'{MAIN}headers.Authorization = "Bearer ${{env:TOKEN}}"\n').servers

    assert server.headers == (("Authorization", "Bearer ${env:TOKEN}"),)


def test_a_header_that_a_secret_breaks_is_refused_without_the_secret():
    text = f'{MAIN}headers.Authorization = "Bearer ${{env:TOKEN}}"\n'

    with pytest.raises(ConfigFileError) as caught:
        reading.read(document.parse("c.toml", text), lambda _: f"{CANARY}\nX: y")

    assert "line break" in str(caught.value)
    assert CANARY not in str(caught.value)


def test_the_variables_of_a_command_may_be_secrets_which_are_told_to_nobody_else():
    (server,) = read(f'{NPX}args = ["-y", "x"]\nenv = {{ A = "plain", B = "is ${{env:TOKEN}}" }}\n').servers
    assert server == Server("main", "", command="npx", args=("-y", "x"), env=(("A", "plain"), ("B", "is ${env:TOKEN}")))

    found, secrets = resolving.resolved_environment(server, lambda _: CANARY)
    assert found == {"A": "plain", "B": f"is {CANARY}"}
    assert set(secrets) == {f"is {CANARY}", CANARY}

    with pytest.raises(ConfigFileError) as caught:
        reading.read(document.parse("c.toml", f'{NPX}env.B = "${{env:NOPE}}"\n'), nothing)
    assert str(caught.value) == "c.toml:3: [servers.main.env.B] ${env:NOPE} is not there"


def test_a_file_of_variables_adds_to_them_and_its_longer_values_are_secrets():
    said = document.parse("c.toml", f'{NPX}env_file = "~/a.env"\nenv = {{ B = "own" }}\n')
    (server,) = reading.read(said, lambda _: "B=theirs").servers
    text = f"# for the server\n\nA={CANARY}\nexport PORT = 80\nB=theirs\nQ=\"a 'b' #c\"\nURL=x=y\n"

    found, secrets = resolving.resolved_environment(server, lambda _: text)

    assert found == {"A": CANARY, "PORT": "80", "B": "own", "Q": "a 'b' #c", "URL": "x=y"}
    assert set(secrets) == {CANARY, "a 'b' #c", "theirs"}
    for wrong, said in ((f"A=1\n{CANARY}", "line 2 is not NAME=VALUE"), (f"A B={CANARY}", "line 1: 'A B' is not")):
        with pytest.raises(ConfigError, match=said) as caught:
            resolving.resolved_environment(server, lambda _, wrong=wrong: wrong)
        assert CANARY not in str(caught.value)


def test_the_schema_wants_a_url_or_a_command():
    for values in ({"url": "http://x/"}, {"command": "npx", "args": ["-y"], "env": {"A": "b"}, "cwd": "/"}):
        jsonschema.validate({"servers": {"a": values}}, schema.schema())
    for values in ({}, {"url": "http://x/", "command": "npx"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"servers": {"a": values}}, schema.schema())


def test_the_published_schema_is_the_one_the_program_has():
    published = (CHECKOUT / "docs" / "config.schema.json").read_text(encoding="utf-8")

    assert published == schema.text(), "make it anew: mcp-bulkhead check --schema > docs/config.schema.json"
    jsonschema.Draft202012Validator.check_schema(json.loads(published))


@strategies.few
@given(strategies.server_lists)
def test_the_schema_takes_what_the_program_takes(listed: tuple[Server, ...]):
    jsonschema.validate(json.loads(strategies.as_json(listed)), schema.schema())


@pytest.mark.parametrize("values", [{}, {"servers": {"a": {}}}, {"servers": {}, "prot": 1}, {"servers": {"a b": {}}}])
def test_the_schema_refuses_what_the_program_refuses(values: dict[str, object]):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(values, schema.schema())
    with pytest.raises(ConfigFileError):
        read(json.dumps(values), "c.json")

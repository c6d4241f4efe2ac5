"""Public names in protocol/names.py: unambiguous whatever servers and tools are called."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from protocol.names import Namespace, server_name_fault

SERVER = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}", fullmatch=True)
SHORT_SERVER = st.text(alphabet="ab_-", min_size=1, max_size=4)
TOOL = st.text(min_size=1)
SHORT_TOOL = st.text(alphabet="ab_-.", min_size=1, max_size=6)
SEPARATOR = st.sampled_from(["__", "_", "-", "--", ".", "/", "-_-", "_-_", "a_a", "::"])


@pytest.mark.case("B-21")
@given(st.sets(SERVER | SHORT_SERVER, min_size=1, max_size=6), TOOL | SHORT_TOOL, SEPARATOR)
def test_a_public_name_leads_back_to_its_server_and_tool(servers: set[str], tool: str, separator: str):
    allowed = [server for server in servers if server_name_fault(server, separator) is None]
    names = Namespace(allowed, separator)

    for server in allowed:
        assert names.split(names.public(server, tool)) == (server, tool)


@pytest.mark.case("B-21")
@given(SEPARATOR, st.lists(st.tuples(SHORT_SERVER, SHORT_TOOL), min_size=2, max_size=8, unique=True))
def test_two_tools_never_share_a_public_name(separator: str, tools: list[tuple[str, str]]):
    allowed = [(server, tool) for server, tool in tools if server_name_fault(server, separator) is None]
    names = Namespace([server for server, _ in allowed], separator)

    assert len({names.public(server, tool) for server, tool in allowed}) == len(allowed)


@pytest.mark.case("B-21")
@given(st.sets(SERVER | SHORT_SERVER, min_size=1, max_size=6), SHORT_TOOL, SEPARATOR)
def test_the_dotted_alias_means_the_same_tool(servers: set[str], tool: str, separator: str):
    allowed = [server for server in servers if server_name_fault(server, separator) is None]
    names = Namespace(allowed, separator)

    for server in allowed:
        dotted = f"{server}.{tool}"
        # With a separator that begins with a letter, a prefix may reach over the dot; the prefix is then what counts.
        assume(dotted.partition(separator)[0] not in allowed)
        assert names.split(dotted) == (server, tool)


def test_the_usual_names_look_as_documented():
    names = Namespace(["main", "files"], "__")

    assert names.public("main", "echo") == "main__echo"
    assert names.split("main__echo") == ("main", "echo")
    assert names.split("main.echo") == ("main", "echo")
    assert names.split("files__a__b") == ("files", "a__b")
    assert names.split("files___b") == ("files", "_b")
    assert names.split("main.a__b") == ("main", "a__b")


@pytest.mark.case("A-30")
@pytest.mark.parametrize(
    "public",
    [
        *("", "echo", "__echo", ".echo", "main", "main__", "main.", "Main__echo", "other__echo", " main__echo"),
        *("main_echo", "main\x00__echo", "../main__echo", "main/../files__echo", "main\n.echo"),
        pytest.param("x" * 1_000_000, id="long"),
    ],
)
def test_a_name_without_a_known_prefix_belongs_to_nobody(public: str):
    assert Namespace(["main", "files"], "__").split(public) is None


def test_without_prefixes_a_single_server_owns_every_name():
    names = Namespace(["main"], "")

    assert names.public("main", "main.echo") == "main.echo"
    assert names.split("main.echo") == ("main", "main.echo")
    assert names.split("a__b") == ("main", "a__b")


def test_without_prefixes_only_the_alias_tells_several_servers_apart():
    names = Namespace(["main", "files"], "")

    assert names.public("files", "echo") == "echo"
    assert names.split("echo") is None
    assert names.split("files.echo") == ("files", "echo")


@pytest.mark.parametrize("name", ["a", "0", "main", "my-server_2", "A" * 32, "a-", "a_b"])
def test_an_ordinary_server_name_has_no_fault(name: str):
    assert server_name_fault(name, "__") is None


@pytest.mark.case("B-21")
@pytest.mark.parametrize(
    ("name", "separator"),
    [
        ("", "__"),
        ("A" * 33, "__"),
        ("_a", "__"),
        ("-a", "__"),
        ("a b", "__"),
        ("a.b", "__"),
        ("a/b", "__"),
        ("é", "__"),
        ("a\n", "__"),
        ("a__b", "__"),
        ("a_", "__"),
        ("a__", "__"),
        ("a-b", "-"),
        ("a-", "-"),
        ("a-_", "-_-"),
        ("a.b", ""),
        ("", ""),
    ],
)
def test_a_name_that_would_blur_the_separator_is_refused_with_a_reason(name: str, separator: str):
    fault = server_name_fault(name, separator)

    assert fault is not None
    assert "server's name" in fault


@pytest.mark.case("B-21")
def test_refusing_names_is_enough_to_keep_short_names_apart_and_not_too_much():
    words = ["".join(letters) for size in (1, 2, 3, 4) for letters in itertools.product("a_", repeat=size)]
    for separator in ("_", "__", "_a"):
        allowed = [word for word in words if server_name_fault(word, separator) is None]
        assert "a" in allowed
        assert len({server + separator + tool for server in allowed for tool in words}) == len(allowed) * len(words)

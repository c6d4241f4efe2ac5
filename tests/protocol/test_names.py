"""Public names in protocol/names.py: unambiguous whatever servers and tools are called."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from protocol.client_profiles import NAME_CHARACTERS_LEAST, Profile, Profiles, may_be_fitted
from protocol.names import Namespace, Policy, ServerNaming, server_name_fault
from protocol.tool_rules import ToolRules

SERVER = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}", fullmatch=True)
SHORT_SERVER = st.text(alphabet="ab_-", min_size=1, max_size=4)
TOOL = st.text(min_size=1)
SHORT_TOOL = st.text(alphabet="ab_-.", min_size=1, max_size=6)
SEPARATOR = st.sampled_from(["__", "_", "-", "--", ".", "/", "-_-", "_-_", "a_a", "::"])
AS_THEY_ARE = Profile(0)


class Names:
    """A namespace of servers without rules of their own, for one tool at a time."""

    def __init__(self, servers: Iterable[str], separator: str, policy: Policy = Policy.PREFIX) -> None:
        self._namespace = Namespace([ServerNaming(server) for server in servers], separator, policy)
        self.split = self._namespace.split

    def public(self, server: str, tool: str) -> str:
        return self._namespace.assign([(server, [tool])], AS_THEY_ARE).names[0][0]


@pytest.mark.case("B-21")
@given(st.sets(SERVER | SHORT_SERVER, min_size=1, max_size=6), TOOL | SHORT_TOOL, SEPARATOR)
def test_a_public_name_leads_back_to_its_server_and_tool(servers: set[str], tool: str, separator: str):
    allowed = [server for server in servers if server_name_fault(server, separator) is None]
    names = Names(allowed, separator)

    for server in allowed:
        assert names.split(names.public(server, tool)) == (server, tool)


@pytest.mark.case("B-21")
@given(SEPARATOR, st.lists(st.tuples(SHORT_SERVER, SHORT_TOOL), min_size=2, max_size=8, unique=True))
def test_two_tools_never_share_a_public_name(separator: str, tools: list[tuple[str, str]]):
    allowed = [(server, tool) for server, tool in tools if server_name_fault(server, separator) is None]
    names = Names([server for server, _ in allowed], separator)

    assert len({names.public(server, tool) for server, tool in allowed}) == len(allowed)


@pytest.mark.case("B-21")
@given(st.sets(SERVER | SHORT_SERVER, min_size=1, max_size=6), SHORT_TOOL, SEPARATOR)
def test_the_dotted_alias_means_the_same_tool(servers: set[str], tool: str, separator: str):
    allowed = [server for server in servers if server_name_fault(server, separator) is None]
    names = Names(allowed, separator)

    for server in allowed:
        dotted = f"{server}.{tool}"
        # With a separator that begins with a letter, a prefix may reach over the dot; the prefix is then what counts.
        assume(dotted.partition(separator)[0] not in allowed)
        assert names.split(dotted) == (server, tool)


def test_the_usual_names_look_as_documented():
    names = Names(["main", "files"], "__")

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
    assert Names(["main", "files"], "__").split(public) is None


def test_without_prefixes_a_single_server_owns_every_name():
    names = Names(["main"], "__", Policy.NONE)

    assert names.public("main", "main.echo") == "main.echo"
    assert names.split("main.echo") == ("main", "main.echo")
    assert names.split("a__b") == ("main", "a__b")


def test_without_prefixes_only_a_prefix_all_the_same_tells_several_servers_apart():
    names = Names(["main", "files"], "__", Policy.NONE)

    assert names.public("files", "echo") == "echo"
    assert names.split("echo") is None
    assert names.split("files.echo") == names.split("files__echo") == ("files", "echo")


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


# --- policies -------------------------------------------------------------------------------------------------------
def named(
    policy: Policy, *lists: tuple[str, list[str]], profile: Profile = AS_THEY_ARE, **more: int
) -> list[list[str]]:
    """Return the public names of (server, tools) lists. `more`: priorities by server."""
    servers = [ServerNaming(server, priority=more.get(server, 0)) for server, _ in lists]
    return Namespace(servers, "__", policy).assign(lists, profile).names


@pytest.mark.case("B-21")
def test_auto_prefixes_only_names_that_several_servers_offer():
    names = named(Policy.AUTO, ("a", ["echo", "one"]), ("b", ["two", "echo"]))

    assert names == [["a__echo", "one"], ["two", "b__echo"]]


@pytest.mark.case("B-21")
def test_auto_prefixes_a_name_that_would_pass_for_another_servers():
    names = named(Policy.AUTO, ("a", ["echo", "x"]), ("b", ["echo", "a__echo", "a.echo"]))

    assert names == [["a__echo", "x"], ["b__echo", "b__a__echo", "b__a.echo"]]


@pytest.mark.case("B-21")
@given(st.dictionaries(SHORT_SERVER, st.lists(SHORT_TOOL, max_size=6, unique=True), min_size=1, max_size=4))
def test_auto_gives_every_tool_a_name_of_its_own_that_leads_back_to_it(tools: dict[str, list[str]]):
    lists = [(server, own) for server, own in tools.items() if server_name_fault(server, "__") is None]
    assume(lists)
    namespace = Namespace([ServerNaming(server) for server, _ in lists], "__", Policy.AUTO)
    assigned = namespace.assign(lists, AS_THEY_ARE)

    everything = [name for names in assigned.names for name in names]
    assert len(set(everything)) == len(everything) == sum(len(own) for _, own in lists)
    for (server, own_names), names in zip(lists, assigned.names, strict=True):
        for own, public in zip(own_names, names, strict=True):
            assert assigned.targets[public] == (server, own)


@pytest.mark.case("B-21")
def test_without_prefixes_the_declared_priority_decides_and_what_loses_is_reported():
    lists = [("a", ["echo", "x"]), ("b", ["echo", "y"])]
    servers = [ServerNaming("a"), ServerNaming("b", priority=1)]
    assigned = Namespace(servers, "__", Policy.NONE).assign(lists, AS_THEY_ARE)

    assert assigned.names == [["", "x"], ["echo", "y"]]
    assert assigned.targets["echo"] == ("b", "echo")
    assert assigned.clashes == ["echo of a"]
    assert named(Policy.NONE, *lists) == [["echo", "x"], ["", "y"]]


@pytest.mark.parametrize("policy", list(Policy))
def test_no_tool_is_given_a_reserved_name(policy: Policy):
    namespace = Namespace([ServerNaming("proxy")], "_", policy, frozenset({"proxy_status", "manage"}))
    assigned = namespace.assign([("proxy", ["status", "manage", "proxy_status"])], Profile())
    (names,) = assigned.names

    assert not {"proxy_status", "manage"} & set(names)
    assert len(set(names)) == 3
    assert [assigned.targets[name][1] for name in names] == ["status", "manage", "proxy_status"]


def test_a_server_may_have_a_prefix_that_is_not_its_name():
    namespace = Namespace([ServerNaming("my-long-server-name", prefix="gh")], "__")

    assert namespace.assign([("my-long-server-name", ["echo"])], Profile()).names == [["gh__echo"]]
    assert namespace.split("gh__echo") == namespace.split("gh.echo") == ("my-long-server-name", "echo")
    assert namespace.split("my-long-server-name.echo") == ("my-long-server-name", "echo")


@pytest.mark.case("D-27")
def test_a_tool_that_is_not_offered_has_no_name_and_is_not_found_by_any():
    rules = ToolRules(allow=("get_*", "list"), deny=("get_secret*",), renames={"list": "ls"})
    namespace = Namespace([ServerNaming("fs", rules=rules)], "__")
    own = ["get_file", "get_secret", "list", "ls", "delete"]

    assert namespace.assign([("fs", own)], Profile()).names == [["fs__get_file", "", "fs__ls", "", ""]]
    assert namespace.split("fs__get_file") == ("fs", "get_file")
    assert namespace.split("fs.ls") == ("fs", "list")
    for hidden in ("get_secret", "get_secrets", "list", "delete", "GET_FILE", "delete\n"):
        assert namespace.split(f"fs__{hidden}") is None
        assert namespace.split(f"fs.{hidden}") is None


# --- fitting ---------------------------------------------------------------------------------------------------------
LONG = "a_tool_with_a_very_long_name_that_goes_on_and_on_until_no_client_takes_it"


def test_a_name_that_does_not_fit_is_shortened_the_same_way_every_time_and_both_names_are_understood():
    namespace = Namespace([ServerNaming("main")], "__")
    assigned = namespace.assign([("main", ["echo", LONG, "dots.and spaces"])], Profile())

    short = "main__a_tool_with_a_very_long_name_that_goes_on_and_on__ecln7jtg"
    spelled = assigned.names[0][2]
    assert assigned.names[0][:2] == ["main__echo", short]
    assert len(short) == 64
    assert spelled.startswith("main__dots_and_spaces_")
    assert assigned.targets[short] == assigned.targets[f"main__{LONG}"] == ("main", LONG)
    assert assigned.targets[spelled] == ("main", "dots.and spaces")


@given(st.lists(st.text(min_size=1, max_size=200), unique=True, max_size=30), st.integers(44, 128), st.booleans())
def test_fitted_names_are_legal_short_enough_and_all_different(names: list[str], longest: int, letter_first: bool):
    profile = Profile(longest, letter_first=letter_first)
    fitted = [profile.fit(name) for name in names]

    assert len(set(fitted)) == len(names)
    for name in fitted:
        assert re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]*" if letter_first else r"[A-Za-z0-9_-]+", name)
        assert len(name) <= longest
        assert profile.fit(name) == name


@given(SERVER, st.text(min_size=1, max_size=200))
def test_a_fitted_name_still_says_whose_it_is(server: str, tool: str):
    assume(server_name_fault(server, "__") is None)
    namespace = Namespace([ServerNaming(server)], "__")
    (public,) = namespace.assign([(server, [tool])], Profile(NAME_CHARACTERS_LEAST)).names[0]

    found = namespace.cut(public)
    assert found is not None
    assert found[0] == server
    assert found[1] == tool or may_be_fitted(public)


@pytest.mark.parametrize(
    ("client", "longest"),
    [
        ("claude-ai", 64),
        ("claude-code", 44),
        ("cursor-vscode", 44),
        ("Cursor", 44),
        ("gemini-cli-mcp-client", 44),
        ("", 64),
        ("x" * 1000, 64),
    ],
)
def test_clients_known_to_be_picky_get_shorter_names(client: str, longest: int):
    assert Profiles(64, "__").of(client).characters_max == longest
    assert Profiles(0, "__").of(client).fit(LONG * 10) == LONG * 10


def test_the_characters_of_a_chosen_separator_are_legal_but_for_picky_clients():
    profiles = Profiles(64, ".")

    assert profiles.of("some client").fit("main.echo") == "main.echo"
    assert re.fullmatch(r"main_echo_[a-z2-7]{8}", profiles.of("claude-code").fit("main.echo"))
    assert re.fullmatch(r"_3d__echo_[a-z2-7]{8}", profiles.of("gemini-cli").fit("3d__echo"))

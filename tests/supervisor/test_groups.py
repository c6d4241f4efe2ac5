"""Groups of replicas as they are configured: the ways to say it mean the same, and what cannot be meant is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from protocol import balancing
from protocol.control import ServerInfo
from protocol.management import Request
from protocol.tool_rules import ToolRules
from supervisor import ctl, groups
from supervisor.admin import request_of
from supervisor.cli import UsageError, parse
from supervisor.config import ConfigError, Group, Portion, Server, Settings
from supervisor.configuration import document, edits, reading
from supervisor.configuration.plan import apply, diff
from supervisor.configuration.problems import ConfigFileError
from supervisor.configuration.reading import FileSettings
from supervisor.plan import offered_info
from supervisor.roster import Roster

A, B = Server("search-1", "http://a/mcp", group="search"), Server("search-2", "http://b/mcp?x=1|2", group="search")
SEARCH = Group("search", ("search-1", "search-2"))
SHORT = "search=http://a/mcp|http://b/mcp?x=1|2"
SEARCH_12 = "search1=http://a/,search2=http://b/"
SERVERS = '[servers]\nsearch-1 = { url = "http://a/mcp" }\nsearch-2 = { url = "http://b/mcp?x=1|2" }\n'


def read(text: str, file: str = "c.toml") -> FileSettings:
    return reading.read(document.parse(file, text), lambda reference: "secret")


def refusal(text: str) -> str:
    with pytest.raises(ConfigFileError) as caught:
        read(text)
    return str(caught.value)


def as_told(
    settings: Settings, server: Server, *, is_drained: bool = False, portion: Portion | None = None
) -> ServerInfo:
    """Return what a front is told of a server that is there beside those of the settings."""
    roster = Roster((*settings.servers, server), settings.groups)
    roster.entries[server.name].is_drained = is_drained
    roster.entries[server.name].portion = portion
    return offered_info(settings, server, roster.replica(server.name))


# --- ways to say it --------------------------------------------------------------------------------------------------
def test_replicas_in_short_are_named_after_their_group():
    settings = parse(["--http", "--servers", f"main=http://m/|y,{SHORT}"])
    assert settings.servers == (Server("main", "http://m/|y"), A, B)
    assert settings.groups == (SEARCH,)


def test_servers_with_names_of_their_own_are_grouped_by_an_option():
    named = ["--servers", "one=http://a/,two=http://b/,other=http://c/"]
    settings = parse(["--http", *named, "--group", "search=two,one"])
    assert [(server.name, server.group) for server in settings.servers] == [
        ("one", "search"), ("two", "search"), ("other", ""),
    ]  # fmt: skip
    assert settings.groups == (Group("search", ("two", "one")),)
    settings = parse(["--http", *named, "--group", "search=two,one:priority"])
    assert settings.groups == (Group("search", ("two", "one"), "priority"),)


def test_the_command_line_can_group_servers_of_the_file(tmp_path: Path):
    path = tmp_path / "c.toml"
    path.write_text(SERVERS)
    settings = parse(["--http", "--config", str(path), "--group", "search=search-1,search-2"])
    assert (settings.servers, settings.groups) == ((A, B), (SEARCH,))


@pytest.mark.parametrize(
    "text",
    [
        f'{SERVERS}[groups.search]\nservers = ["search-1", "search-2"]\n',
        f"{SERVERS.replace(' }', chr(44) + ' group = ' + chr(34) + 'search' + chr(34) + ' }')}[groups.search]\n",
    ],
)
def test_the_file_says_it_in_the_table_of_the_group_or_of_its_servers(text: str):
    found = read(text)
    assert (found.servers, found.groups) == ((A, B), (SEARCH,))


def test_everything_about_a_group_can_be_said_in_the_file():
    values = {
        "servers": {"one": {"url": "http://a/"}, "two": {"url": "http://b/"}},
        "groups": {
            "search": {
                "servers": ["two", "one"], "policy": "sticky", "sticky_by": "user", "weights": {"one": 2},
                "canary": {"two": 5}, "hedge": True, "namespace": "s", "priority": 3, "deny": ["drop_*"],
            }
        },
    }  # fmt: skip
    (group,) = read(json.dumps(values), "c.json").groups
    assert group == Group(
        "search",
        ("two", "one"),
        "sticky",
        (("one", 2.0),),
        (("two", 5.0),),
        "user",
        True,
        "s",
        3,
        ToolRules(deny=("drop_*",)),
    )


def test_a_group_that_nobody_declares_is_a_label():
    found = read('[servers.main]\nurl = "http://m/"\ngroup = "mine"\n')
    assert (found.servers, found.groups) == ((Server("main", "http://m/", group="mine"),), ())
    settings = Settings(found.servers)
    assert as_told(settings, found.servers[0]) == ServerInfo("main", "")


def test_the_names_of_the_policies_are_those_that_there_are():
    assert tuple(balancing.POLICIES) == groups.POLICIES
    assert set(groups.USES_WEIGHTS) == balancing.USES_WEIGHTS


def test_groups_that_a_file_declares_anew_or_otherwise_need_no_restart():
    before, after = Settings((replace(A, group=""), B)), Settings((A, B), (SEARCH,))
    plan = diff(before, after)
    assert plan.groups == (SEARCH,)
    assert plan.lines() == ["replace search-1 (group)", "regroup search", "keep search-2"]
    assert apply(plan, before) == after
    sticky = replace(after, groups=(replace(SEARCH, policy="sticky"),))
    assert diff(after, sticky).lines() == ["regroup search", "keep search-1, search-2"]
    assert diff(sticky, before).groups == ()


# --- commands as replicas --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("http://a/mcp|http://b/mcp?x=1|2", ["http://a/mcp", "http://b/mcp?x=1|2"]),
        ("npx -y a /x | npx -y a /y", ["npx -y a /x", "npx -y a /y"]),
        ("npx a|npx b", ["npx a", "npx b"]),
        ("http://a/mcp | npx b", ["http://a/mcp", "npx b"]),
        ("npx b|http://a/mcp", ["npx b", "http://a/mcp"]),
        ("sh -c 'a | b' | sh -c \"c | d\"", ["sh -c 'a | b'", 'sh -c "c | d"']),
        (r"grep \| x", [r"grep \| x"]),
        ("npx a ||npx b", ["npx a", "", "npx b"]),
        ("npx a|", ["npx a", ""]),
        ("http://a/mcp|", ["http://a/mcp", ""]),
    ],
)
def test_replicas_in_short_may_be_commands_and_quotes_keep_their_bars(text: str, found: list[str]):
    assert groups.alternatives(text) == found


def test_commands_and_urls_in_short_are_replicas_of_one_another():
    settings = parse(["--http", "--servers", "files=npx -y fs /x | npx -y fs '/y|z' | http://c/mcp"])
    assert settings.servers == (
        Server("files-1", "", group="files", command="npx", args=("-y", "fs", "/x")),
        Server("files-2", "", group="files", command="npx", args=("-y", "fs", "/y|z")),
        Server("files-3", "http://c/mcp", group="files"),
    )
    assert settings.groups == (Group("files", ("files-1", "files-2", "files-3")),)


def test_a_command_can_be_started_several_times():
    found = read('[servers.files]\ncommand = "npx"\nargs = ["x"]\nreplicas = 3\ndeny = ["rm"]\npriority = 2\n')
    names = ("files-1", "files-2", "files-3")
    assert found.servers == tuple(Server(one, "", group="files", command="npx", args=("x",)) for one in names)
    assert found.groups == (Group("files", names, priority=2, rules=ToolRules(deny=("rm",))),)
    alone = read('[servers.files]\ncommand = "npx"\nreplicas = 1\n')
    assert ([one.name for one in alone.servers], alone.groups) == (["files"], ())


def test_replicas_of_a_command_belong_to_the_group_that_is_declared_with_others():
    text = '[servers.files]\ncommand = "npx"\nreplicas = 2\n[servers.far]\nurl = "http://a/"\ngroup = "files"\n'
    found = read(f'{text}[groups.files]\npolicy = "priority"\n')
    assert found.groups == (Group("files", ("files-1", "files-2", "far"), "priority"),)
    found = read(
        text.replace('group = "files"', 'group = "g"').replace("replicas", 'group = "g"\nreplicas') + "[groups.g]\n"
    )
    assert found.groups == (Group("g", ("files-1", "files-2", "far")),)
    listed = '[servers.files]\ncommand = "npx"\nreplicas = 2\n[servers.far]\nurl = "http://a/"\n[groups.g]\n'
    found = read(listed + 'servers = ["far", "files"]\n')
    assert found.groups == (Group("g", ("far", "files-1", "files-2")),)
    assert {server.group for server in found.servers} == {"g"}


@pytest.mark.parametrize(
    ("text", "told_"),
    [
        ('[servers.a]\nurl = "http://a/"\nreplicas = 2', "is for servers with a command; this one has a url"),
        ('[servers.a]\ncommand = "x"\nreplicas = 0', "must be a whole number from 1 to 50"),
        ('[servers.a]\ncommand = "x"\nreplicas = true', "must be a whole number from 1 to 50"),
        (f'[servers.{"n" * 31}]\ncommand = "x"\nreplicas = 2', "would make servers up to"),
        ('[servers.a]\ncommand = "x"\nreplicas = 2\n[servers.a-1]\nurl = "http://a/"', "two servers are called 'a-1'"),
        (
            '[servers.a]\ncommand = "x"\nreplicas = 2\ndeny = ["x"]\n[groups.a]\npolicy = "sticky"',
            "belong to the group 'a'",
        ),
    ],
)
def test_replicas_that_cannot_be_are_told(text: str, told_: str):
    assert told_ in refusal(text + "\n")


# --- what is told to fronts ------------------------------------------------------------------------------------------
def test_a_front_is_told_rank_and_weight_and_that_a_drained_replica_has_none():
    settings = Settings((A, B), (Group("search", ("search-2", "search-1"), "weighted", (("search-1", 3.0),)),))
    one = as_told(settings, A)
    assert (one.group, one.weight, one.percent, one.rank) == ("search", 3.0, 0.0, 1)
    drained = as_told(settings, A, is_drained=True)
    assert (drained.weight, drained.rank) == (0.0, 1)
    late = as_told(settings, Server("late", "http://c/", group="search"))
    assert (late.weight, late.rank) == (1.0, 2)


def test_what_is_said_at_run_time_goes_before_what_is_configured():
    settings = Settings((A, B), (Group("search", ("search-1", "search-2"), weights=(("search-1", 3.0),)),))
    one = as_told(settings, A, portion=Portion(percent=5.0))
    assert (one.weight, one.percent) == (1.0, 5.0)


@pytest.mark.parametrize(
    ("text", "portion"),
    [("3", Portion(3.0)), ("0.5", Portion(0.5)), ("5%", Portion(percent=5.0)), ("default", None)],
)
def test_a_portion_is_a_number_a_percentage_or_what_is_configured(text: str, portion: Portion | None):
    assert groups.parse_portion(text, SEARCH) == portion


@pytest.mark.parametrize("text", ["", "0", "-1", "nan", "inf", "101", "91%", "0%", "5%%", "much", "%"])
def test_other_portions_are_refused(text: str):
    with pytest.raises(
        ConfigError, match="is no weight; write a number up to 100, a percentage such as 5%, or default"
    ):
        groups.parse_portion(text, SEARCH)


def test_a_weight_is_refused_where_it_would_mean_nothing_but_a_percentage_is_not():
    with pytest.raises(ConfigError, match="the policy 'priority' of the group 'g' has no use for weights"):
        groups.parse_portion("2", Group("g", policy="priority"))
    assert groups.parse_portion("2%", Group("g", policy="priority")) == Portion(percent=2.0)


# --- what cannot be meant --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("group", "told"),
    [
        ('[groups.search]\nservers = ["search-1", "search-3"]', "there is no server 'search-3'"),
        ('[groups.search-1]\nservers = ["search-2"]', "a group and a server are called 'search-1'"),
        ('[groups.a]\nservers = ["search-1"]\n[groups.b]\nservers = ["search-1"]', "is in two groups"),
        ("[groups.search]", "group 'search' has no servers"),
        ('[groups."a b"]\nservers = ["search-1"]', "a group's name has 1 to 32 letters"),
        ('[groups.a]\nservers = ["search-1"]\npolicy = "fastest"', "is not possible; write"),
        ('[groups.a]\nservers = ["search-1"]\nweights = { search-1 = 0 }', "must be more than 0"),
        ('[groups.a]\nservers = ["search-1"]\nweights = { search-2 = 1 }', "which is no server of it"),
        ('[groups.a]\nservers = ["search-1"]\npolicy = "priority"\nweights = { search-1 = 1 }', "no use for weights"),
        ('[groups.a]\nservers = ["search-1"]\nsticky_by = "user"', "belongs to the policy 'sticky'"),
        ('[groups.a]\nservers = ["search-1"]\ncanary = { search-2 = 1 }', "a canary 'search-2', which is no server of"),
        ('[groups.a]\nservers = ["search-1"]\ncanary = { search-1 = 1 }', "has to share what no canary gets"),
        ('[groups.a]\nservers = ["search-1"]\ncanary = { search-1 = 91 }', "must be more than 0 and at most 90"),
        (
            '[groups.a]\nservers = ["search-1", "search-2"]\ncanary = { search-1 = 1 }\nweights = { search-1 = 1 }',
            "has both a weight and a percentage",
        ),
        ('[groups.a]\nservers = ["search-1"]\npolicy = "sticky"\nsticky_by = "header:a b"', "is not a header name"),
        ('[groups.a]\nserver = ["search-1"]', "there is no such key; did you mean 'servers'?"),
        ("groups = 1", "must be a table of names"),
    ],
)
def test_mistakes_are_told(group: str, told: str):
    assert told in refusal(f"{group}\n{SERVERS}" if group.startswith("groups") else f"{SERVERS}{group}\n")


def test_what_is_wanted_of_tools_is_said_of_the_group():
    text = '[servers.a]\nurl = "http://a/"\ndeny = ["x"]\n[groups.g]\nservers = ["a"]\n'
    assert "belong to the group 'g'" in refusal(text)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--servers", f"{SHORT},search-1=http://c/"], "two servers are called 'search-1'"),
        (["--servers", f"{SHORT},search=http://c/"], "a group and a server are called 'search'"),
        (["--servers", "a=http://a/", "--group", "search"], "--group: 'search' is no group; write NAME=SERVER,SERVER"),
        (["--servers", "a=http://a/", "--group", "search=a:best"], "--group: 'best' is no policy; write one of least_"),
        (["--servers", "a=http://a/", "--group", "search=b"], "--group: group 'search': there is no server 'b'"),
        (["--servers", SEARCH_12, "--group", "search=Search1,search2"], "no server 'Search1'; did you mean 'search1'?"),
        (["--servers", SEARCH_12, "--group", "g=search1,search1"], "group 'g' lists server 'search1' twice"),
        (["--servers", SEARCH_12, "--group", "g=search1:weigthed"], "sticky; did you mean 'weighted'?"),
        (
            ["--servers", SEARCH_12, "--group", "g=search1,search2", "--group", "h=search2"],
            "--group: server 'search2' is in two groups: 'g' and 'h'",
        ),
        (["--servers", "a=http://a/|"], "server 'a-2': the URL is missing"),
        (["--servers", "a=http://a/|ftp://b/"], "server 'a-2': the URL must begin with http://"),
        (["--servers", f"{'n' * 31}=http://a/|http://b/"], "a server's name has 1 to 32 letters"),
    ],
)
def test_mistakes_on_the_command_line_are_told(arguments: list[str], told: str):
    with pytest.raises(UsageError) as caught:
        parse(["--http", *arguments])
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_group_of_one_is_possible_and_told(tmp_path: Path):
    path = tmp_path / "c.toml"
    path.write_text(f'{SERVERS}[groups.alone]\nservers = ["search-1"]\n')
    remark = "group 'alone' has one server only, 'search-1': no other one takes over its calls"
    named = ["--servers", "search-1=http://a/,search-2=http://b/"]
    assert parse(["--http", *named, "--group", "alone=search-1"]).notes == (remark,)
    assert parse(["--http", *named, "--group", "both=search-1,search-2"]).notes == ()
    assert parse(["--http", "--config", str(path)]).notes == (remark,)
    assert parse(["--http", "--config", str(path), "--group", "late=search-2"]).notes == (
        remark, "group 'late' has one server only, 'search-2': no other one takes over its calls",
    )  # fmt: skip
    assert parse(["--http", "--servers", "search=dns+http://search.test/mcp", "--group", "g=search"]).notes == ()


def test_a_server_that_is_written_into_the_file_keeps_its_group():
    text = f'{SERVERS}[groups.search]\nservers = ["search-1", "search-2"]\n'
    late = Server("late", "http://c/mcp", group="search")
    found = read(edits.add_server("c.toml", text, late.name, edits.values_of(late)))
    assert found.groups == (Group("search", ("search-1", "search-2", "late")),)


# --- at run time -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("weight", ["5%", "2", "default"])
def test_what_the_command_line_asks_of_the_admin_door_is_what_the_door_understands(weight: str):
    options = ctl._parser().parse_args(["weight", "search-1", weight])
    method, target, body = options.request(options)
    asked = request_of(method.encode(), target.encode(), body or b"")
    assert asked == Request("weight", name="search-1", weight=weight)


def test_a_list_says_what_replicas_lack_and_who_has_calls_set_apart():
    replica = {
        "drained": False, "ejected": False, "percent": 5.0, "share": 0.04, "failovers": 2,
        "lacks": ["tool a", "tool b"], "differs": ["prompt c"],
    }  # fmt: skip
    row = {
        "name": "search-1", "state": "ready", "health_status": "healthy", "tool_count": 3, "error_count": 0,
        "restarts": 0, "uptime": 5.0, "pid": 7, "command": None, "url": "http://a/", "group": "search",
        "replica": replica,
    }  # fmt: skip
    counts = {"total_count": 1, "enabled_count": 1, "healthy_count": 1}
    lines = ctl._lines("list", {"servers": [row], **counts})
    assert "4% of 5%" in lines[1]
    assert lines[-2:] == ["search-1 lacks: tool a, tool b", "search-1 describes differently: prompt c"]

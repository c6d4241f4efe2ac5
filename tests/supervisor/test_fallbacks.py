"""Fallbacks as they are configured: where they lead is checked before anything runs."""

from __future__ import annotations

import pytest

from supervisor.config import Server, Settings
from supervisor.configuration import document, reading
from supervisor.configuration.plan import diff
from supervisor.configuration.problems import ConfigFileError
from supervisor.configuration.reading import FileSettings
from supervisor.plan import group_info, offered_info

SERVERS = """
[servers.main]
url = "http://a/"
{main}
[servers.backup]
url = "http://b/"
{backup}
[servers.r1]
url = "http://c/"
[servers.r2]
url = "http://d/"
{r2}
[groups.pool]
servers = ["r1", "r2"]
{pool}
"""


def read(**more: str) -> FileSettings:
    text = SERVERS.format(**{name: more.get(name, "") for name in ("main", "backup", "r2", "pool")})
    return reading.read(document.parse("c.toml", text), lambda reference: "secret")


def test_a_tool_of_a_server_or_a_group_may_take_over_from_one_of_another():
    found = read(
        main='fallback = { echo = "backup__say", "read it" = "pool__read" }',
        pool='fallback = { read = "backup__read" }',
    )
    settings = Settings(found.servers, found.groups)
    info = offered_info(settings, found.servers[0], None)
    assert info.fallbacks == {"echo": ("backup", "say"), "read it": ("pool", "read")}
    assert group_info(settings, found.groups[0]).fallbacks == {"read": ("backup", "read")}
    assert offered_info(settings, found.servers[1], None).fallbacks == {}


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"main": 'fallback = { x = "main__x" }'}, "fallbacks lead in a circle: main__x to main__x"),
        (
            {"main": 'fallback = { x = "backup__y" }', "backup": 'fallback = { y = "pool__z" }',
             "pool": 'fallback = { z = "main__x" }'},
            "fallbacks lead in a circle",
        ),
        (
            {"main": 'fallback = { a = "backup__a", b = "backup__b", c = "backup__c" }',
             "backup": 'fallback = { a = "main__b", b = "main__c" }'},
            "more than 3 fallbacks, one after the other: main__a to backup__a to main__b to backup__b to main__c",
        ),
        ({"main": 'fallback = { x = "nobody__x" }'}, "fallback of main__x: there is no server or group 'nobody'"),
        ({"main": 'fallback = { x = "backup" }'}, "'backup' is no tool of a server; write SERVER__TOOL"),
        ({"main": 'fallback = { x = "r1__x" }'}, "'r1' is a replica; name its group, 'pool'"),
        (
            {"main": 'fallback = { x = "backup__x" }', "backup": 'deny = ["x"]'},
            "'backup' is configured not to offer the tool 'x'",
        ),
        ({"r2": 'fallback = { x = "backup__x" }'}, "belong to the group 'pool'"),
        ({"main": "fallback = { x = 1 }"}, "must be a text in quotes"),
        ({"main": 'fallback = "x"'}, "must be a table"),
    ],
)  # fmt: skip
def test_fallbacks_that_cannot_be_are_told(more: dict[str, str], told: str):
    with pytest.raises(ConfigFileError) as caught:
        read(**more)
    assert told in str(caught.value)


def test_a_chain_that_ends_is_no_circle():
    found = read(main='fallback = { x = "backup__x" }', backup='fallback = { x = "pool__x" }')
    assert [server.fallback for server in found.servers[:2]] == [(("x", "backup__x"),), (("x", "pool__x"),)]


def test_a_changed_fallback_is_a_change_of_its_server_alone():
    before = Settings((Server("a", "http://a/"), Server("b", "http://b/")))
    after = Settings((Server("a", "http://a/", fallback=(("x", "b__x"),)), before.servers[1]))
    assert diff(before, after).lines() == ["replace a (fallback)", "keep b"]

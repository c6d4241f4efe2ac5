"""Which proxy stands before a server, and what its worker is told of the way there."""

from __future__ import annotations

import pytest

from protocol.control import Proxy, Route
from supervisor.config import ConfigError, Server
from supervisor.configuration.references import Reference
from supervisor.egress import check, parse, proxy_of, route

CANARY = "hunter2canary"
PROXY = Proxy("proxy.example", 3128)
ENVIRONMENT = {"http_proxy": "http://plain.example:1", "HTTPS_PROXY": "http://secure.example:2"}


def look_up(reference: Reference) -> str:
    return f"<{reference.what}>"


def through(url: str, proxy: str = "", **environment: str) -> str:
    """Return the host of the proxy before this URL, "" for none."""
    found = proxy_of(Server("main", url, proxy=proxy), environment, look_up)
    return found.host if found else ""


@pytest.mark.parametrize(
    ("text", "proxy"),
    [
        ("http://proxy.example:3128", PROXY),
        ("http://proxy.example:3128/", PROXY),
        ("proxy.example:3128", PROXY),
        ("http://proxy.example", Proxy("proxy.example", 80)),
        ("http://[::1]:3128", Proxy("::1", 3128)),
        ("http://me:p%40ss@proxy.example:3128", Proxy("proxy.example", 3128, "Basic bWU6cEBzcw==")),
        ("http://me@proxy.example:3128", Proxy("proxy.example", 3128, "Basic bWU6")),
    ],
)
def test_a_proxy_is_a_host_and_perhaps_a_user(text: str, proxy: Proxy):
    assert parse(text) == proxy


@pytest.mark.case("D-25")
@pytest.mark.parametrize(
    "text",
    [
        f"https://{CANARY}@proxy.example",
        f"socks5://me:{CANARY}@x",
        f"http://x/{CANARY}",
        f"http://me:{CANARY}@",
        f"http://me:{CANARY}@x:y",
        f"http://me:{CANARY}@x:0",
        f"http://x?{CANARY}",
        f"http://me:{CANARY * 100}@x",
    ],
)
def test_what_is_no_proxy_is_refused_without_being_repeated(text: str):
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert CANARY not in str(caught.value)


def test_a_servers_own_proxy_counts_more_than_the_environment():
    url = "http://server.example/mcp"
    assert through(url, **ENVIRONMENT) == "plain.example"
    assert through(url, "http://own.example", **ENVIRONMENT) == "own.example"
    assert through("http://localhost/mcp", "http://own.example") == "own.example"
    assert through(url, "none", **ENVIRONMENT) == ""
    assert through(url) == ""


def test_the_environment_has_a_proxy_for_each_scheme_and_lower_case_counts_more():
    assert through("https://server.example/mcp", **ENVIRONMENT) == "secure.example"
    assert through("https://server.example/mcp", http_proxy="a.example") == ""
    assert through("http://server.example/mcp", http_proxy="a.example", HTTP_PROXY="b.example") == "a.example"
    assert through("unix:///run/x.sock", **ENVIRONMENT) == ""


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "[::1]"])
def test_servers_on_this_machine_are_not_asked_for_through_the_environments_proxy(host: str):
    assert through(f"http://{host}:8000/mcp", **ENVIRONMENT) == ""


@pytest.mark.parametrize(
    ("no_proxy", "url", "excepted"),
    [
        ("*", "http://a.example/", True),
        ("a.example", "http://a.example/", True),
        (".a.example", "http://b.a.example/", True),
        ("*.a.example", "http://b.a.example/", True),
        ("a.example", "http://b.a.example/", True),
        ("a.example", "http://ba.example/", False),
        (" x , A.example ", "http://a.example/", True),
        ("a.example:8000", "http://a.example:8000/", True),
        ("a.example:8000", "http://a.example/", False),
        ("a.example:443", "https://a.example/", True),
        ("10.0.0.0/8", "http://10.1.2.3/", True),
        ("10.0.0.0/8", "http://11.1.2.3/", False),
        ("10.1.2.3", "http://10.1.2.3/", True),
        ("fe80::/10", "http://[fe80::1]/", True),
        ("[fe80::1]:80", "http://[fe80::1]/", True),
        ("2.3", "http://10.1.2.3/", False),
        (",", "http://a.example/", False),
    ],
)
def test_no_proxy_names_hosts_domains_and_networks(no_proxy: str, url: str, excepted: bool):
    found = through(url, NO_PROXY=no_proxy, **ENVIRONMENT)

    assert (not found) is excepted


def test_a_proxy_of_the_environment_that_cannot_be_used_is_an_error_that_names_the_variable():
    with pytest.raises(ConfigError, match=r"HTTPS_PROXY of the environment: .*http://.*; set proxy = .none."):
        through("https://server.example/mcp", HTTPS_PROXY=f"socks5://me:{CANARY}@x")


def test_a_password_may_be_a_reference():
    text = "http://me:${env:PASSWORD}@proxy.example:3128"
    assert check(text) == text
    found = proxy_of(Server("main", "http://a.example/", proxy=text), {}, look_up)

    assert found == Proxy("proxy.example", 3128, "Basic bWU6PFBBU1NXT1JEPg==")


def test_a_worker_is_told_where_files_are(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/home/me")
    server = Server("main", "https://a.example/", ca_file="~/ca.pem", client_cert="/me.pem")

    assert route(server, {}, look_up) == Route(None, "/home/me/ca.pem", "/me.pem", "")


def test_a_worker_is_told_whether_its_server_may_choose_http_2():
    servers = [Server("main", "https://a.example/", http2=chosen) for chosen in (False, True)]

    assert [route(server, {}, look_up).http2 for server in servers] == [False, True]


def test_a_worker_is_told_whether_its_server_may_be_at_a_private_address():
    servers = [Server("main", "https://a.example/", allow_private=allowed) for allowed in (False, True, None)]

    for usual in (False, True):
        allowed = [route(server, {}, look_up, allow_private=usual).allow_private for server in servers]
        assert allowed == [False, True, usual]

"""Secrets by reference: what is one, where its value comes from, and that no message has it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.config import ConfigError, Server
from supervisor.configuration.lookup import SECRET_BYTES_MAX, Lookup
from supervisor.configuration.references import Reference, literal, references, resolved, resolved_url
from supervisor.configuration.resolving import resolved_server

CANARY = "hunter2canary"


def shout(reference: Reference) -> str:
    return f"{reference.kind}({reference.what})"


def test_references_are_found_wherever_they_are():
    text = "a ${env:TOKEN} b ${file:/run/secrets/t} ${keyring:my service/me} $${env:NO} $5 {x}"

    assert references(text) == (
        Reference("env", "TOKEN"),
        Reference("file", "/run/secrets/t"),
        Reference("keyring", "my service/me"),
    )
    assert resolved(text, shout) == "a env(TOKEN) b file(/run/secrets/t) keyring(my service/me) ${env:NO} $5 {x}"


@given(st.text())
def test_a_literal_text_is_no_reference_and_stays_what_it_is(text: str):
    assert resolved(literal(text), shout) == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("${TOKEN}", "write ${env:TOKEN}"),
        (f"${{vault:{CANARY}}}", "unknown kind"),
        (f"${{{CANARY}!}}", "unknown kind"),
        (f"${{env:{CANARY}", "without its '}'"),
        ("${env:A-B}", "letters, digits and '_'"),
        ("${env:}", "letters, digits and '_'"),
        ("${file:token}", "begin with / or ~/"),
        ("${keyring:service}", "service and user"),
        ("${env:A}" * 17, "more than 16"),
    ],
)
def test_what_looks_like_a_reference_and_is_none_is_refused(text: str, words: str):
    with pytest.raises(ConfigError) as caught:
        references(text)

    assert words in str(caught.value)
    assert CANARY not in str(caught.value)


def test_values_in_a_url_are_encoded():
    assert resolved_url("http://x/mcp?key=${env:K}&a=b", lambda _: "a/b&c d") == "http://x/mcp?key=a%2Fb%26c%20d&a=b"


def test_a_workers_headers_are_bounded_also_with_their_values():
    server = Server("main", "http://x/", headers=tuple((f"X-{n}", "${env:BIG}") for n in range(9)))

    with pytest.raises(ConfigError, match="headers are longer than"):
        resolved_server(server, lambda _: "x" * 4000)


def test_variables_files_and_the_keyring_are_looked_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("TOKEN", "from env")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "t").write_text("from file\n")
    stored = {("svc", "me/x"): "from keyring"}
    monkeypatch.setitem(sys.modules, "keyring", SimpleNamespace(get_password=lambda *key: stored.get(key)))
    look_up = Lookup()

    assert look_up(Reference("env", "TOKEN")) == "from env"
    assert look_up(Reference("file", "~/t")) == "from file"
    assert look_up(Reference("file", str(tmp_path / "t"))) == "from file"
    assert look_up(Reference("keyring", "svc/me/x")) == "from keyring"


def test_a_secret_that_has_changed_is_used_by_the_next_worker_but_the_keyring_is_asked_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    file = tmp_path / "t"
    file.write_text("old")
    asked: list[str] = []
    keyring = SimpleNamespace(get_password=lambda _, user: asked.append(user) or "k")
    monkeypatch.setitem(sys.modules, "keyring", keyring)
    look_up = Lookup()

    assert [look_up(Reference("keyring", "svc/me")) for _ in range(3)] == ["k"] * 3
    assert look_up(Reference("file", str(file))) == "old"
    file.write_text("new")
    assert look_up(Reference("file", str(file))) == "new"
    assert asked == ["me"]


def _broken_keyring(*_: str) -> str:
    raise RuntimeError(CANARY)


@pytest.mark.case("D-25")
def test_every_obstacle_is_told_without_a_value(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("EMPTY", "")
    for name, data, mode in (
        ("open", CANARY.encode(), 0o666),
        ("binary", b"\xff" + CANARY.encode(), 0o600),
        ("large", CANARY.encode() * SECRET_BYTES_MAX, 0o600),
        ("empty", b"\n", 0o600),
    ):
        (tmp_path / name).write_bytes(data)
        os.chmod(tmp_path / name, mode)
    os.mkfifo(tmp_path / "pipe")
    obstacles = [
        (Reference("env", "NOT_THERE"), "no such variable"),
        (Reference("env", "EMPTY"), "is empty"),
        (Reference("file", str(tmp_path / "none")), "No such file"),
        (Reference("file", str(tmp_path / "pipe")), "not a plain file"),
        (Reference("file", str(tmp_path / "open")), "chmod o-w"),
        (Reference("file", str(tmp_path / "binary")), "no UTF-8"),
        (Reference("file", str(tmp_path / "large")), "longer than"),
        (Reference("file", str(tmp_path / "empty")), "is empty"),
    ]
    for reference, words in obstacles:
        with pytest.raises(ConfigError) as caught:
            Lookup()(reference)
        assert words in str(caught.value)
        assert str(reference) in str(caught.value)
        assert CANARY not in str(caught.value)

    for keyring, words in (
        (None, "pip install keyring"),
        (SimpleNamespace(get_password=lambda *_: None), "keyring set svc me"),
        (SimpleNamespace(get_password=_broken_keyring), "RuntimeError"),
    ):
        monkeypatch.setitem(sys.modules, "keyring", keyring)
        with pytest.raises(ConfigError, match=words) as caught:
            Lookup()(Reference("keyring", "svc/me"))
        assert CANARY not in str(caught.value)

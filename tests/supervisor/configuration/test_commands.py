"""`mcp-bulkhead check` and `import` as their users meet them: what is printed and written, and the exit status."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor import __main__ as program
from supervisor import cli
from supervisor.configuration import places, schema
from tests.catalogue import CHECKOUT

CANARY = "hunter2canary"
GOOD = """\
http = true
[servers.main]
url = "http://localhost:8000/mcp?key=hunter2canary"
headers = { Authorization = "Bearer ${env:TOKEN}", X-Tenant = "hunter2canary" }
[servers.off]
url = "http://localhost:8001/mcp"
enabled = false
[servers.files]
command = "npx"
args = ["-y", "fs", "--api-key=hunter2canary"]
env = { TOKEN = "${env:TOKEN}", X = "hunter2canary" }
"""
CLIENTS = {
    "mcpServers": {
        "my files": {"url": "http://localhost:8000/mcp", "headers": {"Authorization": "Bearer ${TOKEN}", "X": CANARY}},
        "local": {"command": "npx", "args": ["-y", "x"], "env": {"KEY": CANARY, "TOKEN": "${TOKEN}"}},
        "old": {"type": "sse", "url": "http://localhost:1/sse"},
        "odd": {"type": "smoke", "url": "http://localhost:1/"},
    }
}


@pytest.fixture(autouse=True)
def _at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("TOKEN", "secret")


def test_check_says_what_a_proxy_would_do_and_no_secret(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "c.toml").write_text(GOOD)

    assert program.main(["check", "c.toml"]) == 0

    told = capsys.readouterr()
    assert told.err == ""
    assert told.out.splitlines() == [
        "c.toml can be used.",
        "clients: http://127.0.0.1:8001/mcp",
        "add main: http://localhost:8000/mcp?key=[redacted]",
        "    header Authorization with ${env:TOKEN}",
        "    header X-Tenant",
        "add off: http://localhost:8001/mcp (disabled: no worker)",
        "add files: npx -y fs --api-key=[redacted]",
        "    variable TOKEN with ${env:TOKEN}",
        "    variable X",
    ]


def test_check_tells_mistakes_on_standard_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "mcp-bulkhead.toml").write_text(GOOD.replace("url", "ulr"))

    assert program.main(["check"]) == 1

    told = capsys.readouterr()
    assert told.out == ""
    assert "mcp-bulkhead.toml:3: [servers.main.ulr] there is no such key; did you mean 'url'?" in told.err
    assert CANARY not in told.err


def test_check_prints_the_schema(capsys: pytest.CaptureFixture[str]):
    assert program.main(["check", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out) == schema.schema()


@pytest.mark.parametrize("target", ["new.toml", "new.yaml", "new.json"])
def test_an_imported_file_is_ours_alone_and_can_be_used(
    target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "theirs.json").write_text(json.dumps(CLIENTS))

    assert program.main(["import", "theirs.json", "--to", target]) == 0

    told = capsys.readouterr()
    assert "[mcpServers.odd] left out: it uses a transport that is not supported" in told.err
    assert "local: variable KEY is written as it is" in told.err
    assert "variable TOKEN" not in told.err
    assert "my-files: header X is written as it is" in told.err
    assert CANARY not in told.err + told.out
    assert stat.S_IMODE((tmp_path / target).stat().st_mode) == 0o600
    server, local, old = cli.parse(["--config", target]).servers
    assert (old.name, old.transport) == ("old", "sse")
    assert (local.command, local.args, dict(local.env)["TOKEN"]) == ("npx", ("-y", "x"), "${env:TOKEN}")
    assert (server.name, dict(server.headers)["Authorization"]) == ("my-files", "Bearer ${env:TOKEN}")


def test_a_dry_run_prints_the_file_and_writes_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "theirs.json").write_text(json.dumps(CLIENTS))

    assert program.main(["import", "theirs.json", "--dry-run"]) == 0

    assert "[servers.my-files]" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"theirs.json"}


def test_a_file_that_is_there_gets_only_what_it_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    ours = '# ours\n[servers.my-files]\nurl = "http://mine/"\n'
    (tmp_path / "c.toml").write_text(ours)
    more = CLIENTS["mcpServers"] | {"more": {"url": "http://more/"}}
    (tmp_path / "theirs.json").write_text(json.dumps({"mcpServers": more}))

    assert program.main(["import", "theirs.json", "--to", "c.toml"]) == 0

    assert (tmp_path / "c.toml").read_text().startswith(ours)
    assert "c.toml has a server 'my-files' already, which is kept" in capsys.readouterr().err
    assert "[servers.more]" in (tmp_path / "c.toml").read_text()
    assert (tmp_path / "c.toml.bak").read_text() == ours


@pytest.mark.parametrize("client", places.CLIENTS)
def test_every_client_is_found_where_it_keeps_its_servers(client: str, capsys: pytest.CaptureFixture[str]):
    for place in places.places(client):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps({"mcp": {"servers": {"a": {"type": "http", "url": "http://a/"}}}}))

        assert program.main(["import", client, "--dry-run"]) == 0
        told = capsys.readouterr()
        assert f"reading {place}" in told.err
        assert "[servers.a]" in told.out
        place.unlink()

    assert program.main(["import", client]) == 1
    assert "no servers were found; looked into" in capsys.readouterr().err


def test_a_file_that_is_no_clients_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "c.toml").write_text(GOOD)

    assert program.main(["import", "c.toml"]) == 1
    assert "has no servers of a client" in capsys.readouterr().err


def test_a_proxy_that_cannot_read_its_file_says_every_mistake(tmp_path: Path):
    (tmp_path / "c.toml").write_text("htpp = true\nport = 'x'\n[servers.a]\nurl = 'http://a/'\n")
    env = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    command = [sys.executable, "-m", "supervisor", "--config", "c.toml"]

    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=30)

    assert done.returncode == 2
    assert done.stderr == (
        "mcp-bulkhead: c.toml:1: [htpp] there is no such key; did you mean 'http'?\n"
        "mcp-bulkhead: c.toml:2: [port] must be a number, not a text\n"
    )

"""The admin socket's file: who gets it, what is stale, and what is never touched."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor import admin_socket, unix_socket
from supervisor.admin_socket import AdminSocketError, bind, connect, find, usual_folder, usual_path


@contextlib.contextmanager
def bound(path: Path) -> Iterator[socket.socket]:
    one = bind(path)
    try:
        yield one.sock
    finally:
        one.close()


def left_behind(path: Path) -> None:
    """What a killed proxy leaves."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


def test_a_folder_may_be_deeper_than_a_socket_address_is_long(tmp_path: Path):
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    path = usual_path(deep, 8001)
    with bound(path):
        connect(path).close()
        assert find(deep) == [path]
    assert os.listdir(deep) == []


@pytest.mark.case("C-27")
def test_a_socket_whose_owner_is_too_busy_to_accept_is_not_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(unix_socket, "CONNECT_TIMEOUT_S", 0.01)
    with socket.socket(socket.AF_UNIX) as busy, contextlib.ExitStack() as waiting:
        busy.bind(str(tmp_path / "admin.sock"))
        busy.listen(0)
        for _ in range(3):
            client = waiting.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect(str(tmp_path / "admin.sock"))

        with pytest.raises(AdminSocketError, match="another program listens"):
            bind(tmp_path / "admin.sock")


@pytest.mark.case("C-27")
def test_what_killed_proxies_have_left_goes_and_all_else_stays(tmp_path: Path):
    for name in ("admin-1.sock", "admin-stdio-2.sock", "other.sock"):
        left_behind(tmp_path / name)
    (tmp_path / "admin-3.sock").write_text("no socket")
    with bound(tmp_path / "admin-4.sock"), bound(tmp_path / "admin-5.sock"):
        assert sorted(os.listdir(tmp_path)) == ["admin-3.sock", "admin-4.sock", "admin-5.sock", "other.sock"]
        assert find(tmp_path) == [tmp_path / "admin-4.sock", tmp_path / "admin-5.sock"]


@pytest.mark.case("C-27")
def test_the_socket_of_another_user_is_neither_replaced_nor_talked_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "admin.sock"
    left_behind(path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: 4711)
        with pytest.raises(AdminSocketError, match="belongs to another user"):
            bind(path)
    assert path.is_socket()

    with bound(path), monkeypatch.context() as patch:
        patch.setattr(admin_socket, "peer_uid", lambda sock: 4711)
        with pytest.raises(AdminSocketError, match="another user's program"):
            connect(path)
        assert find(tmp_path) == []


def test_closing_removes_only_our_own_file(tmp_path: Path):
    path = tmp_path / "admin.sock"
    one = bind(path)
    path.unlink()
    left_behind(path)
    one.close()

    assert path.is_socket()


@pytest.mark.parametrize(("there", "words"), [(False, "there is no socket"), (True, "nobody listens")])
def test_who_finds_nobody_is_told_so(tmp_path: Path, there: bool, words: str):
    if there:
        left_behind(tmp_path / "admin.sock")
    with pytest.raises(AdminSocketError, match=words):
        connect(tmp_path / "admin.sock")


def test_the_place_follows_the_state_directory_or_the_runtime_directory(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    assert usual_path(usual_folder("/x"), 8001) == Path("/x/admin-8001.sock")
    assert usual_path(usual_folder(), 8001) == Path("/run/user/7/mcp-bulkhead/admin-8001.sock")
    assert usual_path(usual_folder(), 0).name == f"admin-stdio-{os.getpid()}.sock"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert usual_folder().name == "mcp-bulkhead"

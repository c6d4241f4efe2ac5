"""Who may enter the admin port, and where its token is."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor import admin_port, secret
from supervisor.admin_port import AdminPortError, may_enter
from supervisor.config import ConfigError, Server, Settings, parse_listen_address

TOKEN = b"0123456789-abcdefghijklmno"


@pytest.mark.case("D-12")
@pytest.mark.parametrize(
    ("field", "enters"),
    [
        (b"Bearer " + TOKEN, True),
        (b"bearer  " + TOKEN, True),
        (b"", False),
        (TOKEN, False),
        (b"Bearer", False),
        (b"Bearer ", False),
        (b"Basic " + TOKEN, False),
        (b"Bearer " + TOKEN[:-1], False),
        (b"Bearer " + TOKEN + b"x", False),
        (b"Bearer " + TOKEN.upper(), False),
        (b"Bearer \xff\xfe", False),
    ],
)
def test_only_the_token_opens_the_door(field: bytes, enters: bool):
    assert may_enter(field, TOKEN) is enters


def settings(folder: Path, token_file: str = "") -> Settings:
    return Settings((Server("main", "http://x/"),), state_dir=str(folder), admin_token_file=token_file)


def test_a_token_is_made_once_and_one_that_somebody_wrote_is_taken(tmp_path: Path):
    made = admin_port.token(settings(tmp_path))
    assert len(made) >= secret.TOKEN_BYTES_MIN
    assert admin_port.token(settings(tmp_path)) == made
    assert (tmp_path / "admin-token").read_bytes() == made + b"\n"

    own = tmp_path / "own"
    own.write_bytes(TOKEN + b"\r\n")
    own.chmod(0o600)
    assert admin_port.token(settings(tmp_path, str(own))) == TOKEN


@pytest.mark.case("D-15")
@pytest.mark.parametrize("content", [b"", b"short\n", b"with a space in the middle of it\n", b"x" * 1000])
def test_a_file_that_holds_no_good_token_is_refused_without_being_shown(tmp_path: Path, content: bytes):
    own = tmp_path / "own"
    own.write_bytes(content)
    own.chmod(0o600)
    with pytest.raises(AdminPortError, match="does not hold a token") as caught:
        admin_port.token(settings(tmp_path, str(own)))
    assert "middle" not in str(caught.value)


@pytest.mark.case("D-15")
def test_a_token_that_others_can_read_is_refused(tmp_path: Path):
    own = tmp_path / "own"
    own.write_bytes(TOKEN)
    own.chmod(0o640)
    with pytest.raises(AdminPortError, match="the token in it is no secret"):
        admin_port.token(settings(tmp_path, str(own)))


def test_a_token_that_cannot_be_kept_is_said_to_be_so(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(AdminPortError, match="name another file with --admin-token-file"):
        admin_port.token(settings(tmp_path / "file"))


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("9901", ("127.0.0.1", 9901)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:80", ("::1", 80)),
        ("0.0.0.0:1", ("0.0.0.0", 1)),
    ],
)
def test_an_address_is_host_and_port(text: str, address: tuple[str, int]):
    assert parse_listen_address(text) == address


@pytest.mark.parametrize("text", ["", ":", "host:", ":9901", "::1:9901", "host:99999", "a b:1", "http://x:1"])
def test_what_is_no_address_is_refused(text: str):
    with pytest.raises(ConfigError):
        parse_listen_address(text)

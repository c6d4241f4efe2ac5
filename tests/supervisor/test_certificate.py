"""The certificate for clients: what is wrong with it is told before anything is started."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import trustme

from supervisor import certificate
from supervisor.config import ConfigError

CA = trustme.CA()


def issued(folder: Path, name: str = "server") -> tuple[str, str]:
    leaf = CA.issue_cert("proxy.example")
    paths = folder / f"{name}.pem", folder / f"{name}.key"
    leaf.cert_chain_pems[0].write_to_path(paths[0])
    leaf.private_key_pem.write_to_path(paths[1])
    paths[1].chmod(0o600)
    return str(paths[0]), str(paths[1])


def test_a_certificate_and_its_key_can_be_in_two_files_or_in_one(tmp_path: Path):
    cert, key = issued(tmp_path)
    together = tmp_path / "both.pem"
    together.write_bytes(Path(cert).read_bytes() + Path(key).read_bytes())
    together.chmod(0o600)
    assert certificate.check(cert, key) == []
    assert certificate.check(str(together), "") == []


def test_a_key_that_everybody_can_read_is_warned_of(tmp_path: Path):
    cert, key = issued(tmp_path)
    Path(key).chmod(0o644)
    (warning,) = certificate.check(cert, key)
    assert warning == f"every user of this machine can read the key in {key}; chmod o-r it"


def test_each_mistake_names_the_option_and_the_file(tmp_path: Path):
    cert, key = issued(tmp_path)
    _, other_key = issued(tmp_path, "other")
    nowhere, text = str(tmp_path / "nowhere"), tmp_path / "text"
    text.write_text("hello")
    damaged = tmp_path / "damaged"
    damaged.write_bytes(Path(key).read_bytes().replace(b"M", b"", 1))
    encrypted = tmp_path / "encrypted"
    encrypted.write_bytes(encrypt(Path(key)))
    for arguments, message in (
        ((nowhere, key), f"--tls-cert: {nowhere} cannot be read: No such file or directory"),
        ((cert, nowhere), f"--tls-key: {nowhere} cannot be read: No such file or directory"),
        ((str(text), key), f"--tls-cert: {text} holds no certificate in PEM form"),
        ((key, key), f"--tls-cert: {key} holds no certificate in PEM form"),
        ((cert, cert), f"--tls-key: {cert} holds no private key in PEM form"),
        ((cert, ""), f"--tls-cert: {cert} holds no private key in PEM form; name its file with --tls-key"),
        ((cert, other_key), f"--tls-key: the key in {other_key} does not belong to the certificate in {cert}"),
        ((cert, str(damaged)), f"--tls-key: what is in {damaged} cannot be used"),
        ((cert, str(encrypted)), f"--tls-key: the key in {encrypted} is encrypted, and nobody is there to ask for its"),
    ):
        with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
            certificate.check(*arguments)


def encrypt(key: Path) -> bytes:
    from cryptography.hazmat.primitives import serialization

    private = serialization.load_pem_private_key(key.read_bytes(), None)
    return private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--http", "--tls-cert", "/no/such/file"], "--tls-cert: /no/such/file cannot be read: No such file"),
        (["--stdio", "--tls-cert", "/no/such/file"], "--tls-cert: TLS is spoken on the port, which --http opens"),
        (
            ["--http", "--tls-key", "/no/such/file"],
            "--tls-key: name the certificate that it belongs to",
        ),
    ],
)
def test_a_mistake_ends_the_start_with_one_line(arguments: list[str], message: str):
    command = [
        sys.executable,
        "-m",
        "supervisor",
        *arguments,
        "--port",
        "0",
        "--servers",
        "main=http://localhost:1/mcp",
    ]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"mcp-bulkhead: {message}")

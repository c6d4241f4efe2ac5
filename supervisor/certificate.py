"""Checks the certificate and key for clients before anything is started, so that a mistake is told at once.

The front reads them itself, and again whenever they change (workers/front/certificate.py).
"""

from __future__ import annotations

import os
import stat
from typing import NoReturn

from supervisor.config import ConfigError

CERTIFICATE_OPTION = "--tls-cert"
KEY_OPTION = "--tls-key"


def check(certificate: str, key: str) -> list[str]:
    """Return what there is to warn of. `key`: "" if it stands in the file of the certificate.

    Errors: `ConfigError`, whose text begins with the option that is at fault.
    """
    whole, private = _read(CERTIFICATE_OPTION, certificate), b""
    if key:
        private = _read(KEY_OPTION, key)
    if b"-----BEGIN CERTIFICATE-----" not in whole:
        raise ConfigError(f"{CERTIFICATE_OPTION}: {certificate} holds no certificate in PEM form")
    if b"PRIVATE KEY-----" not in (private or whole):
        where = f"{KEY_OPTION}: {key}" if key else f"{CERTIFICATE_OPTION}: {certificate}"
        raise ConfigError(
            f"{where} holds no private key in PEM form{'' if key else f'; name its file with {KEY_OPTION}'}"
        )
    _load(certificate, key)
    return _warnings(key or certificate)


def _read(option: str, path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise ConfigError(f"{option}: {path} cannot be read: {error.strerror}") from None


def _load(certificate: str, key: str) -> None:
    import ssl  # slow to load, and needed by few

    option, path = (KEY_OPTION, key) if key else (CERTIFICATE_OPTION, certificate)

    def refuse_to_ask() -> NoReturn:
        raise ConfigError(f"{option}: the key in {path} is encrypted, and nobody is there to ask for its password")

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key or None, refuse_to_ask)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(
                f"{option}: the key in {path} does not belong to the certificate in {certificate}"
            ) from None
        raise ConfigError(f"{option}: what is in {path} cannot be used ({error.reason})") from None


def _warnings(path: str) -> list[str]:
    if os.stat(path).st_mode & stat.S_IROTH:
        return [f"every user of this machine can read the key in {path}; chmod o-r it"]
    return []

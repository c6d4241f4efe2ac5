"""A certificate authority of the test's own, and what it issues, as files."""

from __future__ import annotations

import datetime
import ssl
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import trustme

NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass
class Authority:
    """Issues certificates into `folder`."""

    folder: Path
    _ca: trustme.CA = field(default_factory=trustme.CA)

    @cached_property
    def file(self) -> str:
        """Its own certificate: what `ca_file` wants."""
        return self._written("ca.pem", self._ca.cert_pem)

    @cached_property
    def server(self) -> str:
        """Certificate and key of a server on this machine."""
        return self.issue("server", *NAMES)

    @cached_property
    def client(self) -> str:
        return self.issue("client", "a-client.example")

    def issue(self, file: str, *names: str, expired: bool = False) -> str:
        """Return a file with a certificate for these names, and its key."""
        end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=-1 if expired else 30)
        leaf = self._ca.issue_cert(*names, not_before=end - datetime.timedelta(days=60), not_after=end)
        return self._written(f"{file}.pem", leaf.private_key_and_cert_chain_pem)

    def server_context(self, certificate: str = "", *, client_certificates: bool = False) -> ssl.SSLContext:
        """Return what a server made with the standard library needs; all versions of TLS are possible."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate or self.server)
        if client_certificates:
            context.load_verify_locations(self.file)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def client_context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.file)

    def _written(self, name: str, blob: trustme.Blob) -> str:
        path = self.folder / name
        blob.write_to_path(path)
        return str(path)

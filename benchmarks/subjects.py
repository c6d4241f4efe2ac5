"""Starts what is measured: the backend itself, nginx before it, the proxy before it, a relay made of the SDK before it.

Each subject can open loads on itself and names its processes with the parts they play, for the CPU accounts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
import pwd
import shlex
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from benchmarks import cpu, wire
from benchmarks.clients import Endpoint
from benchmarks.generator import HttpLoad
from benchmarks.line_generator import LineClient, LineLoad
from benchmarks.messages import Workload
from benchmarks.processes import Child, Children
from benchmarks.results import BACKEND_PART
from benchmarks.rounds import Load
from benchmarks.wire import Address, ExchangeError
from protocol.versions import Era

HOST: Final = "127.0.0.1"
MCP_PATH: Final = "/mcp"
SERVER_NAME: Final = "main"
START_WAIT_S: Final = 30.0
"""How long a subject may take until it answers a call; importing the SDK takes seconds on a loaded machine."""
BACKLOG: Final = 1024
PROJECT: Final = Path(__file__).resolve().parent.parent
"""Where the packages of this checkout or installation lie."""

DIRECT: Final = "direct"
NGINX: Final = "nginx"
PROXY: Final = "proxy"
PROXY_STDIO: Final = "proxy-stdio"
PROXY_TLS: Final = "proxy-tls"
"""HTTP in front, https behind."""
PROXY_TLS_FRONT: Final = "proxy-tls-front"
"""https in front, HTTP behind."""
PROXY_COMMAND: Final = "proxy-command"
"""HTTP in front, a command behind."""
PROXY_WEBSOCKET: Final = "proxy-ws"
"""HTTP in front, WebSocket behind."""
PROXY_FRONTS: Final = "proxy-fronts"
"""HTTP in front, with two fronts."""
SDK_RELAY: Final = "sdk-relay"
BASE: Final = "base"
BASE_STDIO: Final = "base-stdio"
BASE_TLS: Final = "base-tls"
BASE_TLS_FRONT: Final = "base-tls-front"

NGINX_CONFIGURATION: Final = """\
daemon off;
worker_processes 1;
{user}
pid {directory}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_max_body_size 64m;
    client_body_buffer_size 64k;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    keepalive_timeout 600s;
    keepalive_requests 100000000;
    tcp_nodelay on;
    upstream backend {{
        server {server};
        keepalive 128;
        keepalive_timeout 600s;
        keepalive_requests 100000000;
    }}
    server {{
        listen {listen} backlog={backlog};
        location / {{
            proxy_pass http://backend;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_max_temp_file_size 0;
        }}
    }}
}}
"""


class UnavailableError(Exception):
    """A subject is not installed here; the message says what is missing."""


class StartError(Exception):
    """A subject was started and did not come to answer; the message says why, with its last words."""


class Subject(Protocol):
    """Something that answers calls."""

    @property
    def name(self) -> str: ...

    def open_load(self, workload: Workload, connections: int) -> Load:
        """Raises ExchangeError or ValueError if the subject does not answer as it should."""
        ...

    def parts(self) -> dict[int, str]:
        """Return the part each of its processes plays, by process id; the backend is not among them."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Backend:
    """The MCP server behind all subjects."""

    address: Address
    child: Child

    @property
    def url(self) -> str:
        return f"http://{self.address[0]}:{self.address[1]}{MCP_PATH}"

    @property
    def websocket_url(self) -> str:
        return f"ws://{self.address[0]}:{self.address[1]}{MCP_PATH}"


@dataclasses.dataclass(frozen=True, slots=True)
class HttpSubject:
    """A subject behind an address."""

    name: str
    endpoint: Endpoint
    find_parts: Callable[[], dict[int, str]]

    def open_load(self, workload: Workload, connections: int) -> Load:
        return HttpLoad(self.endpoint, workload, connections)

    def parts(self) -> dict[int, str]:
        return self.find_parts()


class StdioSubject:
    """A subject that serves one client on its input and output; one process per era, started when it is needed."""

    def __init__(self, name: str, start: Callable[[str], Child]) -> None:
        self.name = name
        self._start = start
        self._clients: dict[Era, LineClient] = {}
        self._current = Era.LEGACY

    def open_load(self, workload: Workload, connections: int) -> Load:
        """`connections` is the number of calls in flight: there is one client only."""
        client = self._clients.get(workload.era)
        if client is None or client.broken:
            child = self._start(f"{self.name}-{workload.era.name.lower()}")
            try:
                client = self._clients[workload.era] = LineClient(child.process, workload.era)
            except ExchangeError as error:
                raise ExchangeError(f"{error}; its last words: {child.last_words() or 'none'}") from None
        self._current = workload.era
        return LineLoad(client, workload, connections)

    def parts(self) -> dict[int, str]:
        client = self._clients.get(self._current)
        return cpu.proxy_parts(client.process.pid) if client else {}


class Starter:
    """Starts subjects as children of one run; `directory` takes their files.

    `between`: the processors of what stands between client and backend; None: those of this process."""

    def __init__(self, children: Children, directory: Path, between: frozenset[int] | None = None) -> None:
        self._children = children
        self._directory = directory
        self._between = between

    def backend(self) -> Backend:
        with _listener() as listener:
            child = self._start_module("backend", PROJECT, "benchmarks.backend", listener)
            backend = Backend(listener.getsockname(), child)
        self._wait_until_answering(self.direct(backend), child)
        return backend

    def direct(self, backend: Backend) -> HttpSubject:
        return HttpSubject(DIRECT, Endpoint(backend.address, MCP_PATH), dict)

    def nginx(self, backend: Backend) -> HttpSubject:
        """Raises UnavailableError, StartError."""
        program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
        if program is None:
            raise UnavailableError("nginx is not installed")
        address = free_address()
        directory = self._directory / NGINX
        directory.mkdir()
        configuration = directory / "nginx.conf"
        configuration.write_text(
            NGINX_CONFIGURATION.format(
                # Without it, the workers of a master that runs as root would run as somebody else.
                user=f"user {pwd.getpwuid(os.geteuid()).pw_name};" if os.geteuid() == 0 else "",
                directory=directory,
                server=f"{backend.address[0]}:{backend.address[1]}",
                listen=f"{address[0]}:{address[1]}",
                backlog=BACKLOG,
            )
        )
        command = [program, "-p", str(directory), "-c", str(configuration), "-e", "stderr"]
        child = self._children.start(NGINX, command, cwd=directory, processors=self._between)
        subject = HttpSubject(NGINX, Endpoint(address, MCP_PATH), lambda: _all_as(child.pid, NGINX))
        self._wait_until_answering(subject, child)
        return subject

    def sdk_relay(self, backend: Backend) -> HttpSubject:
        """Raises UnavailableError, StartError."""
        missing = [name for name in ("mcp", "uvicorn") if importlib.util.find_spec(name) is None]
        if missing:
            raise UnavailableError(f"{' and '.join(missing)} not installed (pip install 'mcp-bulkhead[bench]')")
        with _listener() as listener:
            address = listener.getsockname()
            options = ["--server", backend.url]
            child = self._start_module(
                SDK_RELAY, PROJECT, "benchmarks.sdk_relay", listener, *options, processors=self._between
            )
        subject = HttpSubject(SDK_RELAY, Endpoint(address, MCP_PATH), lambda: _all_as(child.pid, SDK_RELAY))
        self._wait_until_answering(subject, child)
        return subject

    def proxy_websocket(self, name: str, checkout: Path, backend: Backend) -> HttpSubject:
        """Start the proxy of a checkout, which reaches the server over WebSocket. Raises StartError."""
        return self._proxy(name, checkout, backend.websocket_url)

    def proxy_command(self, name: str, checkout: Path, backend: Backend) -> HttpSubject:
        """Start the proxy of a checkout, whose server is a command. Raises StartError."""
        del backend  # it starts one itself
        return self._proxy(name, checkout, shlex.join([sys.executable, "-m", cpu.COMMAND_BACKEND]))

    def proxy_fronts(self, name: str, checkout: Path, backend: Backend) -> HttpSubject:
        """Start the proxy of a checkout with two fronts. Raises StartError."""
        return self._proxy(name, checkout, backend.url, "--fronts", "2")

    def proxy(self, name: str, checkout: Path, backend: Backend) -> HttpSubject:
        """Start the proxy of a checkout with its HTTP front. Raises StartError."""
        return self._proxy(name, checkout, backend.url)

    def proxy_tls_front(self, name: str, checkout: Path, backend: Backend) -> HttpSubject:
        """Start the proxy of a checkout, whose clients come over https. Raises UnavailableError, StartError."""
        certificate = self._certificate()
        return self._proxy(name, checkout, backend.url, "--tls-cert", str(certificate), tls=wire.trusting(certificate))

    def _proxy(self, name: str, checkout: Path, url: str, *more: str, tls: ssl.SSLContext | None = None) -> HttpSubject:
        address = free_address()
        options = ["--http", "--port", str(address[1]), *more, "--servers", f"{SERVER_NAME}={url}"]
        child = self.start_proxy(name, checkout, options, piped=False)
        subject = HttpSubject(name, Endpoint(address, MCP_PATH, tls), lambda: cpu.proxy_parts(child.pid))
        self._wait_until_answering(subject, child)
        return subject

    def proxy_stdio(self, name: str, checkout: Path, backend: Backend) -> StdioSubject:
        """Return the proxy of a checkout with its stdio front; it starts with its first load."""
        options = ["--stdio", "--servers", f"{SERVER_NAME}={backend.url}"]
        return StdioSubject(name, lambda child_name: self.start_proxy(child_name, checkout, options, piped=True))

    def proxy_tls(self, name: str, checkout: Path) -> HttpSubject:
        """Start the proxy of a checkout before a backend of its own that speaks https.

        What that backend uses counts as the backend's. Raises UnavailableError, StartError.
        """
        certificate = self._certificate()
        with _listener() as listener:
            url = f"https://{HOST}:{listener.getsockname()[1]}{MCP_PATH}"
            options = ["--certificate", str(certificate)]
            backend = self._start_module(f"{name}-backend", PROJECT, "benchmarks.backend", listener, *options)
        address = free_address()
        options = ["--http", "--port", str(address[1]), "--servers", f"{SERVER_NAME}={url}"]
        child = self.start_proxy(name, checkout, options, piped=False, trusted=certificate)

        def parts() -> dict[int, str]:
            return {**cpu.proxy_parts(child.pid), backend.pid: BACKEND_PART}

        subject = HttpSubject(name, Endpoint(address, MCP_PATH), parts)
        self._wait_until_answering(subject, child)
        return subject

    def _certificate(self) -> Path:
        """Return a file with a certificate for this machine, and its key. Raises UnavailableError."""
        file = self._directory / "server.pem"
        if file.exists():
            return file
        program = shutil.which("openssl")
        if program is None:
            raise UnavailableError("openssl is not installed, which makes the certificate")
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(file)]
        subject = ["-subj", "/CN=benchmark", "-addext", f"subjectAltName=IP:{HOST}", "-days", "2"]
        made = subprocess.run([program, "req", "-x509", *key, *subject], capture_output=True, check=False, timeout=30)
        if made.returncode:
            raise UnavailableError("openssl could not make a certificate")
        with file.open("ab") as sink:
            sink.write(made.stdout)
        return file

    def start_proxy(
        self, name: str, checkout: Path, options: list[str], *, piped: bool, trusted: Path | None = None
    ) -> Child:
        """Start `python -m supervisor` of a checkout, with state and configuration of its own.

        `trusted`: a file with the only certificates that it trusts.
        """
        home = self._directory / f"{name}-home"
        home.mkdir(exist_ok=True)
        environment = {**os.environ, "HOME": str(home)}
        for variable in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"):
            environment[variable] = str(home)
        if trusted is not None:
            environment["SSL_CERT_FILE"] = str(trusted)
        command = [sys.executable, "-m", "supervisor", *options]
        environment = _importing(environment)
        return self._children.start(
            name, command, cwd=checkout, environment=environment, piped=piped, processors=self._between
        )

    def _start_module(
        self,
        name: str,
        cwd: Path,
        module: str,
        listener: socket.socket,
        *options: str,
        processors: frozenset[int] | None = None,
    ) -> Child:
        fd = listener.fileno()
        command = [sys.executable, "-m", module, "--fd", str(fd), *options]
        environment = _importing(dict(os.environ))
        return self._children.start(
            name, command, cwd=cwd, environment=environment, inherit=[fd], processors=processors
        )

    def _wait_until_answering(self, subject: HttpSubject, child: Child) -> None:
        """Return once calls of both eras are answered. Raises StartError."""
        for era in Era:
            self._wait_for_call(subject, child, Workload(1, era))

    def _wait_for_call(self, subject: HttpSubject, child: Child, workload: Workload) -> None:
        deadline = time.monotonic() + START_WAIT_S
        fault = ""
        while child.alive and time.monotonic() < deadline:
            try:
                load = subject.open_load(workload, 1)
            except (ExchangeError, ValueError) as error:
                fault = str(error)
                time.sleep(0.05)
                continue
            with contextlib.closing(load):
                result = load.run(0.0)
            if result.calls:
                return
            fault = next(iter(result.faults), "no answer")
        state = f"does not answer {workload.era.name.lower()} calls" if child.alive else "has ended"
        words = child.last_words()
        raise StartError(
            f"{subject.name} {state}: {fault or 'no reason known'}" + (f"; its last words: {words}" if words else "")
        )


def free_address() -> Address:
    """Return an address nobody listens on at the moment."""
    with socket.create_server((HOST, 0)) as taken:
        return taken.getsockname()


def _listener() -> socket.socket:
    return socket.create_server((HOST, 0), backlog=BACKLOG)


def _importing(environment: dict[str, str]) -> dict[str, str]:
    """Return an environment in which `python -m` imports from its working directory first."""
    environment.pop("PYTHONSAFEPATH", None)
    return environment


def _all_as(pid: int, part: str) -> dict[int, str]:
    return dict.fromkeys(cpu.family(pid), part)

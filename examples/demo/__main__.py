"""Start two demo servers and the proxy in front of them, say what to paste into a client, stop everything on Ctrl-C."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from types import FrameType

LOOPBACK = "127.0.0.1"
START_S_MAX = 20.0
STOP_S_MAX = 35.0  # the proxy itself gives up after 30 s
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def die_with_parent() -> None:
    """Between fork and exec: whatever kills this process must not leave the others behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def free_port(wanted: int) -> int:
    """Return `wanted` if it is free, or else some port that is."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind((LOOPBACK, port))
                chosen: int = probe.getsockname()[1]
                if chosen != wanted:
                    say(f"Port {wanted} is taken; using {chosen} instead.")
                return chosen
    raise SystemExit("No port is free on this machine.")


@contextlib.contextmanager
def running(*module_and_arguments: str) -> Generator[subprocess.Popen[bytes]]:
    """Run `python -m ...` in a process group of its own, so that Ctrl-C reaches it through us, in our order."""
    process = subprocess.Popen(  # noqa: S603  our own modules, run by our own interpreter
        [sys.executable, "-m", *module_and_arguments],
        stdin=subprocess.DEVNULL,
        process_group=0,
        preexec_fn=die_with_parent,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_it_answers(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_S_MAX
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"It ended with status {process.returncode} instead of starting; its reason is above.")
        with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, port), timeout=1.0):
            return
        time.sleep(0.05)
    raise SystemExit(f"Nothing answers on port {port} after {START_S_MAX:.0f} s.")


def instructions(url: str, servers: dict[str, str]) -> str:
    """Return what a newcomer needs to see: where it is, how to use it, how to try it at once."""
    given = ",".join(f"{name}={server_url}" for name, server_url in servers.items())
    http_client = {"mcpServers": {"bulkhead": {"type": "http", "url": url}}}
    stdio_client = {
        "mcpServers": {
            "bulkhead": {"command": sys.executable, "args": ["-m", "supervisor", "--stdio", "--servers", given]}
        }
    }
    return f"""
mcp-bulkhead is ready on {url} in front of {" and ".join(servers)}.

Paste this into a client that speaks HTTP:

{json.dumps(http_client, indent=2)}

or this into one that starts its servers itself:

{json.dumps(stdio_client, indent=2)}

or try it at once, from another terminal:

{curl(url)}

The tools are main__echo, main__add, main__now, main__slow_count, and the same with backup__. Ctrl-C stops everything.
"""


def curl(url: str) -> str:
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    params = {"name": "main__echo", "arguments": {"text": "hello"}, "_meta": meta}
    headers = {
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": "2026-07-28",
        "Mcp-Method": "tools/call",
        "Mcp-Name": "main__echo",
    }
    lines = [f"curl {url}", *(f"  -H '{name}: {value}'" for name, value in headers.items())]
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
    return " \\\n".join([*lines, f"  -d '{body}'"])


def stop(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def serve(wanted_port: int) -> None:
    ports = {"main": free_port(8000), "backup": free_port(8002)}
    port = free_port(wanted_port)
    servers = {name: f"http://127.0.0.1:{server_port}/mcp" for name, server_port in ports.items()}
    with contextlib.ExitStack() as stack:
        for name, server_port in ports.items():
            server = stack.enter_context(running("examples.demo.server", "--name", name, "--port", str(server_port)))
            wait_until_it_answers(server, server_port)
        given = ",".join(f"{name}={url}" for name, url in servers.items())
        proxy = stack.enter_context(running("supervisor", "--http", "--port", str(port), "--servers", given))
        wait_until_it_answers(proxy, port)
        say(instructions(f"http://127.0.0.1:{port}/mcp", servers))
        proxy.wait()
        raise SystemExit(f"The proxy ended with status {proxy.returncode}.")


def main() -> None:
    parser = argparse.ArgumentParser(description="The proxy in front of two small servers.")
    parser.add_argument("--port", type=int, default=8001, help="where the proxy listens")
    wanted_port: int = parser.parse_args().port
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    try:
        serve(wanted_port)
    except KeyboardInterrupt:
        say("\nEverything has been stopped.")


if __name__ == "__main__":
    main()

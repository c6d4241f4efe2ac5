"""An HTTP proxy: forwards requests that name their server, and opens tunnels."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import trio


@dataclass
class ProxyRequest:
    line: str
    headers: dict[str, str]


@dataclass
class ForwardProxy:
    """Listens on `port` once it serves. Everything goes to this machine, whatever host is named."""

    tunnel: str = "HTTP/1.1 200 Connection established"
    """What CONNECT is answered with; a tunnel is opened if that says 200 and no more."""
    plain: str = ""
    """What other requests are answered with; "" to forward them."""
    requests: list[ProxyRequest] = field(default_factory=list)
    port: int = 0
    last_port: int = 0
    """That the last request was for."""

    async def serve(self, task_status: trio.TaskStatus[ForwardProxy] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            self.port = listener.socket.getsockname()[1]
            nursery.start_soon(trio.serve_listeners, self._connection, [listener])
            task_status.started(self)

    async def _connection(self, client: trio.SocketStream) -> None:
        try:
            head = b""
            while b"\r\n\r\n" not in head:
                data = await client.receive_some()
                if not data:
                    return
                head += data
            await self._serve(client, head)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async def _serve(self, client: trio.SocketStream, head: bytes) -> None:
        line, *fields = head.partition(b"\r\n\r\n")[0].decode().split("\r\n")
        pairs = (one.split(":", 1) for one in fields)
        self.requests.append(ProxyRequest(line, {name.lower(): value.strip() for name, value in pairs}))
        verb, target, _ = line.split(" ")
        is_tunnel = verb == "CONNECT"
        answer = self.tunnel if is_tunnel else self.plain
        if answer:
            await client.send_all(f"{answer}\r\n\r\n".encode())
        if answer and not (is_tunnel and answer.startswith("HTTP/1.1 200") and "\r\n" not in answer):
            return
        self.last_port = urlsplit(f"//{target}" if is_tunnel else target).port or 80
        async with await trio.open_tcp_stream("127.0.0.1", self.last_port) as server, trio.open_nursery() as nursery:
            if not is_tunnel:
                await server.send_all(head)  # all that follow on this connection are for the same server

            async def carry(source: trio.SocketStream, sink: trio.SocketStream) -> None:
                with contextlib.suppress(trio.BrokenResourceError):
                    async for data in source:
                        await sink.send_all(data)
                nursery.cancel_scope.cancel()

            nursery.start_soon(carry, client, server)
            nursery.start_soon(carry, server, client)

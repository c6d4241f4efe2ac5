"""What the root says to people: one sentence for each thing that happens to a process."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from supervisor.command import shown_command
from supervisor.config import DNS_PREFIX, Server, Settings
from supervisor.listen import endpoint, is_loopback, is_unix
from supervisor.restart import Action, Verdict
from supervisor.spec import Role

GENERAL_OUTAGE = "more than half of the servers fail at once: is it this machine's network?"


def announcement(settings: Settings, listeners: Sequence[socket.socket]) -> str:
    """Say where to connect, and to what."""
    places = ["standard input and output"] if settings.stdio else []
    places += [_place(*endpoint(sock), settings) for sock in listeners]
    named = [f"{one.name} ({shown_command(one) or _url(one)})" for one in settings.servers if one.enabled]
    return f"ready on {' and '.join(places)}; servers: {', '.join(named) or 'none'}"


def _url(server: Server) -> str:
    return DNS_PREFIX + server.url if server.discover else server.url


def _place(address: str, port: int, settings: Settings) -> str:
    if is_unix(address):
        return f"{settings.path} of the Unix socket {address}"
    scheme = "https" if settings.tls_cert else "http"
    return f"{scheme}://{f'[{address}]' if ':' in address else address}:{port}{settings.path}"


def exposure_warning(listeners: Sequence[socket.socket]) -> str:
    """Say that others can reach us; "" if they cannot."""
    exposed = [address for address, _ in map(endpoint, listeners) if not is_loopback(address) and not is_unix(address)]
    if not exposed:
        return ""
    return (
        f"listening on {', '.join(exposed)}: whoever reaches that address can call every tool, "
        "because this version does not ask who calls; use 127.0.0.1 unless a gateway in front does"
    )


def openness_warning(settings: Settings) -> str:
    """Say that other users of this machine can reach us over the Unix socket; "" if they cannot."""
    if not settings.listen_unix or not settings.listen_unix_mode & 0o006:
        return ""
    return (
        f"the mode of {settings.listen_unix} lets every user of this machine call every tool; "
        "--listen-unix-mode 660 would let its group"
    )


def consequence(role: Role, verdict: Verdict) -> str:
    """Say what follows the end of a child."""
    whole = role is Role.ZYGOTE
    match verdict.action:
        case Action.RESTART_NOW:
            return "all workers are replaced" if whole else "a new one starts now"
        case Action.RESTART_AFTER:
            return f"{'all workers are replaced' if whole else 'a new one starts'} in {verdict.delay_s:.1f} s"
        case Action.PARK:
            return f"it keeps failing, and is tried again in {verdict.delay_s / 60:.0f} minutes"
        case Action.STOP:
            return "it is not started again"
        case Action.ESCALATE:
            return "it keeps failing: giving up" if whole else "it keeps failing: everything is replaced"

"""Random servers, configurations, and texts of them, for property tests."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import settings as examples
from hypothesis import strategies as st

from supervisor.config import Server, Settings

few = examples(max_examples=20, deadline=None)
"""For what reads and writes YAML, which takes its time."""
many = examples(max_examples=100, deadline=None)
names = st.sampled_from(["a", "b", "main", "files-2", "Web_1", "x9", "1st"])
urls = st.sampled_from(["http://localhost:8000/mcp", "http://10.1.2.3/", "http://h:9/a?b=c%20d&e=${env:K}"])
_values = st.sampled_from(
    ["x", "Bearer ${env:TOKEN}", "a 'b' c", 'say "hi" # no', "$${x}: [1, 2]", "true", "0x10", "~"]
)
headers = st.dictionaries(st.sampled_from(["Authorization", "X-Api-Key", "X-Tenant"]), _values, max_size=2)


arguments = st.lists(st.sampled_from(["-y", "a b", "$(x); 'y'", "${HOME}", "#", "", "[1]"]), max_size=3)
folders = st.sampled_from(["", "/srv", "~/x y"])


@st.composite
def servers(draw: st.DrawFn, name: str = "") -> Server:
    if draw(st.booleans()):
        return Server(
            name or draw(names),
            "",
            enabled=draw(st.booleans()),
            command=draw(st.sampled_from(["npx", "/opt/a server", "~/bin/x"])),
            args=tuple(draw(arguments)),
            env=tuple(draw(headers.map(lambda found: {key.replace("-", "_"): found[key] for key in found})).items()),
            cwd=draw(folders),
        )
    return Server(
        name or draw(names),
        draw(urls),
        enabled=draw(st.booleans()),
        headers=tuple(draw(headers).items()),
    )


server_lists = st.lists(servers(), max_size=4, unique_by=lambda server: server.name).map(tuple)


@st.composite
def settings(draw: st.DrawFn) -> Settings:
    """Return settings of which the parts beside the servers differ now and then."""
    return Settings(
        draw(server_lists),
        port=draw(st.sampled_from([8001, 8001, 9000])),
        page_size=draw(st.sampled_from([0, 0, 10])),
        allowed_hosts=draw(st.sampled_from([(), ("a.example",)])),
    )


def values(server: Server) -> dict[str, Any]:
    found: dict[str, Any] = {"command": server.command} if server.command else {"url": server.url}
    if server.args:
        found["args"] = list(server.args)
    if server.env:
        found["env"] = dict(server.env)
    if server.cwd:
        found["cwd"] = server.cwd
    if not server.enabled:
        found["enabled"] = False
    if server.headers:
        found["headers"] = dict(server.headers)
    return found


def toml(listed: tuple[Server, ...]) -> str:
    """Return a file as people write it, with comments."""
    lines = ["# the proxy", "http = true  # over HTTP", ""]
    for server in listed:
        lines += [f"# about {server.name}", f"[servers.{server.name}]"]
        for key, value in values(server).items():
            if key not in ("headers", "enabled", "env"):
                lines.append(f"{key} = {json.dumps(value)}" + ("  # where" if key in ("url", "command") else ""))
        if server.env:
            members = ", ".join(f"{name} = {json.dumps(value)}" for name, value in server.env)
            lines.append(f"env = {{ {members} }}")
        if not server.enabled:
            lines.append("enabled = false # for now")
        if server.headers:
            members = ", ".join(f"{name} = {json.dumps(value)}" for name, value in server.headers)
            lines.append(f"headers = {{ {members} }}")
        lines.append("")
    return "\n".join([*lines] if listed else [*lines, "[servers]", ""])


def yaml(listed: tuple[Server, ...]) -> str:
    lines = ["# the proxy", "http: true  # over HTTP", "servers:" if listed else "servers: {}"]
    for server in listed:
        lines += [f"    # about {server.name}", f'    "{server.name}":']
        for key, value in values(server).items():
            if key not in ("headers", "enabled", "env"):
                comment = "  # where" if key in ("url", "command") else ""
                lines.append(f"        {key}: {json.dumps(value)}{comment}")
        if server.env:
            lines.append("        env:")
            lines += [f"            {name}: {json.dumps(value)}" for name, value in server.env]
        if not server.enabled:
            lines.append("        enabled: false # for now")
        if server.headers:
            lines.append("        headers:")
            lines += [f"            {name}: {json.dumps(value)}" for name, value in server.headers]
    return "\n".join([*lines, ""])


def as_json(listed: tuple[Server, ...]) -> str:
    return json.dumps({"http": True, "servers": {server.name: values(server) for server in listed}}, indent=4) + "\n"


TEXTS = {"c.toml": toml, "c.yaml": yaml, "c.json": as_json}

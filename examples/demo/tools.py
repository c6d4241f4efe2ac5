"""What the demo servers can do: four tools that need nothing but the standard library.

A tool is a function of its arguments and of a `Call`, through which it can report progress, log, and notice that nobody
waits for it any more. It returns the value of `structuredContent`; the text block is the same value for a reader.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

Json = dict[str, Any]


class Call(Protocol):
    """The call a tool is serving."""

    def progress(self, done: float, total: float, message: str) -> None: ...

    def log(self, level: str, text: str) -> None: ...

    def wait(self, seconds: float) -> None:
        """Let time pass. Errors: `CancelledError` as soon as the client has given up."""
        ...


class CancelledError(Exception):
    """The client does not want the answer any more."""


@dataclass(frozen=True)
class Tool:
    name: str
    description: str
    properties: Json
    run: Callable[[Json, Call], Json]

    def listed(self) -> Json:
        """Return the tool as `tools/list` shows it."""
        schema: Json = {"type": "object", "properties": self.properties, "required": list(self.properties)}
        return {"name": self.name, "description": self.description, "inputSchema": schema}

    def fault(self, arguments: Json) -> str | None:
        """Return what is wrong with the arguments, in words a model can act on."""
        for name, schema in self.properties.items():
            if name not in arguments:
                return f"{self.name} needs the argument {name!r}"
            value, wanted = arguments[name], schema["type"]
            fits = isinstance(value, str) if wanted == "string" else isinstance(value, int | float)
            if not fits or isinstance(value, bool):
                return f"{name!r} must be a {wanted}"
            if "maximum" in schema and not schema["minimum"] <= value <= schema["maximum"]:
                return f"{name!r} must be from {schema['minimum']} to {schema['maximum']}"
        return None


def echo(arguments: Json, _call: Call) -> Json:
    return {"text": arguments["text"]}


def add(arguments: Json, _call: Call) -> Json:
    return {"sum": arguments["a"] + arguments["b"]}


def now(_arguments: Json, _call: Call) -> Json:
    return {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z")}


def slow_count(arguments: Json, call: Call) -> Json:
    """Count once a second, and say so on the way: progress for the user's bar, a log line for the curious."""
    last = int(arguments["to"])
    for number in range(1, last + 1):
        call.wait(1.0)
        call.progress(number, last, f"{number} of {last}")
        call.log("info", f"counted to {number}")
    return {"counted": last}


TEXT: Json = {"type": "string"}
NUMBER: Json = {"type": "number"}

TOOLS = {
    tool.name: tool
    for tool in (
        Tool("echo", "Gives back the text it was given.", {"text": TEXT}, echo),
        Tool("add", "Adds two numbers.", {"a": NUMBER, "b": NUMBER}, add),
        Tool("now", "Tells the time of this server.", {}, now),
        Tool(
            "slow_count",
            "Counts to a number, one a second, reporting progress.",
            {"to": {"type": "number", "minimum": 1, "maximum": 60}},
            slow_count,
        ),
    )
}

"""Client driver for the suite's client scenarios, on the official Python SDK.

    python -m tests.conformance.client_driver [--era legacy|modern] [--strict] URL

The suite plays the server and names the scenario in MCP_CONFORMANCE_SCENARIO, its revision in
MCP_CONFORMANCE_PROTOCOL_VERSION and details, for some, in MCP_CONFORMANCE_CONTEXT (JSON). The era follows the revision
unless --era is given: modern discovers 2026-07-28, legacy does the initialize handshake.

Most scenarios need no code of their own: the driver lists the tools, calls every one with arguments made from its
input schema (or makes the calls that the context names), reads and gets what resources and prompts there are, and
answers whatever it is asked.

A refused call is the scenario's business: its checks judge what went over the wire. A result that does not fit the
revision is only reported, since one scenario sends such a result on purpose; with --strict, for a driver behind a
proxy that has to mend it, it makes the driver fail.
"""

import argparse
import json
import os
import sys
import warnings
from collections.abc import Awaitable
from typing import Any

import anyio
from mcp import Client
from mcp.shared.exceptions import MCPDeprecationWarning, MCPError
from mcp.types import CreateMessageResult, ElicitResult, ListRootsResult, Root, TextContent
from mcp.types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import ValidationError

warnings.filterwarnings("ignore", category=MCPDeprecationWarning)

SCHEMA_TOOL, SCHEMA_ECHO = "json_schema_2020_12_tool", "json_schema_echo"


def example(schema: dict[str, Any]) -> Any:
    """Some value that the schema admits; its default where it has one."""
    for key in ("default", "const"):
        if key in schema:
            return schema[key]
    if schema.get("enum"):
        return schema["enum"][0]
    if options := schema.get("oneOf") or schema.get("anyOf"):
        return example(options[0])
    match schema.get("type"):
        case "boolean":
            return True
        case "integer":
            return int(schema.get("minimum", 1))
        case "number":
            return schema.get("minimum", 1.5)
        case "array":
            return [example(schema.get("items", {}))]
        case "object":
            return {name: example(s) for name, s in schema.get("properties", {}).items()}
        case _:
            return "example"


async def on_elicitation(context: Any, params: Any) -> ElicitResult:
    if getattr(params, "mode", "form") == "url":
        return ElicitResult(action="decline")
    return ElicitResult(action="accept", content=example(params.requested_schema))


async def on_sampling(context: Any, params: Any) -> CreateMessageResult:
    answer = TextContent(type="text", text="Paris")
    return CreateMessageResult(role="assistant", content=answer, model="conformance-driver", stop_reason="endTurn")


async def on_roots(context: Any) -> ListRootsResult:
    return ListRootsResult(roots=[Root(uri="file:///conformance", name="conformance")])


def note(*words: Any) -> None:
    print(*words, file=sys.stderr)  # the suite keeps it with the results


async def attempt(what: str, request: Awaitable[Any]) -> bool:
    """Whether a request ended in a well-formed way."""
    try:
        result = await request
    except MCPError as e:
        note(f"{what}: refused: {e}")
    except ValidationError as e:
        note(f"{what}: malformed result: {e}")
        return False
    else:
        note(f"{what}: {'tool error' if getattr(result, 'is_error', False) else 'ok'}")
    return True


async def drive(client: Client, context: dict[str, Any]) -> bool:
    tools = {tool.name: tool.input_schema for tool in (await client.list_tools()).tools}
    note(f"protocol {client.protocol_version}, tools {sorted(tools)}")
    calls = [(c["name"], c.get("arguments") or {}) for c in context.get("toolCalls", [])]
    if not calls:
        calls = [(name, example(schema)) for name, schema in tools.items()]
    if SCHEMA_TOOL in tools and SCHEMA_ECHO in tools:  # gives back the schema as it was received
        calls = [(SCHEMA_ECHO, {"schema": tools[SCHEMA_TOOL]})]
    fine = [await attempt(name, client.call_tool(name, arguments)) for name, arguments in calls]

    if client.server_capabilities.resources:
        resources = (await client.list_resources()).resources
        fine += [await attempt(resource.uri, client.read_resource(resource.uri)) for resource in resources]
    if client.server_capabilities.prompts:
        for prompt in (await client.list_prompts()).prompts:
            arguments = {a.name: "example" for a in prompt.arguments or []}
            fine.append(await attempt(prompt.name, client.get_prompt(prompt.name, arguments)))
    return all(fine)


async def run(url: str, era: str | None, strict: bool) -> int:
    version = os.environ.get("MCP_CONFORMANCE_PROTOCOL_VERSION", "2025-11-25")
    context = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT") or "{}")
    if era is None:
        era = "modern" if version in MODERN_PROTOCOL_VERSIONS else "legacy"
    note(f"scenario {os.environ.get('MCP_CONFORMANCE_SCENARIO', '-')}, driver speaks {era}")
    client = Client(
        url,
        mode="auto" if era == "modern" else "legacy",
        elicitation_callback=on_elicitation,
        sampling_callback=on_sampling,
        list_roots_callback=on_roots,
    )
    async with client:
        well_formed = await drive(client, context)
    return 0 if well_formed or not strict else 1


def main() -> int:
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--era", choices=["legacy", "modern"])
    ap.add_argument("--strict", action="store_true")
    ap.add_argument("url")
    args = ap.parse_args()
    return anyio.run(run, args.url, args.era, args.strict)


if __name__ == "__main__":
    sys.exit(main())

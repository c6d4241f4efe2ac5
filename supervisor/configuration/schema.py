"""The table of keys as a JSON Schema, for editors that check while one writes. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from protocol import limits
from protocol.names import SERVER_NAME_CHARACTERS_MAX
from supervisor import config
from supervisor.configuration import keys
from supervisor.configuration.keys import Key


def schema() -> dict[str, Any]:
    """Return the schema of a configuration file (JSON Schema 2020-12)."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Configuration of mcp-bulkhead",
        "type": "object",
        "properties": {
            "$schema": {"type": "string", "description": "Ignored; for editors."},
            **_properties(keys.WHOLE),
            "servers": {
                "description": "The servers, by name.",
                "type": "object",
                "maxProperties": config.SERVERS_MAX,
                "propertyNames": {"pattern": f"^[A-Za-z0-9][A-Za-z0-9_-]{{0,{SERVER_NAME_CHARACTERS_MAX - 1}}}$"},
                "additionalProperties": {
                    "type": "object",
                    "properties": _properties(keys.SERVER),
                    "oneOf": [{"required": ["url"]}, {"required": ["command"]}],
                    "additionalProperties": False,
                },
            },
            "groups": {
                "description": "Groups of replicas, by the name that clients see.",
                "type": "object",
                "maxProperties": limits.GROUPS_MAX,
                "propertyNames": {"pattern": f"^[A-Za-z0-9][A-Za-z0-9_-]{{0,{SERVER_NAME_CHARACTERS_MAX - 1}}}$"},
                "additionalProperties": {
                    "type": "object",
                    "properties": _properties(keys.GROUP),
                    "additionalProperties": False,
                },
            },
        },
        "required": ["servers"],
        "additionalProperties": False,
    }


def text() -> str:
    """Return the schema as the file docs/config.schema.json has it."""
    return json.dumps(schema(), indent=2) + "\n"


def _properties(table: Mapping[str, Key]) -> dict[str, Any]:
    return {name: {"description": key.about, **key.schema} for name, key in table.items()}

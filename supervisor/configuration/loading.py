"""Read the configuration file of a run: its text, its values, its settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from supervisor.configuration import document, files, reading
from supervisor.configuration.lookup import look_up
from supervisor.configuration.reading import FileSettings


def load(path: str, given: Mapping[str, Any]) -> FileSettings:
    """Return what the file says. `given`: options of the command line. Errors: `ConfigFileError`."""
    content = files.read(path)
    found = reading.read(document.parse(path, content.text), look_up, given)
    return replace(found, identity=content.identity)

"""Keep in the configuration file what is changed at run time. A change is whole and on the disk, or was not made.

Methods wait for the disk; call them in a thread.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from supervisor.config import Server
from supervisor.configuration import document, edits, files, reading
from supervisor.configuration.document import Document
from supervisor.configuration.edits import EditError
from supervisor.configuration.files import BACKUP_SUFFIX, FILE_BYTES_MAX, NotWrittenError
from supervisor.configuration.problems import ConfigFileError


class ConfigFile:
    """One configuration file. Every method raises `NotWrittenError`, and nothing else, if the change cannot be kept."""

    def __init__(self, path: str) -> None:
        self.path = path

    def add_server(self, server: Server) -> None:
        """Add a server. Its texts are written as they are: what is to be no reference has to be `literal`."""
        self._change(lambda text: edits.add_server(self.path, text, server.name, edits.values_of(server)))

    def remove_server(self, name: str) -> None:
        self._change(lambda text: edits.remove_server(self.path, text, name))

    def set_enabled(self, name: str, enabled: bool) -> None:
        self._change(lambda text: edits.set_enabled(self.path, text, name, enabled=enabled))

    def roll_back(self) -> None:
        """Go back to what the file was before its last change here. Doing it once more undoes it."""
        backup = os.path.realpath(self.path) + BACKUP_SUFFIX
        if files.identity(backup) is None:
            raise NotWrittenError(f"there is no {backup} to go back to: nothing has been changed from here")

        def previous(_: str) -> str:
            return files.read(backup).text

        self._change(previous)

    def _change(self, edit: Callable[[str], str]) -> None:
        try:
            with files.locked(self.path):
                content = files.read(self.path)
                text = edit(content.text)
                if text == content.text:
                    return
                if len(text.encode()) > FILE_BYTES_MAX:
                    raise NotWrittenError(f"{self.path} would be larger than it may be")
                _check(document.parse(self.path, text))
                files.replace(self.path, text, content.identity)
        except (ConfigFileError, EditError) as error:
            raise NotWrittenError(f"{self.path} is left as it is: {error}") from None


def _check(changed: Document) -> None:
    """Refuse a file that we would not read ourselves. Secrets are looked up where they are used."""

    def anything(_: Any) -> str:
        return "x"

    reading.read(changed, anything)

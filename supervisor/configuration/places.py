"""Where MCP clients keep their servers on this system."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

CLIENTS: Final = ("claude", "cursor", "vscode")
_VSCODE_FOLDERS: Final = ("Code", "Code - Insiders", "VSCodium")


def places(client: str) -> list[Path]:
    """Return where the client's files may be; those of this folder's project first, as the clients themselves do."""
    home = Path.home()
    settings = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    match client:
        case "claude":
            return [Path(".mcp.json"), settings / "Claude" / "claude_desktop_config.json", home / ".claude.json"]
        case "cursor":
            return [Path(".cursor/mcp.json"), home / ".cursor" / "mcp.json"]
        case _:
            user = [settings / folder / "User" for folder in _VSCODE_FOLDERS]
            files = [folder / name for folder in user for name in ("mcp.json", "settings.json")]
            return [Path(".vscode/mcp.json"), *files]

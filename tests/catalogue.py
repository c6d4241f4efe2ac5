"""Reads the tables of docs/reliability.md, so that the page a reader sees is also the data the tests use."""

from __future__ import annotations

import re
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
PAGE = CHECKOUT / "docs" / "reliability.md"


def rows(first_cell: str) -> list[list[str]]:
    """Return the cells of every table row whose first cell matches the pattern, in the page's order."""
    found: list[list[str]] = []
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("| "):
            cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            if re.fullmatch(first_cell, cells[0]):
                found.append(cells)
    return found

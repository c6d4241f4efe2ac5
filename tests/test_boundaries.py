"""The import boundaries that keep the packages apart."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PURE_STDLIB_BANNED = {
    "asyncio", "io", "logging", "multiprocessing", "os", "pathlib", "random", "secrets", "select", "selectors",
    "signal", "socket", "ssl", "subprocess", "tempfile", "threading", "time",
}  # fmt: skip
PURE_THIRD_PARTY = {"msgspec", "httptools"}


def imported_modules(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def sources(package: str) -> list[Path]:
    found = sorted((ROOT / package).rglob("*.py"))
    assert found, f"no sources in {package}"
    return found


@pytest.mark.parametrize("path", sources("protocol"), ids=lambda path: path.name)
def test_protocol_imports_nothing_that_does_io_or_knows_the_time(path: Path) -> None:
    tops = {module.partition(".")[0] for module in imported_modules(path)}
    foreign = {top for top in tops if top not in sys.stdlib_module_names and top != "protocol"}
    assert foreign <= PURE_THIRD_PARTY
    assert not tops & PURE_STDLIB_BANNED


@pytest.mark.parametrize(
    ("package", "banned"),
    [
        ("supervisor", {"workers", "benchmarks", "tests"}),
        ("workers", {"supervisor", "benchmarks", "tests"}),
        ("protocol", {"supervisor", "workers", "benchmarks", "tests"}),
        ("benchmarks", {"supervisor", "workers", "tests"}),
    ],
)
def test_a_package_does_not_import_the_ones_it_must_not_know(package: str, banned: set[str]) -> None:
    for path in sources(package):
        tops = {module.partition(".")[0] for module in imported_modules(path)}
        assert not tops & banned, f"{path.relative_to(ROOT)} imports {tops & banned}"


def test_every_file_named_in_the_architecture_exists() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    paths = set(re.findall(r"`([a-z_0-9]+/[a-z_0-9/]+\.py)`", text))
    assert len(paths) > 20
    missing = sorted(path for path in paths if not (ROOT / path).exists())
    assert not missing

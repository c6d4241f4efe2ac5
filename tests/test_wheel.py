"""The wheel: installed where nothing of the checkout is, it is the proxy and its benchmarks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

from tests.catalogue import CHECKOUT

BUILD = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
LOAD = ("--connections", "1", "--sizes", "100", "--eras", "modern", "--rounds", "1", "--seconds", "0.05")


def run(*command: str | Path, cwd: Path) -> str:
    """Return what a program writes, in an environment that does not lead to the checkout."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the programs of a virtual environment into which the wheel has been installed."""
    folder = tmp_path_factory.mktemp("wheel")
    name = run(sys.executable, "-c", BUILD, folder, cwd=CHECKOUT).strip().splitlines()[-1]
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check", "-q")
    run(*pip, "install", "--no-deps", "--no-index", folder / name, cwd=folder)
    # What the wheel depends on is taken from here, because a test must not need a network. A folder that is named in a
    # .pth file is searched, but its own .pth files, of which one leads to the checkout, are not read.
    packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return python.parent


def test_the_command_and_the_module_are_those_of_the_wheel(programs: Path, tmp_path: Path):
    version = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["version"]
    packages = ("supervisor", "workers", "protocol", "benchmarks")
    where = f"import {', '.join(packages)}; print(*({'.__file__, '.join(packages)}.__file__), sep='\\n')"

    assert run(programs / "mcp-bulkhead", "--version", cwd=tmp_path) == f"mcp-bulkhead {version}\n"
    assert run(programs / "python", "-m", "supervisor", "--version", cwd=tmp_path) == f"mcp-bulkhead {version}\n"
    for found in run(programs / "python", "-c", where, cwd=tmp_path).splitlines():
        assert Path(found).is_relative_to(programs.parent), found


def test_its_benchmark_starts_its_proxy_which_answers_calls(programs: Path, tmp_path: Path):
    subjects = ("--subjects", "direct,proxy")

    document = json.loads(
        run(programs / "mcp-bulkhead", "bench", "load", *LOAD, *subjects, "--json", "-", cwd=tmp_path)
    )

    (case,) = document["cases"]
    assert set(case["subjects"]) == {"direct", "proxy", "proxy-stdio"}
    for name, subject in case["subjects"].items():
        assert subject["calls"] > 0, name
        assert subject["failed"] == 0, (name, subject["faults"])

"""Reads what a run is asked to measure from its command line."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks import placement, subjects
from benchmarks.backend_answers import BLOB_BYTES_MAX
from benchmarks.results import Case
from protocol.versions import Era

HTTP: Final = "http"
STDIO: Final = "stdio"
SUBJECTS: Final = (
    subjects.DIRECT, subjects.NGINX, subjects.PROXY, subjects.PROXY_TLS, subjects.PROXY_TLS_FRONT, subjects.SDK_RELAY,
)  # fmt: skip
MORE_SUBJECTS: Final = (subjects.PROXY_COMMAND, subjects.PROXY_WEBSOCKET, subjects.PROXY_FRONTS)
"""Measured if they are asked for."""
ERAS: Final = {era.name.lower(): era for era in Era}
CONNECTIONS_MAX: Final = 512
STANDARD: Final = {
    "connections": [1, 16, 64],
    "sizes": [100, 10_000, 1_000_000],
    "eras": list(Era),
    "fronts": [HTTP, STDIO],
    "rounds": 5,
    "seconds": 1.0,
}
QUICK: Final = {"connections": [64], "sizes": [100], "eras": list(Era), "fronts": [HTTP], "rounds": 3, "seconds": 0.3}
QUICK_LARGE: Final = Case(connections=16, size=1_000_000, era=Era.MODERN)


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    """What to measure, and what to do with it."""

    cases: tuple[Case, ...]
    fronts: tuple[str, ...]
    subjects: tuple[str, ...]
    rounds: int
    seconds: float
    base: Path | None
    place: str
    """Which processes share processors: one of `placement.WISHES`."""
    json: str
    """Where the figures go: a file, "-" for standard output, "" for nowhere."""
    check: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `load`."""
    parser.add_argument("--connections", type=comma_list(_count), metavar="N,N", help="default 1,16,64")
    parser.add_argument("--sizes", type=comma_list(_size), metavar="N,N", help="payload bytes, default 100,10k,1m")
    parser.add_argument("--eras", type=comma_list(one_of(ERAS)), metavar="ERA,ERA", help="default legacy,modern")
    parser.add_argument("--fronts", type=comma_list(one_of([HTTP, STDIO])), metavar="F,F", help="default http,stdio")
    parser.add_argument(
        "--subjects",
        type=comma_list(one_of((*SUBJECTS, *MORE_SUBJECTS))),
        metavar="S,S",
        help=f"default {','.join(SUBJECTS)}; also {','.join(MORE_SUBJECTS)}: a command or WebSocket behind, two fronts",
    )
    parser.add_argument("--rounds", type=_count, help="rounds per case and subject, default 5")
    parser.add_argument("--seconds", type=_seconds, help="length of a round, default 1")
    parser.add_argument("--quick", action="store_true", help="a short run: 64 connections, 100 B, and one 1 MB row")
    parser.add_argument("--base", type=checkout_at, metavar="DIR", help="a second checkout to compare this one with")
    parser.add_argument(
        "--place",
        choices=placement.WISHES,
        default=placement.APART,
        help="apart (default): client and backend on one half of the processors, what is between them on the other;"
        " free: as the kernel sees fit",
    )
    add_output_arguments(parser)


def add_stand_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare which proxy a measurement of its own (stand.py) is made with."""
    parser.add_argument(
        "--checkout", type=checkout_at, default=subjects.PROJECT, metavar="DIR", help="measure the proxy of this one"
    )


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what every measurement can do with its figures."""
    parser.add_argument(
        "--json", default="", metavar="FILE", help="also write all figures as JSON; - for standard output"
    )
    parser.add_argument("--check", action="store_true", help="exit 1 if a promised number is missed")


def read(parsed: argparse.Namespace) -> Options:
    """Fill in what the command line left open."""
    preset: dict[str, Any] = QUICK if parsed.quick else STANDARD
    chosen = {
        name: default if getattr(parsed, name) is None else getattr(parsed, name) for name, default in preset.items()
    }
    matrix = itertools.product(chosen["eras"], chosen["sizes"], chosen["connections"])
    cases = [Case(connections, size, era) for era, size, connections in matrix]
    if parsed.quick and parsed.sizes is None:
        cases.append(QUICK_LARGE)
    return Options(
        cases=tuple(dict.fromkeys(cases)),
        fronts=tuple(chosen["fronts"]),
        subjects=tuple(parsed.subjects or SUBJECTS),
        rounds=chosen["rounds"],
        seconds=chosen["seconds"],
        base=parsed.base,
        place=parsed.place,
        json=parsed.json,
        check=parsed.check,
    )


def comma_list(read_one: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """Return a reader of lists with commas, each part of which is read by `read_one`."""
    return lambda text: [read_one(part.strip()) for part in text.split(",")]


def one_of(known: Sequence[str] | dict[str, Era]) -> Callable[[str], Any]:
    """Return a reader of known words, which become what a dictionary says they mean."""

    def read_one(text: str) -> Any:
        if text not in known:
            raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(known)}")
        return known[text] if isinstance(known, dict) else text

    return read_one


def number_within(low: float, high: float, kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return a reader of numbers of this kind (int, float) from `low` to `high`."""

    def read_one(text: str) -> Any:
        try:
            number = kind(text)
        except ValueError:
            number = None
        if number is None or not low <= number <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is no number from {low:g} to {high:g}")
        return number

    return read_one


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= CONNECTIONS_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to {CONNECTIONS_MAX}")
    return int(text)


def _size(text: str) -> int:
    digits = text.lower().rstrip("b")
    factor = {"k": 1_000, "m": 1_000_000}.get(digits[-1:], 1)
    digits = digits.rstrip("km")
    if not digits.isdecimal() or not 1 <= int(digits) * factor <= BLOB_BYTES_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is no size from 1 to {BLOB_BYTES_MAX} (100, 10k, 1m)")
    return int(digits) * factor


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.0 < seconds <= 60.0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds up to 60")
    return seconds


def checkout_at(text: str) -> Path:
    path = Path(text).resolve()
    if not (path / "supervisor").is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is no checkout of this project: it has no supervisor directory")
    return path

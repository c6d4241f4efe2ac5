"""benchmarks.options: what a command line asks for is what is measured."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from benchmarks import options
from benchmarks.results import Case
from protocol.versions import Era


def read(*arguments: str) -> options.Options:
    parser = argparse.ArgumentParser(exit_on_error=False)
    options.add_arguments(parser)
    return options.read(parser.parse_args(arguments))


def test_without_options_the_whole_matrix_is_measured() -> None:
    chosen = read()

    assert set(chosen.cases) == {
        Case(connections, size, era)
        for connections in (1, 16, 64)
        for size in (100, 10_000, 1_000_000)
        for era in (Era.LEGACY, Era.MODERN)
    }
    assert chosen.fronts == ("http", "stdio")
    assert chosen.subjects == ("direct", "nginx", "proxy", "proxy-tls", "proxy-tls-front", "sdk-relay")


def test_a_quick_run_is_the_promised_row_in_both_eras_and_one_of_a_megabyte() -> None:
    assert read("--quick").cases == (
        Case(64, 100, Era.LEGACY),
        Case(64, 100, Era.MODERN),
        Case(16, 1_000_000, Era.MODERN),
    )


def test_options_go_before_the_quick_ones() -> None:
    chosen = read("--quick", "--sizes", "10k", "--eras", "modern", "--rounds", "2", "--seconds", "0.5")

    assert chosen.cases == (Case(64, 10_000, Era.MODERN),)
    assert (chosen.rounds, chosen.seconds) == (2, 0.5)


def test_sizes_are_decimal_and_named_so() -> None:
    assert [case.size for case in read("--sizes", "7,2K,3mb", "--connections", "1", "--eras", "legacy").cases] == [
        7,
        2_000,
        3_000_000,
    ]
    assert Case(1, 2_500, Era.LEGACY).title == "1 connection, 2.5 KB, legacy"
    assert Case(16, 1_000_000, Era.MODERN).title == "16 connections, 1 MB, modern"


@pytest.mark.parametrize(
    "arguments",
    [
        ("--sizes", "0"),
        ("--sizes", "16m"),
        ("--sizes", "ten"),
        ("--connections", "0"),
        ("--connections", "1,x"),
        ("--eras", "victorian"),
        ("--fronts", "ws"),
        ("--subjects", "apache"),
        ("--seconds", "0"),
        ("--seconds", "nan"),
        ("--rounds", "-1"),
        ("--base", "/nowhere"),
        ("--place", "together"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments: tuple[str, str]) -> None:
    with pytest.raises(argparse.ArgumentError):
        read(*arguments)


def test_a_checkout_to_compare_with_is_found(tmp_path: Path) -> None:
    (tmp_path / "supervisor").mkdir()

    assert read("--base", str(tmp_path)).base == tmp_path

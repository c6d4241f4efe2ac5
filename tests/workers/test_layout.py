"""Code is laid side by side: what is called moves, what it does stays the same."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FunctionType
from typing import Any

import pytest

from workers import layout

PAGE_BYTES = 4096
FUNCTIONS = 4000
CALLED_EVERY = 10


def many_functions() -> list[FunctionType]:
    """Return functions as a module has them, each some hundred bytes of code."""
    body = "    return (" + " + ".join(f"argument.part{part}" for part in range(8)) + ")\n"
    source = "".join(f"def function{number}(argument):\n{body}" for number in range(FUNCTIONS))
    made: dict[str, Any] = {}
    exec(compile(source, "made", "exec"), made)
    return [made[f"function{number}"] for number in range(FUNCTIONS)]


class Parts:
    def __getattr__(self, name: str) -> int:
        return int(name.removeprefix("part"))


def pages(functions: list[FunctionType]) -> int:
    return len({id(function.__code__) // PAGE_BYTES for function in functions})


def test_code_that_is_called_is_on_fewer_pages_afterwards():
    functions = many_functions()
    called, others = functions[::CALLED_EVERY], functions[1::CALLED_EVERY]
    before, kept = pages(called), [function.__code__ for function in others]

    layout.gather(lambda: [function(Parts()) for function in called])

    assert pages(called) < before / 2
    assert all(function.__code__ is code for function, code in zip(others, kept, strict=True))
    assert [function(Parts()) for function in called] == [sum(range(8))] * len(called)


def counter(start: int, *, step: int = 2) -> Callable[[], list[int]]:
    def count() -> list[int]:
        nonlocal start
        start += step
        return [number for number in numbers(start) if number % step == 0]

    return count


def numbers(most: int):
    yield from range(most)


def test_closures_defaults_generators_and_what_is_defined_later_work_as_before():
    inner, outer = counter(0), counter.__code__

    def play() -> None:
        assert counter(4)() == [0, 2, 4]
        assert inner() == [0]

    layout.gather(play)

    assert counter.__code__ is not outer
    assert inner() == [0, 2]
    assert counter(3, step=3)() == [0, 3]
    assert counter(0).__code__ in counter.__code__.co_consts, "and is made of the copy"
    assert counter.__code__ == outer.replace(co_consts=counter.__code__.co_consts)


def test_a_profiler_is_given_back_and_failures_are_told():
    def profiler(*_: object) -> None: ...

    def fail() -> None:
        raise ValueError("on stage")

    before = sys.getprofile()
    sys.setprofile(profiler)
    try:
        with pytest.raises(ValueError, match="on stage"):
            layout.gather(fail)
        assert sys.getprofile() is profiler
    finally:
        sys.setprofile(before)

"""Code is laid side by side: what is called moves, what it does stays the same."""

from __future__ import annotations

import functools
import sys
import types
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


def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*arguments: Any) -> Any:
        return ["wrapped", *function(*arguments)]

    return wrapper


class Called:
    """Has something of every kind."""

    def __init__(self, *, start: int = 1) -> None:
        self.start = start

    def method(self, step: int = 2, *, times: int = 3) -> list[int]:
        return [self.start, step, times]

    def never(self) -> None: ...

    @property
    def begun(self) -> int:
        """When."""
        return self.start

    @begun.setter
    def begun(self, start: int) -> None:
        self.start = start

    @staticmethod
    def apart(step: int) -> int:
        return step

    @classmethod
    def made(cls) -> Called:
        return cls(start=5)

    @wrapped
    def covered(self) -> list[int]:
        return [self.start]


class Derived(Called):
    def method(self, step: int = 4, *, times: int = 5) -> list[int]:
        return [0, *super().method(step, times=times)]


def module_function(*, by: int = 7) -> int:
    """Say by how much."""
    return by


module_function.note = "noted"  # pyright: ignore[reportFunctionMemberAccess]


def called_of_every_kind() -> list[object]:
    one = Derived()
    one.begun = 3
    return [one.method(), one.begun, Called.apart(6), Called.made().method(1), one.covered(), module_function()]


def functions_of(kind: type) -> dict[str, object]:
    return {
        name: vars(kind)[name]
        for name in ("method", "never", "begun", "apart", "made", "covered")
        if name in vars(kind)
    }


def test_functions_are_copied_wherever_they_are_called_by_name_and_do_the_same():
    before, kept, never = called_of_every_kind(), module_function, vars(Called)["never"]
    were, bound = functions_of(Called) | {"derived": vars(Derived)["method"]}, Called().method

    layout.gather(called_of_every_kind)

    assert called_of_every_kind() == before
    are = functions_of(Called) | {"derived": vars(Derived)["method"]}
    assert {name for name in are if are[name] is not were[name]} == {"method", "begun", "apart", "made", "derived"}
    assert are["never"] is never
    assert {name: type(one) for name, one in are.items()} == {name: type(one) for name, one in were.items()}
    assert Called.begun.__doc__ == "When."
    assert module_function is not kept
    assert (module_function.__doc__, module_function.__qualname__, vars(module_function)) == (
        "Say by how much.", "module_function", {"note": "noted"},
    )  # fmt: skip
    assert (kept(), bound(9)) == (7, [1, 9, 3]), "who has kept the original can use it"


def test_functions_that_are_called_lie_on_fewer_pages_afterwards(monkeypatch: pytest.MonkeyPatch):
    functions = many_functions()
    names = {f"function{number}": function for number, function in enumerate(functions)}
    module = types.ModuleType("made")
    vars(module).update(names)
    monkeypatch.setitem(globals(), "made", module)
    called = list(names)[::CALLED_EVERY]
    play = f"def play(argument):\n    {'; '.join(f'made.{name}(argument)' for name in called)}\n"
    exec(compile(play, "play", "exec"), globals(), space := {})  # what is called is named in the code of the caller
    monkeypatch.setitem(globals(), "play", space["play"])

    layout.gather(lambda: space["play"](Parts()))

    moved = [vars(module)[name] for name in called]
    assert all(one is not names[name] for name, one in zip(called, moved, strict=True))
    assert len({id(one) // PAGE_BYTES for one in moved}) < len({id(names[name]) // PAGE_BYTES for name in called}) / 2


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

"""Puts the code that workers run into one place of memory, so that running it writes to few pages.

A call writes to its code object, because it counts references to it, and a page that a fork writes to is its own from
then on: 4 KiB for each. As modules are loaded, code that workers run lies scattered among code that they never do.
Copies that are made one after the other lie side by side (measured: docs/decisions/0008-rest-rehearsal-spare.md).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import CodeType, FrameType, FunctionType
from typing import Any, Final, cast

_NOTHING: Final[dict[str, Any]] = {}
_WRAPPERS: Final = ("__func__", "__wrapped__", "__wrapped__")
"""Where static and class methods, and decorators that know functools.wraps, have what they wrap."""


def gather(play: Callable[[], object]) -> None:
    """Give the functions that `play` calls copies of their code that lie side by side.

    For a process that is about to fork. Only functions that can be found by their names are given copies: to look at
    all objects there are would write to all of them, and whoever has been forked before would share them no more.
    Nobody who relies on the identity of code objects is told: of what workers use that is trio, which notes so what a
    Ctrl-C must not interrupt, and no worker is ever interrupted by one.
    """
    called, functions = _called_by(play)
    copies: dict[int, CodeType] = {}
    for function in functions:
        # The originals live on in `called` until all copies are made: copies put into their places would be scattered.
        function.__code__ = _copy(function.__code__, called, copies)


def _called_by(play: Callable[[], object]) -> tuple[dict[int, CodeType], list[FunctionType]]:
    """Return the code of all that is called, by its id (what is equal need not be the same), and of which functions."""
    called: dict[int, CodeType] = {}
    functions: list[FunctionType] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and id(frame.f_code) not in called:
            called[id(frame.f_code)] = frame.f_code
            if function := _function_of(frame):
                functions.append(function)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        play()
    finally:
        sys.setprofile(before)
    return called, functions


def _function_of(frame: FrameType) -> FunctionType | None:
    """Return the function that runs in a frame, if it is where its name says, or a method of its first argument."""
    code = frame.f_code
    path = code.co_qualname.split(".")
    found: object = frame.f_globals.get(path[0])
    for name in path[1:]:
        found = getattr(found, "__dict__", _NOTHING).get(name)
    candidates: list[object] = [found]
    if code.co_argcount:
        first = cast("object", frame.f_locals.get(code.co_varnames[0]))
        candidates += [vars(one).get(code.co_name) for one in type(first).__mro__]
    return next((one for one in map(_unwrapped, candidates) if one is not None and one.__code__ is code), None)


def _unwrapped(found: object) -> FunctionType | None:
    """Return the function behind what a class or module has under a name."""
    if isinstance(found, property):
        found = found.fget
    for name in _WRAPPERS:
        found = cast("object", getattr(found, name, found))
    return found if isinstance(found, FunctionType) else None


def _copy(code: CodeType, called: dict[int, CodeType], copies: dict[int, CodeType]) -> CodeType:
    """Return the copy of a code object. Functions that it defines are made of copies, too, if they are called."""
    if (copy := copies.get(id(code))) is None:
        constants = tuple(
            _copy(one, called, copies) if isinstance(one, CodeType) and id(one) in called else one
            for one in code.co_consts
        )
        copy = copies[id(code)] = code.replace(co_consts=constants)
    return copy

"""Puts what workers run into one place of memory, so that running it writes to few pages.

A call writes to its function and to its code, because it counts references to them, and a page that a fork writes to
is its own from then on: 4 KiB for each. As modules are loaded, what workers run lies scattered among what they do not.
Copies that are made one after the other lie side by side (measured: docs/decisions/0008-rest-rehearsal-spare.md).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any, Final, cast

_NOTHING: Final[dict[str, Any]] = {}
_WRAPPERS: Final = ("__func__", "__wrapped__", "__wrapped__")
"""Where static and class methods, and decorators that know functools.wraps, have what they wrap."""
_CARRIED: Final = ("__kwdefaults__", "__qualname__", "__module__", "__doc__")
"""Attributes of a function that its copy has to be given."""
_kept: Final[list[object]] = []
"""The originals. What workers make for themselves would come to lie in their places, and so be scattered, too."""


class _Called:
    """What was called."""

    def __init__(
        self,
        code: CodeType,
        names: dict[str, Any],
        function: FunctionType | None = None,
        place: type | None = None,
    ) -> None:
        """`names`: the module's. `function`: if it was found. `place`: the class that has it as an attribute."""
        self.code = code
        self.names = names
        self.function = function
        self.place = place


def gather(play: Callable[[], object]) -> None:
    """Give the functions that `play` calls copies that lie side by side, of their code and of themselves.

    For a process that is about to fork. Only functions that can be found by their names are copied, and the copies get
    to where code that is called looks for them by name: to look at all objects there are would write to all of them,
    and whoever has been forked before would share them no more. Who has a function from elsewhere has the original,
    which works as before. Annotations are left out.
    Nobody who relies on the identity of code objects is told: of what workers use that is trio, which notes so what a
    Ctrl-C must not interrupt, and no worker is ever interrupted by one.
    """
    called = _called_by(play)
    _kept.append(called)
    for one in called.values():
        _kept.append(one.code.co_code)  # made when it is asked for first, which must not be between two copies
    codes: dict[int, CodeType] = {}
    functions: list[FunctionType] = [one.function for one in called.values() if one.function is not None]
    for function in functions:
        function.__code__ = _copy(function.__code__, called, codes)
    copies = {id(function): _copied(function) for function in functions}
    for one in called.values():
        _replace_in_modules(one, copies)
        if one.place is not None:
            _replace_in_class(one.place, one.code.co_name, copies)


def _called_by(play: Callable[[], object]) -> dict[int, _Called]:
    """Return what is called, by the id of its code (what is equal need not be the same)."""
    called: dict[int, _Called] = {}

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and id(frame.f_code) not in called:
            called[id(frame.f_code)] = _look_up(frame)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        play()
    finally:
        sys.setprofile(before)
    return called


def _look_up(frame: FrameType) -> _Called:
    """Return what runs in a frame: with its function if that is where its name says, or is its first argument's."""
    code = frame.f_code
    path = code.co_qualname.split(".")
    place: object = None
    found: object = frame.f_globals.get(path[0])
    for name in path[1:]:
        place = found
        found = getattr(found, "__dict__", _NOTHING).get(name)
    candidates = [(found, place)]
    if code.co_argcount:
        first = cast("object", frame.f_locals.get(code.co_varnames[0]))
        candidates += [(vars(one).get(code.co_name), one) for one in type(first).__mro__]
    for found, place in candidates:
        function = _unwrapped(found)
        if function is not None and function.__code__ is code:
            is_attribute = isinstance(place, type) and vars(place).get(code.co_name) is found
            return _Called(code, frame.f_globals, function, cast("type", place) if is_attribute else None)
    return _Called(code, frame.f_globals)


def _unwrapped(found: object) -> FunctionType | None:
    """Return the function behind what a class or module has under a name."""
    if isinstance(found, property):
        found = found.fget
    for name in _WRAPPERS:
        found = cast("object", getattr(found, name, found))
    return found if isinstance(found, FunctionType) else None


def _copy(code: CodeType, called: dict[int, _Called], copies: dict[int, CodeType]) -> CodeType:
    """Return the copy of a code object. Functions that it defines are made of copies, too, if they are called."""
    if (copy := copies.get(id(code))) is None:
        constants = tuple(
            _copy(one, called, copies) if isinstance(one, CodeType) and id(one) in called else one
            for one in code.co_consts
        )
        copy = copies[id(code)] = code.replace(co_consts=constants)
    return copy


def _copied(function: FunctionType) -> FunctionType:
    copy = FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    for name in _CARRIED:
        setattr(copy, name, getattr(function, name))
    if function.__dict__:
        copy.__dict__.update(function.__dict__)
    return copy


def _replace_in_modules(one: _Called, copies: dict[int, FunctionType]) -> None:
    """Replace the functions that this code names: those of its module, and of modules that it names."""
    spaces = [one.names]
    for names in spaces:
        for name in one.code.co_names:
            value = names.get(name)
            if (copy := copies.get(id(value))) is not None:
                names[name] = copy
            elif isinstance(value, ModuleType) and all(vars(value) is not known for known in spaces):
                spaces.append(vars(value))


def _replace_in_class(place: type, name: str, copies: dict[int, FunctionType]) -> None:
    """Replace the function that a class has under this name, directly or as a property, static or class method."""
    found: Any = vars(place)[name]
    inner: Any = found
    if type(found) is property:
        inner = found.fget
    elif type(found) in (staticmethod, classmethod):
        inner = found.__func__
    copy = copies.get(id(inner))
    if copy is None:
        return
    if inner is found:
        found = copy
    elif type(found) is property:
        found = property(copy, found.fset, found.fdel, found.__doc__)
    else:
        found = type(found)(copy)
    type.__setattr__(place, name, found)

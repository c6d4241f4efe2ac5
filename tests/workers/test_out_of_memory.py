"""What counts as out of memory, and that nobody who handles every error handles this one."""

from __future__ import annotations

import pytest

from protocol.control import EXIT_OUT_OF_MEMORY
from tests.workers.backend.harness import rig
from tests.workers.scripted import running_reactor
from workers import out_of_memory
from workers.backend.pool import Pool
from workers.out_of_memory import ran_out_of_memory


class Left(BaseException):
    """In place of the end of the process, which is the test's own here."""


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    codes: list[int] = []
    monkeypatch.setattr(out_of_memory.os, "_exit", codes.append)
    return codes


@pytest.mark.parametrize(
    ("error", "is_so"),
    [
        (MemoryError(), True),
        (BaseExceptionGroup("", [KeyError(), ExceptionGroup("", [MemoryError()])]), True),
        (ExceptionGroup("", [KeyError()]), False),
        (OSError(12, "Cannot allocate memory"), False),
    ],
)
def test_out_of_memory_is_found_in_groups_too(error: BaseException, is_so: bool):
    assert ran_out_of_memory(error) is is_so


@pytest.mark.promise("R10")
async def test_a_callback_that_is_refused_memory_ends_the_worker_and_another_error_does_not(exits: list[int]):
    async def fail(error: Exception) -> None:
        raise error

    async with running_reactor() as (reactor, log):
        await reactor._guarded(fail, (KeyError("x"),))
        assert exits == []
        await reactor._guarded(fail, (MemoryError(),))
        assert exits == [EXIT_OUT_OF_MEMORY]
        assert [fields["error"] for _, fields in log.of("error")] == ["KeyError", "MemoryError"]
        log.entries.clear()


@pytest.mark.promise("R10")
async def test_a_call_that_cannot_be_sent_for_want_of_memory_ends_the_worker(
    exits: list[int], monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_: object) -> None:
        raise MemoryError

    async with rig() as (_, one):
        await one.front.call().done()
        with monkeypatch.context() as patch:
            patch.setattr(Pool, "submit", refuse)
            await one.front.call().done()
        assert exits == [EXIT_OUT_OF_MEMORY]
        one.log.lines.clear()

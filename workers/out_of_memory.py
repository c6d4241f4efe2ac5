"""Leave at once when memory ran out: whatever was being done is half done, and nobody knows what else is."""

from __future__ import annotations

import os
from typing import cast

from protocol.control import EXIT_OUT_OF_MEMORY


def leave_if_out_of_memory(error: BaseException) -> None:
    """End the process if this is what memory that was refused has led to. Every handler of all errors calls it."""
    if ran_out_of_memory(error):
        os._exit(EXIT_OUT_OF_MEMORY)  # with as little as possible on the way, and nothing that needs memory


def ran_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return any(map(ran_out_of_memory, cast("BaseExceptionGroup[BaseException]", error).exceptions))
    return isinstance(error, MemoryError)

"""The memory a worker shares with the root: nobody who holds it can change its size."""

from __future__ import annotations

import os

import pytest

from protocol.flight import DUMP_AT, DUMP_BYTES, SHARED_BYTES
from supervisor import linux


@pytest.fixture
def memory():
    fd = linux.shared_memory(SHARED_BYTES)
    yield fd
    os.close(fd)


def test_it_is_all_zeros(memory: int):
    assert os.pread(memory, SHARED_BYTES + 1, 0) == bytes(SHARED_BYTES)


@pytest.mark.case("D-29", "C-12")
@pytest.mark.parametrize("size", [0, SHARED_BYTES * 1000])
def test_a_worker_can_neither_cut_it_off_nor_fill_the_memory_with_it(memory: int, size: int):
    with pytest.raises(PermissionError):
        os.ftruncate(memory, size)
    assert os.fstat(memory).st_size == SHARED_BYTES


@pytest.mark.case("D-29", "C-12")
def test_a_dump_that_does_not_end_is_kept_up_to_its_bound(memory: int):
    os.lseek(memory, DUMP_AT, os.SEEK_SET)

    def write_for_ever() -> None:
        while True:
            os.write(memory, b"frame\n" * 10)

    with pytest.raises(PermissionError):
        write_for_ever()
    assert os.fstat(memory).st_size == SHARED_BYTES
    assert os.pread(memory, DUMP_BYTES, DUMP_AT).rstrip(b"\0").count(b"frame\n") > DUMP_BYTES // 6 - 100

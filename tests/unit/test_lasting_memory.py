"""What an agent holds for months: nothing that is done again and again leaves something behind."""

from __future__ import annotations

import ctypes
import errno
import gc
from typing import Any

import numpy as np
import pytest

from agent.core.process import give_back, program_version
from collectors.bpf import epochs, libbpf
from collectors.bpf.layout import KEY, VALUE

ROWS = 5


def test_memory_is_given_back_without_a_handle_of_its_own_each_time() -> None:
    """Giving memory back leaves nothing that only a search for cycles would find."""
    give_back()
    assert _left_by(give_back) == 0


def test_the_version_is_looked_up_once() -> None:
    """Asking for the program's version, as each heartbeat does, leaves nothing that only a search for cycles would find."""
    assert program_version()
    assert _left_by(program_version) == 0


def test_a_reading_holds_no_more_than_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the room for a whole map, a reading keeps what its rows fill."""

    def some_rows(
        _name: str, _fd: int, _in: Any, _out: Any, keys: int, values: int, count: int, _: Any
    ) -> None:
        ctypes.memset(keys, 1, ROWS * KEY.itemsize)
        ctypes.memset(values, 2, ROWS * VALUE.itemsize)
        ctypes.c_uint32.from_address(count).value = ROWS
        raise OSError(errno.ENOENT, "that was the last one")

    monkeypatch.setattr(libbpf, "call", some_rows)
    reader = object.__new__(epochs.Epochs)
    reader.entries, reader._token = 131_072, np.zeros(8, np.uint8)
    keys, values = reader._rows(3)
    assert keys.base is None and values.base is None
    assert keys.tobytes() == b"\1" * ROWS * KEY.itemsize
    assert values.tobytes() == b"\2" * ROWS * VALUE.itemsize


def _left_by(what: Any) -> int:
    """Objects that a search for cycles finds after some calls."""
    gc.collect()
    gc.disable()
    try:
        for _ in range(5):
            what()
        return gc.collect()
    finally:
        gc.enable()

"""MessagePack as far as the package of provider ranges uses it: maps, arrays, texts and whole numbers.

Format: github.com/msgpack/msgpack, spec.md. Octets are hostile until proven otherwise.
"""

from __future__ import annotations

import struct
from typing import Any

from agent.core.errors import DecodeError

MAX_DEPTH = 8
MAX_ITEMS = 1 << 24
_NUMBERS = {0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q", 0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q"}
_TEXTS = {0xD9: ">B", 0xDA: ">H", 0xDB: ">I"}
_ARRAYS = {0xDC: ">H", 0xDD: ">I"}
_MAPS = {0xDE: ">H", 0xDF: ">I"}
_SIMPLE = {0xC0: None, 0xC2: False, 0xC3: True}


def unpack(data: bytes) -> Any:
    """The one value in ``data``. Raises :class:`DecodeError` for anything else."""
    reader = _Reader(data)
    try:
        value = reader.value(0)
    except (struct.error, IndexError, UnicodeDecodeError, TypeError) as error:
        raise DecodeError(f"not MessagePack: {error}", offset=reader.at) from error
    if reader.at != len(data):
        raise DecodeError("there are octets behind the MessagePack value", offset=reader.at)
    return value


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0
        self._items = 0

    def value(self, depth: int) -> Any:
        kind = self._data[self.at]
        self.at += 1
        if kind < 0x80 or kind >= 0xE0:
            return kind if kind < 0x80 else kind - 256
        if 0xA0 <= kind < 0xC0 or kind in _TEXTS:
            return self._text(kind & 0x1F if kind < 0xC0 else self._number(_TEXTS[kind]))
        if kind in _NUMBERS:
            return self._number(_NUMBERS[kind])
        if kind in _SIMPLE:
            return _SIMPLE[kind]
        if depth >= MAX_DEPTH:
            raise DecodeError("MessagePack nested too deep", offset=self.at)
        if 0x90 <= kind < 0xA0 or kind in _ARRAYS:
            return [
                self.value(depth + 1)
                for _ in range(self._count(kind & 0xF if kind < 0xA0 else self._number(_ARRAYS[kind])))
            ]
        if 0x80 <= kind < 0x90 or kind in _MAPS:
            n = self._count(kind & 0xF if kind < 0x90 else self._number(_MAPS[kind]))
            return {self.value(depth + 1): self.value(depth + 1) for _ in range(n)}
        raise DecodeError(f"MessagePack type {kind:#x} is not expected here", offset=self.at)

    def _number(self, form: str) -> int:
        (value,) = struct.unpack_from(form, self._data, self.at)
        self.at += struct.calcsize(form)
        return int(value)

    def _count(self, n: int) -> int:
        self._items += n
        if self._items > MAX_ITEMS or n > len(self._data) - self.at:
            raise DecodeError("MessagePack claims more items than there can be", offset=self.at)
        return n

    def _text(self, n: int) -> str:
        if n > len(self._data) - self.at:
            raise DecodeError("a MessagePack text is cut off", offset=self.at)
        text = self._data[self.at : self.at + n].decode()
        self.at += n
        return text

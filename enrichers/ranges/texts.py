"""A long dictionary of texts where it lies: made into Python's own texts one by one as they are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

_CONTINUES = 0x80
"""In UTF-8 (RFC 3629), the upper two bits of every octet of a character but its first."""


class KeptTexts(Sequence[str]):
    """Texts as one run of UTF-8 octets and where each ends; a hundred thousand take their octets, not ten times as many.

    Stands where a tuple of texts stands. Raises ``ValueError`` for octets that are no texts with these ends.
    """

    __slots__ = ("_ends", "_octets")

    def __init__(self, octets: NDArray[np.uint8], ends: NDArray[np.int64]) -> None:
        before = np.append(0, ends[:-1]) if len(ends) else ends
        if (before > ends).any() or (int(ends[-1]) if len(ends) else 0) != len(octets):
            raise ValueError("texts whose ends are not theirs")
        octets.tobytes().decode()  # UnicodeDecodeError is a ValueError
        starts = before[before < len(octets)]
        if ((octets[starts] & 0xC0) == _CONTINUES).any():
            raise ValueError("a text that begins inside a character")
        self._octets, self._ends = octets, ends

    @classmethod
    def of(cls, texts: Iterable[str]) -> KeptTexts:
        """From plain texts."""
        parts = [text.encode() for text in texts]
        ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
        return cls(np.frombuffer(b"".join(parts), np.uint8), ends)

    @property
    def arrays(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """What it is made of."""
        return self._octets, self._ends

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        at = range(len(self))[index]
        begin = int(self._ends[at - 1]) if at else 0
        return self._octets[begin : int(self._ends[at])].tobytes().decode()

"""State as bytes: JSON for what is small, raw columns for what is long, compressed, with a version and a checksum.

Layout: ``SKD`` and the format's number, CRC-32 of the rest, then zstd of: length of the head (uint32), head as JSON
(``{"meta": …, "arrays": [[name, dtype, shape], …]}``), the arrays' bytes in that order. Little-endian throughout.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import zstandard
from numpy.typing import NDArray

from agent.core.errors import StateError

FORMAT: Final = 1
_MAGIC: Final = b"SKD" + bytes([FORMAT])
_FRONT: Final = struct.Struct("<4sI")
_LENGTH: Final = struct.Struct("<I")
_LARGEST: Final = 4 * 2**30
_TYPES: Final = frozenset(("<i8", "<i4", "<i2", "|i1", "<u8", "<u2", "|u1", "|b1"))

Arrays = Mapping[str, NDArray[Any]]


def pack(meta: Mapping[str, Any], arrays: Arrays) -> bytes:
    """Meta (anything JSON can hold) and arrays as bytes. Integer columns are stored as narrow as their values allow."""
    narrow = {name: _narrow(array) for name, array in arrays.items()}
    listed = [[name, array.dtype.str, list(array.shape)] for name, array in narrow.items()]
    head = json.dumps({"meta": meta, "arrays": listed}, separators=(",", ":")).encode()
    body = b"".join([_LENGTH.pack(len(head)), head, *(array.tobytes() for array in narrow.values())])
    packed = zstandard.ZstdCompressor(level=1).compress(body)
    return _FRONT.pack(_MAGIC, zlib.crc32(packed)) + packed


def unpack(data: bytes) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """What :func:`pack` was given; integer arrays come back as int64. Raises :class:`StateError` for any other bytes."""
    body = _body(data)
    try:
        (size,) = _LENGTH.unpack_from(body)
        head = json.loads(body[_LENGTH.size : _LENGTH.size + size])
        arrays: dict[str, NDArray[Any]] = {}
        at = _LENGTH.size + size
        for name, dtype, shape in head["arrays"]:
            if dtype not in _TYPES:
                raise ValueError(f"type {dtype}")
            count = int(np.prod(shape, dtype=np.int64))
            column = np.frombuffer(body, dtype, count, at).reshape(shape)
            at += column.nbytes
            arrays[name] = column.copy() if dtype in ("<u8", "|b1") else column.astype(np.int64)
        return head["meta"], arrays
    except (ValueError, KeyError, TypeError, struct.error) as error:
        raise StateError(f"the detector's state cannot be read: {error}; remove it to start anew") from error


def part(prefix: str, arrays: Arrays) -> dict[str, NDArray[Any]]:
    """The arrays whose names begin so, without that beginning."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _body(data: bytes) -> bytes:
    if len(data) < _FRONT.size or data[:3] != _MAGIC[:3]:
        raise StateError("these bytes are no detector state; remove them to start anew")
    magic, check = _FRONT.unpack_from(data)
    if magic != _MAGIC:
        raise StateError(
            f"the detector's state has format {magic[3]}, expected {FORMAT}: use the release that wrote it"
        )
    packed = data[_FRONT.size :]
    if zlib.crc32(packed) != check:
        raise StateError("the detector's state is damaged (checksum); remove it to start anew")
    try:
        return zstandard.ZstdDecompressor().decompress(packed, max_output_size=_LARGEST)
    except zstandard.ZstdError as error:
        raise StateError(f"the detector's state cannot be unpacked: {error}") from error


def _narrow(array: NDArray[Any]) -> NDArray[Any]:
    out = np.ascontiguousarray(array)
    if out.dtype != np.int64:
        return out
    if not out.size:
        return out.astype(np.int8)
    low, high = int(out.min()), int(out.max())
    for kind in (np.int8, np.int16, np.int32):
        limits = np.iinfo(kind)
        if limits.min <= low and high <= limits.max:
            return out.astype(kind)
    return out

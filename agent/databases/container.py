"""The block container in which the default's package wraps its databases: bytes in, bytes out."""

from __future__ import annotations

import struct

import zstandard

from agent.core.errors import DecodeError

MAX_OCTETS = 1 << 29
MAX_BLOCK = 1 << 24
_MAGIC = b"DETBLK01"
_HEAD = struct.Struct(">8sIII")


def unwrap(data: bytes) -> bytes:
    """The file inside: a head (magic, block size, block count, size; big-endian), a length per block, zstd blocks.

    Raises :class:`DecodeError` for anything else, and for sizes beyond ``MAX_OCTETS`` and ``MAX_BLOCK``.
    """
    if len(data) < _HEAD.size:
        raise DecodeError("not a block container: it is cut off in its head", offset=len(data))
    magic, block, count, size = _HEAD.unpack_from(data)
    if magic != _MAGIC:
        raise DecodeError(f"not a block container: expected {_MAGIC!r}", offset=0)
    if not 0 < block <= MAX_BLOCK or size > MAX_OCTETS or count != -(-size // block):
        raise DecodeError(f"absurd container: {count} blocks of {block} octets for {size}", offset=8)
    start = _HEAD.size + 4 * count
    if len(data) < start:
        raise DecodeError("the container is cut off in its list of blocks", offset=len(data))
    lengths = struct.unpack_from(f">{count}I", data, _HEAD.size)
    if start + sum(lengths) != len(data):
        raise DecodeError(f"the container should have {start + sum(lengths)} octets", offset=len(data))
    parts = []
    for length in lengths:
        parts.append(_block(data[start : start + length], block, start))
        start += length
    content = b"".join(parts)
    if len(content) != size:
        raise DecodeError(f"the container holds {len(content)} octets, its head says {size}")
    return content


def _block(data: bytes, size: int, offset: int) -> bytes:
    try:
        with zstandard.ZstdDecompressor(max_window_size=MAX_BLOCK).stream_reader(data) as reader:
            content = reader.read(size + 1)
    except zstandard.ZstdError as error:
        raise DecodeError(f"a block is no zstd frame: {error}", offset=offset) from error
    if len(content) > size:
        raise DecodeError(f"a block holds more than {size} octets", offset=offset)
    return content

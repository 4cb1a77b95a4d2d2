"""Decompression of what brokers hand out: the same octets as the library gives, whatever wrote the frames."""

from __future__ import annotations

import io

import pytest
import zstandard
from kafka.codec import zstd_decode

from collectors.kafka import unpacked

TEXT = bytes(range(256)) * 500


def streamed(data: bytes) -> bytes:
    """A frame that does not say how much it holds."""
    out = io.BytesIO()
    with zstandard.ZstdCompressor().stream_writer(out, closefd=False) as writer:
        writer.write(data)
    return out.getvalue()


FRAMES = {
    "sized": zstandard.ZstdCompressor().compress(TEXT),
    "streamed": streamed(TEXT),
    "two": zstandard.ZstdCompressor().compress(TEXT) + streamed(TEXT[:100]),
    "two sized": zstandard.ZstdCompressor().compress(TEXT) + zstandard.ZstdCompressor().compress(b"more"),
    "nothing": zstandard.ZstdCompressor().compress(b""),
}


@pytest.mark.parametrize("how", FRAMES)
def test_octets_are_those_that_the_library_gives(how: str) -> None:
    """One frame or several, with a size or without."""
    assert unpacked(FRAMES[how]) == zstd_decode(FRAMES[how])


@pytest.mark.parametrize("broken", [b"no zstd at all", FRAMES["sized"][:-5] + b"xxxxx"])
def test_what_is_no_frame_is_an_error(broken: bytes) -> None:
    """As with the library, and the next frame is read as if nothing had been."""
    with pytest.raises(zstandard.ZstdError):
        unpacked(broken)
    assert unpacked(FRAMES["sized"]) == TEXT

"""gzip, unpacked no further than is believable."""

from __future__ import annotations

import gzip
import io
import zlib

from agent.core.errors import DecodeError


def gunzipped(content: bytes, most: int) -> bytes:
    """What is packed in ``content``. Raises :class:`DecodeError` if it is broken, or more than ``most`` octets."""
    try:
        with gzip.open(io.BytesIO(content)) as file:
            plain = file.read(most + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DecodeError(f"its gzip is broken: {error}") from error
    if len(plain) > most:
        raise DecodeError(f"unpacks to over {most} octets")
    return plain

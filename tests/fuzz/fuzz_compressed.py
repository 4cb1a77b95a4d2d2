"""Any octets as gzip, xz or zstd, and any damage to right ones: only DecodeError is raised, and of a file that was only
cut the frames are the first ones of the capture.

Run by hypothesis in tests/unit/test_fuzz_captures.py; with atheris: ``python -m tests.fuzz.fuzz_compressed``.
"""

from __future__ import annotations

import functools
import gzip
import lzma
import tempfile
from pathlib import Path

import zstandard

from tests.fuzz.fuzz_files import Frame, read
from tests.fuzz.guided import guided
from tests.tools.captures import classic

_MAGIC = (b"\x1f\x8b\x08", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")
CAPTURE = classic([bytes([i]) * (i % 90 + 20) for i in range(200)])


@functools.cache
def packed() -> tuple[bytes, ...]:
    """The capture by each packer."""
    return gzip.compress(CAPTURE, mtime=0), lzma.compress(CAPTURE), zstandard.compress(CAPTURE)


def target(octets: bytes) -> None:
    """The first octet picks packer and damage: junk behind its magic, changed octets, or a cut."""
    if len(octets) < 3:
        return
    kind, rest = octets[0] // 4 % 3, octets[1:]
    right = packed()[kind]
    match octets[0] % 4:
        case 0:
            _read(_MAGIC[kind] + rest)
        case 1:
            changed = bytearray(right)
            for at, value in zip(rest[::2], rest[1::2], strict=False):
                changed[at * len(changed) // 256] ^= value
            _read(bytes(changed))
        case _:
            cut = int.from_bytes(rest[:2], "big") % (len(right) + 1)
            found, whole = _read(right[:cut]), _read(right)
            assert len(whole) == 200 and found == whole[: len(found)]


def _read(file: bytes) -> list[Frame]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "capture"
        path.write_bytes(file)
        return read(path, 4096)[0]


if __name__ == "__main__":
    guided(target)

"""Any octets behind a classic capture's header: the frames are those of a plain walk, record by record, up to the first
record that is absurd or not whole; guessed offsets give none more and none less.

Run by hypothesis in tests/unit/test_fuzz_captures.py; with atheris: ``python -m tests.fuzz.fuzz_classic``.
"""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path

from tests.fuzz.fuzz_files import read
from tests.fuzz.guided import guided
from tests.tools.records import walk

_MAGIC = (0xA1B2C3D4, 0xA1B23C4D, 0xA1B2CD34)
_MOST = 262_144


def target(octets: bytes) -> None:
    """The first octet picks byte order and kind; the second repeats the rest, which sets the guessing off."""
    if len(octets) < 2:
        return
    order, magic = "<>"[octets[0] & 1], _MAGIC[octets[0] // 2 % 3]
    head = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, _MOST, 1)
    capture = head + octets[2:] * (1 + octets[1] * 8)
    expected = []
    for record in walk(capture):
        if len(record.octets) > _MOST:
            break
        expected.append(record.octets)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "capture"
        path.write_bytes(capture)
        assert [frame[0] for frame in read(path)[0]] == expected


if __name__ == "__main__":
    guided(target)

"""Any blocks of pcapng: only DecodeError is raised, no frame is longer than the file, each is told its interface's link
type, and whatever stands behind whole packets changes nothing in them.

Run by hypothesis in tests/unit/test_fuzz_captures.py; with atheris: ``python -m tests.fuzz.fuzz_pcapng``.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.fuzz.fuzz_files import Frame, read
from tests.fuzz.guided import guided
from tests.tools.captures import block, enhanced, interface, section

_KINDS = (1, 2, 3, 5, 6, 0x0A0D0D0A, 0xBAD)
_FRAME = bytes(range(64))


def target(octets: bytes) -> None:
    """Three whole packets, then blocks made of the octets: of a known kind with a right length, or just as they are."""
    if not octets:
        return
    order = "<>"[octets[0] & 1]
    good = section(order) + interface(1, order=order) + interface(101, order=order)
    good += b"".join(enhanced(_FRAME[: 20 + i], i, i % 2, order=order) for i in range(3))
    before, _, fault = _read(good)
    assert not fault and [frame[3] for frame in before] == [1, 101, 1]
    behind = octets[1:]
    if octets[0] & 2 and behind:
        size = behind[0] + 1
        behind = b"".join(
            block(_KINDS[behind[at] % len(_KINDS)], behind[at + 1 : at + 1 + size], order)
            for at in range(1, len(behind), size + 1)
        )
    found, _, _ = _read(good + behind)
    assert found[:3] == before
    assert all(len(frame[0]) <= len(behind) for frame in found[3:])


def _read(capture: bytes) -> tuple[list[Frame], dict[str, tuple[int, int]], str]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "capture"
        path.write_bytes(capture)
        return read(path)


if __name__ == "__main__":
    guided(target)

"""Any octets as a capture file: only DecodeError is raised, every frame lies in what was read, and the size of the
chunks changes neither the frames nor the fault.

Run by hypothesis in tests/unit/test_pcap_files.py; with atheris: ``python -m tests.fuzz.fuzz_files``.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from agent.core.errors import DecodeError
from collectors.captures.files import CaptureFile
from tests.fuzz.guided import guided

Frame = tuple[bytes, int, int, int, int, int]
"""(octets, length on the wire, time, link type, interface, sent)."""


def read(path: Path, chunk_octets: int = 1 << 20) -> tuple[list[Frame], dict[str, tuple[int, int]], str]:
    """(every frame, what was lost, the fault or nothing) of a file."""
    file = CaptureFile(path, chunk_octets=chunk_octets)
    frames: list[Frame] = []
    lost: dict[str, tuple[int, int]] = {}
    fault = ""
    try:
        for chunk in file.frames():
            n = len(chunk)
            assert (chunk.starts >= 0).all() and (chunk.starts + chunk.captured <= len(chunk.data)).all()
            columns = (
                chunk.length,
                chunk.time_ns,
                np.broadcast_to(np.asarray(chunk.link), n),
                np.broadcast_to(np.asarray(chunk.interface), n),
                np.full(n, -1) if chunk.sent is None else chunk.sent,
            )
            for at, size, *rest in zip(chunk.starts, chunk.captured, *columns, strict=True):
                frames.append((chunk.data[at : at + size].tobytes(), *(int(value) for value in rest)))  # type: ignore[arg-type]
            for reason, (count, octets) in chunk.lost.items():
                had = lost.get(reason, (0, 0))
                lost[reason] = (had[0] + count, had[1] + octets)
    except DecodeError as error:
        fault = str(error)
    if file.torn != (0, 0):
        lost["torn_tail"] = file.torn
    return frames, lost, fault


def target(octets: bytes) -> None:
    """Read the octets at once and in the smallest chunks."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "capture"
        path.write_bytes(octets)
        assert read(path) == read(path, 24)


if __name__ == "__main__":
    guided(target)

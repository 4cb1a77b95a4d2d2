"""Captures cut, flipped, spliced and filled with fake headers: no crash, no hang, and what was whole counts exactly."""

from __future__ import annotations

import functools
import random
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from agent.core.errors import DecodeError
from collectors.captures.files import CaptureFile
from collectors.packets.inner import decode_inner
from collectors.packets.odd import decode_any
from tests.tools.captures import classic, enhanced, interface, section
from tests.tools.encapsulated import TUNNELS, U4, U6, E
from tests.tools.places import TESTDATA
from tests.tools.records import Record, walk
from tests.tools.truth import BEGIN_S, Shape, traffic

FRAMES = [bytes(E / packet) for packet in (U4, U6, *TUNNELS.values())]
OWN: dict[str, bytes] = {
    "classic": classic(FRAMES),
    "classic, big-endian, nanoseconds": classic(FRAMES, order=">", magic=0xA1B23C4D),
    "classic, Kuznetzov": classic(FRAMES, magic=0xA1B2CD34),
    "many short frames": traffic(Shape(packets=1500, sessions=40)).pcap(),
    "pcapng": section() + interface() + b"".join(enhanced(f, i) for i, f in enumerate(FRAMES)),
    "pcapng, two sections of either order": section(">")
    + interface(order=">")
    + b"".join(enhanced(f, i, order=">") for i, f in enumerate(FRAMES[:9]))
    + section()
    + interface()
    + interface(link=101)
    + b"".join(enhanced(f[14 * (i % 2) :], i, i % 2) for i, f in enumerate(FRAMES)),
}
THEIRS = {p.name: p.read_bytes() for p in sorted((TESTDATA / "pcap").glob("*.pcap*"))} if TESTDATA else {}
SMALL = 1 << 17
"""Octets of a capture of which every byte of the first kilobyte is cut at; of larger ones the beginning is taken."""

Given = list[tuple[bytes, int]]
"""(captured octets, octets on the wire) of each frame, in order."""


def read(path: Path, *, decode: bool = False) -> Given:
    """Frames that are given before the end or a fault; decoded as well if asked, which must hold its own rules."""
    given: Given = []
    try:
        for frames in CaptureFile(path, chunk_octets=1 << 15).frames():
            length = np.maximum(frames.length, frames.captured)
            given += [
                (frames.data[at : at + size].tobytes(), wire)
                for at, size, wire in zip(
                    frames.starts.tolist(), frames.captured.tolist(), length.tolist(), strict=True
                )
            ]
            if decode:
                check_decoding(frames)
    except DecodeError:
        pass
    return given


def check_decoding(frames) -> None:  # type: ignore[no-untyped-def]
    """Each frame is a packet or skipped, outer and inner, and none counts more than it had on the wire."""
    links = np.broadcast_to(np.asarray(frames.link), len(frames))
    for link in np.unique(links).tolist():
        rows = np.flatnonzero(links == link)
        columns = [c[rows] for c in (frames.starts, frames.captured, frames.length, frames.time_ns)]
        wire = np.maximum(columns[1], columns[2])
        for how in (decode_any, functools.partial(decode_inner, decode_any)):
            found = how(frames.data, *columns, link)
            assert len(found.packets) + sum(n for n, _ in found.skipped.values()) == len(rows)
            assert (found.packets.octets <= wire[found.order]).all()


def whole(records: list[Record], end: int) -> Given:
    """Frames of the records that end at or before an octet of the file."""
    return [(r.octets, r.length) for r in records if r.end <= end]


def captures(*, most: int = SMALL) -> Iterator[tuple[str, bytes]]:
    """Ours and theirs, large ones by their beginning."""
    for name, octets in {**OWN, **THEIRS}.items():
        yield name, octets[:most]


def test_captures_are_read_as_the_formats_are_written(tmp_path: Path) -> None:
    """Unchanged captures give every record's octets and length, as a plain walk through the file finds them."""
    path = tmp_path / "capture"
    for name, octets in captures(most=1 << 22):
        path.write_bytes(octets)
        assert read(path) == whole(walk(octets), len(octets)), name


def test_a_capture_cut_anywhere_gives_what_is_whole(tmp_path: Path) -> None:
    """Cut at each byte of the first kilobyte, all records that end before the cut are given, and no more."""
    path = tmp_path / "capture"
    for name, octets in captures(most=1024):
        records = walk(octets)
        for cut in range(len(octets)):
            path.write_bytes(octets[:cut])
            assert read(path) == whole(records, cut), (name, cut)


def test_flipped_bits_change_nothing_before_them(tmp_path: Path) -> None:
    """Any bits changed behind the file's headers: every record before the first of them is given, and the rest decodes."""
    path = tmp_path / "capture"
    chance = random.Random(20261121)
    for name, octets in captures():
        if len(octets) < 100:
            continue
        records = walk(octets)
        for _ in range(12):
            places = sorted(chance.randrange(80, len(octets)) for _ in range(chance.choice((1, 1, 3, 40))))
            changed = bytearray(octets)
            for place in places:
                changed[place] ^= 1 << chance.randrange(8)
            path.write_bytes(changed)
            before = whole(records, places[0])
            assert read(path, decode=True)[: len(before)] == before, (name, places)


def test_flipped_bits_in_the_files_own_headers_are_no_crash(tmp_path: Path) -> None:
    """Each bit of the first 80 octets changed by itself: frames or a fault, never anything else."""
    path = tmp_path / "capture"
    for octets in OWN.values():
        for bit in range(80 * 8):
            changed = bytearray(octets[:8000])
            changed[bit // 8] ^= 1 << bit % 8
            path.write_bytes(changed)
            read(path)


def test_spliced_captures_give_what_came_before_the_seam(tmp_path: Path) -> None:
    """The beginning of one capture with the end of another behind it: the first one's whole records are given."""
    path = tmp_path / "capture"
    chance = random.Random(7)
    everything = list(captures())
    for name, octets in everything:
        for _ in range(4):
            other = chance.choice(everything)[1]
            seam = chance.randrange(len(octets) + 1)
            path.write_bytes(octets[:seam] + other[chance.randrange(len(other) + 1) :])
            before = whole(walk(octets), seam)
            assert read(path, decode=True)[: len(before)] == before, (name, seam)


def test_packets_full_of_fake_headers_are_packets(tmp_path: Path) -> None:
    """Frames that hold record headers, blocks and whole captures of both formats are given as the frames that they are."""
    path = tmp_path / "capture"
    fake = b"".join(struct.pack("<IIII", BEGIN_S + i, i, 40, 40) for i in range(60))
    contents = [fake, fake[3:], fake * 9, *(octets[:60_000] for octets in OWN.values())] * 6
    frames = [bytes(E / U4)[:42] + content for content in contents] + [bytes(E / U4)] * 3000
    for octets in (
        classic(frames),
        classic(frames, order=">"),
        section() + interface() + b"".join(enhanced(frame, i) for i, frame in enumerate(frames)),
    ):
        path.write_bytes(octets)
        assert read(path) == [(frame, len(frame)) for frame in frames]

"""Capture files: what is in them comes out, in whatever chunks; what is wrong with them is said or counted."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.errors import CaptureError, DecodeError
from collectors.captures import classic as classic_module
from collectors.captures import files as files_module
from collectors.captures.classic import Classic
from collectors.captures.files import CaptureFile
from tests.fuzz import fuzz_files
from tests.fuzz.fuzz_files import Frame, read
from tests.tools.captures import block, classic, enhanced, interface, option, section
from tests.tools.truth import BEGIN_S, Shape, traffic

S = 10**9
ONE, TWO, THREE = b"\x01" * 60, b"\x02" * 75, b"\x03" * 1500


def told(path: Path, octets: bytes) -> tuple[list[Frame], dict[str, tuple[int, int]], str]:
    """What a file of these octets holds: the same in one chunk and in the smallest ones."""
    path.write_bytes(octets)
    whole = read(path)
    assert whole == read(path, 24)
    return whole


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "capture"


def plain(*frames: bytes, link: int = 1) -> list[Frame]:
    """The frames as ``classic`` stamps them."""
    return [(frame, len(frame), (BEGIN_S + i) * S, link, -1, -1) for i, frame in enumerate(frames)]


# classic pcap ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(("magic", "unit"), [(0xA1B2C3D4, 1000), (0xA1B23C4D, 1), (0xA1B2CD34, 1000)])
def test_a_classic_capture_gives_its_frames(path: Path, order: str, magic: int, unit: int) -> None:
    """Micro- and nanosecond captures and Kuznetzov's, of either byte order, give octets, lengths, times and link type."""
    octets = classic(
        [ONE, b"", THREE],
        order=order,
        magic=magic,
        link=113,
        times=[(5, 6), (2**32 - 1, 999_999), (4, 0)],
        lengths=[60, 70_000, 1500],
    )
    assert told(path, octets) == (
        [
            (ONE, 60, 5 * S + 6 * unit, 113, -1, -1),
            (b"", 70_000, (2**32 - 1) * S + 999_999 * unit, 113, -1, -1),
            (THREE, 1500, 4 * S, 113, -1, -1),
        ],
        {},
        "",
    )


def test_a_fraction_of_a_second_or_more_stays_in_its_second(path: Path) -> None:
    """A corrupt fraction does not move a frame into the next second."""
    octets = classic([ONE], times=[(5, 1_000_000)])
    assert told(path, octets)[0] == [(ONE, 60, 5 * S + 999_999_999, 1, -1, -1)]


def test_the_upper_half_of_the_link_field_is_no_link_type(path: Path) -> None:
    """The FCS length in the upper bits is not part of the link type."""
    assert told(path, classic([ONE], link=0x5400_0001))[0] == plain(ONE)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("size", [65_535, 65_536, 200_000, 262_144])
def test_large_frames_are_whole(path: Path, order: str, size: int) -> None:
    """A frame may hold up to 262,144 octets, whatever the snapshot length says."""
    frames = [ONE, b"\x05" * size, TWO, b"\0" * size, ONE]
    assert told(path, classic(frames, order=order, snap=96)) == (plain(*frames), {}, "")


def test_a_larger_snapshot_length_allows_larger_frames(path: Path) -> None:
    """A frame above 262,144 octets is read where the snapshot length says that there are such."""
    frames = [ONE, b"\x05" * 300_000, ONE]
    assert told(path, classic(frames, snap=400_000)) == (plain(*frames), {}, "")


def test_an_absurd_frame_is_a_fault_after_what_came_before(path: Path) -> None:
    """A record that claims too much ends the reading with file, byte and advice; the frames before it are kept."""
    octets = classic([ONE, TWO]) + struct.pack("<IIII", 5, 0, 262_145, 60) + bytes(100)
    frames, lost, fault = told(path, octets)
    assert (frames, lost) == (plain(ONE, TWO), {})
    at = 24 + 16 + 60 + 16 + 75
    assert fault == (
        f"{path}, byte {at}: a record claims 262145 captured octets; expected at most 262144; what came before it was read"
    )


def test_a_torn_record_is_counted_and_no_fault(path: Path) -> None:
    """A file cut at any byte gives its whole records, and counts the one that was cut."""
    octets = classic([ONE, TWO], lengths=[60, 900])
    second = 24 + 16 + 60
    for cut in range(24, len(octets)):
        frames, lost, fault = told(path, octets[:cut])
        whole = cut >= second
        torn = cut not in (24, second)
        header = cut - (second if whole else 24) >= 16
        expected = {"torn_tail": (1, (900 if whole else 60) if header else 0)} if torn else {}
        assert (len(frames), lost, fault) == (int(whole), expected, "")


@pytest.mark.parametrize("octets", [b"", b"\n", b"GET / HTTP/1.1\r\n", b"\xd4\xc3\xb2", bytes(100)])
def test_what_is_no_capture_is_refused(path: Path, octets: bytes) -> None:
    """An empty file and other formats are refused with what was expected."""
    frames, lost, fault = told(path, octets)
    assert (frames, lost) == ([], {})
    assert "expected a pcap or pcapng capture" in fault


@pytest.mark.parametrize("size", range(4, 24))
def test_half_a_header_is_refused(path: Path, size: int) -> None:
    """A file that ends inside the file header is a fault that says how much there was."""
    assert told(path, classic([])[:size])[2] == (
        f"{path}, byte {size}: ends inside the file header, after {size} of 24 octets; copy the file again"
    )


def test_another_version_is_refused(path: Path) -> None:
    """A classic capture of major version 3 is not guessed at."""
    octets = classic([ONE])[:4] + struct.pack("<HH", 3, 0) + classic([ONE])[8:]
    assert "is pcap version 3.0; expected 2.x" in told(path, octets)[2]


def _put_fakes(octets: bytearray, starts: list[int]) -> None:
    """Into the payload of long frames, two record headers that lead one to the other and then astray."""
    for at in starts:
        if octets[24 + at + 8] < 96:
            continue
        fake = bytearray(octets[24 + at : 24 + at + 16])
        fake[8:16] = struct.pack("<II", 2, 60)
        octets[24 + at + 60 : 24 + at + 76] = fake
        octets[24 + at + 78 : 24 + at + 94] = fake


def _by_hand(octets: bytes) -> list[int]:
    at, found = 24, []
    while at + 16 <= len(octets):
        size = struct.unpack_from("<I", octets, at + 8)[0]
        if at + 16 + size <= len(octets):
            found.append(at - 24)
        at += 16 + size
    return found


@pytest.mark.parametrize(
    "kind",
    [
        "plain",
        "fake headers",
        "some fake headers",
        "fakes that skip",
        "wrong first",
        "wrong fields",
        "near 1970",
        "zeros",
    ],
)
def test_guessed_offsets_are_those_of_the_chain(kind: str) -> None:
    """Guessing all record offsets at once gives what following them one by one gives, hostile payloads included."""
    random = np.random.default_rng(5)
    octets = bytearray(traffic(Shape(packets=3000, sessions=200)).pcap())
    starts = _by_hand(bytes(octets))
    if kind == "fake headers":
        _put_fakes(octets, starts)
    elif kind == "some fake headers":
        _put_fakes(octets, starts[5::30])
    elif kind == "fakes that skip":
        for i in range(5, len(starts) - 3, 30):
            at, after = starts[i], starts[i + 3]
            if octets[24 + at + 8] == 96:
                octets[24 + at + 60 : 24 + at + 68] = octets[24 + at : 24 + at + 8]
                struct.pack_into("<II", octets, 24 + at + 68, after - at - 76, after - at - 76)
    elif kind == "wrong first":
        struct.pack_into("<I", octets, 24 + 12, 0)
    elif kind == "wrong fields":
        for at in [0, *random.choice(starts, 50).tolist()]:
            struct.pack_into(
                "<I", octets, 24 + at + int(random.choice([0, 4, 12])), int(random.integers(1 << 32))
            )
    elif kind in ("near 1970", "zeros"):
        for at in starts:
            struct.pack_into("<I", octets, 24 + at, 77)
            if kind == "zeros":
                octets[24 + at + 16 : 24 + at + 70] = bytes(54)
    data = np.frombuffer(bytes(octets[24:]) + bytes(128), np.uint8)
    reader = Classic("x", 0xA1B2C3D4, "<", bytes(octets[:24]))
    for filled in (len(octets) - 24, len(octets) - 25, 100_000):
        whole = [at for at in starts if at + 16 + struct.unpack_from("<I", octets, 24 + at + 8)[0] <= filled]
        reader._guesses = True
        assert reader._records(data, filled).tolist() == whole
        assert np.concatenate(list(reader._chain(data, filled, 0)))[: len(whole)].tolist() == whole


def test_guessing_is_given_up_where_it_does_not_pay() -> None:
    """Long frames and payloads full of record headers end the guessing, ordinary short ones keep it."""

    def guesses_on(octets: bytes) -> bool:
        reader = Classic("x", 0xA1B2C3D4, "<", octets[:24])
        reader.take(np.frombuffer(octets[24:] + bytes(128), np.uint8), len(octets) - 24)
        return reader._guesses

    short = traffic(Shape(packets=3000, sessions=200)).pcap()
    assert guesses_on(short)
    assert not guesses_on(classic([THREE] * 100))
    fakes = bytearray(short)
    _put_fakes(fakes, _by_hand(short))
    assert not guesses_on(bytes(fakes))
    header = struct.pack("<IIII", BEGIN_S, 0, 0, 0)
    assert not guesses_on(classic([header * 6] * 1000))


def test_short_stretches_follow_the_same_chain(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Where large frames make the short way of following wrong, it is set right at the next stretch."""
    frames = [ONE, b"\0" * 70_000, TWO, b"\1" * 66_000, b"", THREE] * 3
    path.write_bytes(classic(frames))
    before = read(path)
    monkeypatch.setattr(classic_module, "_STRETCH", 1000)
    assert read(path) == before == (plain(*frames), {}, "")


# pcapng ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", "<>")
def test_a_pcapng_capture_gives_its_frames(path: Path, order: str) -> None:
    """Enhanced, simple and obsolete packet blocks, of interfaces with their own link type, name and clock."""
    body = struct.pack(order + "HHIIIII", 1, 7, 0, 5_000, len(TWO), 80, 0)[:-4]
    octets = (
        section(order)
        + interface(1, option(2, b"eth0", order) + option(9, b"\x09", order) + option(0, b"", order), order)
        + interface(101, option(14, struct.pack(order + "q", 10), order), order)
        + enhanced(ONE, 5 * S + 7, 0, order=order, length=99)
        + block(4, b"names of no interest", order)
        + enhanced(TWO, 3_000_001, 1, order=order)
        + block(3, struct.pack(order + "I", len(THREE)) + THREE, order)
        + block(2, body + TWO, order)
    )
    assert told(path, octets) == (
        [
            (ONE, 99, 5 * S + 7, 1, 0, -1),
            (TWO, 75, 13 * S + 1000, 101, -1, -1),
            (THREE, 1500, 13 * S + 1000, 1, 0, -1),
            (TWO, 80, 10 * S + 5_000_000, 101, -1, -1),
        ],
        {},
        "",
    )


def test_sections_have_their_own_byte_order_and_interfaces(path: Path) -> None:
    """A second section of the other byte order forgets the interfaces of the first; names go on counting."""
    octets = b""
    for order, name in ("<", b"eth0"), (">", b"wlan0"), ("<", b"lo"):
        octets += section(order) + interface(1, option(2, name, order), order) + enhanced(ONE, 1, order=order)
    frames, lost, fault = told(path, octets)
    assert [frame[4] for frame in frames] == [0, 1, 2]
    file = CaptureFile(path)
    list(file.frames())
    assert (file.interfaces, lost, fault) == (["eth0", "wlan0", "lo"], {}, "")


@pytest.mark.parametrize(
    ("resolution", "ticks", "time_ns"),
    [
        (0, 7, 7 * S),
        (3, 7_001, 7_001_000_000),
        (6, 7_000_001, 7 * S + 1000),
        (9, 2**62 // S * S - 1, 2**62 // S * S - 1),
        (12, 7_000_000_001_999, 7 * S + 1),
        (19, 17 * 10**18 + 10**11, S * 17 // 10 + 10),
        (20, 10**18, 10**7),
        (127, 2**64 - 1, 0),
        (0x80 | 10, 7 * 1024 + 512, 7 * S + S // 2),
        (0x80 | 34, (7 << 34) + (1 << 33), 7 * S + S // 2),
        (0x80 | 32, (7 << 32) + 1, 7 * S),
        (0x80 | 64, 1 << 63, S // 2),
        (0x80 | 127, 1 << 63, 0),
    ],
)
def test_clocks_of_any_resolution_are_read(path: Path, resolution: int, ticks: int, time_ns: int) -> None:
    """if_tsresol in powers of ten and of two, coarser and finer than a nanosecond, gives nanoseconds."""
    octets = section() + interface(1, option(9, bytes([resolution]))) + enhanced(ONE, ticks)
    frames, lost, fault = told(path, octets)
    assert (len(frames), lost, fault) == (1, {}, "")
    # Above 2**34 ticks a second the last nanosecond may be off by the ticks given up.
    assert abs(frames[0][2] - time_ns) <= (
        1 if resolution < 0x80 else 2_000_000 if resolution & 0x7F > 60 else 1
    )


def test_times_out_of_range_are_counted(path: Path) -> None:
    """A time that no 64 bits of nanoseconds hold loses its frame, not the file."""
    octets = (
        section()
        + interface(1)
        + enhanced(ONE, 2**64 - 1)
        + enhanced(TWO, 5)
        + interface(1, option(14, struct.pack("<q", 2**63 - 1)))
        + enhanced(ONE, 5, 1, length=900)
        + interface(1, option(14, struct.pack("<q", -(2**63))))
        + enhanced(ONE, 5, 2)
    )
    assert told(path, octets) == (
        [(TWO, 75, 5000, 1, -1, -1)],
        {"time_out_of_range": (3, 60 + 900 + 60)},
        "",
    )


def test_packet_flags_tell_the_direction(path: Path) -> None:
    """epb_flags 1 is received, 2 is sent, 0 and a frame without the option tell nothing."""
    octets = section() + interface()
    for flags in (1, 2, 0):
        octets += enhanced(ONE, 5, 0, option(2, struct.pack("<I", flags)) + option(0, b""))
    octets += enhanced(ONE, 5) + enhanced(ONE, 5, 0, option(1, b"note") + option(0, b""))
    assert [frame[5] for frame in told(path, octets)[0]] == [0, 1, -1, -1, -1]


def test_a_simple_packet_is_cut_by_the_snapshot_length(path: Path) -> None:
    """A simple packet block holds at most the first interface's snapshot length, and takes the time before it."""
    body = struct.pack("<I", 1500) + ONE
    octets = section() + interface(snap=58) + block(3, body) + enhanced(TWO, 9) + block(3, body)
    frames = told(path, octets)[0]
    cut = ONE[:58]
    assert frames == [(cut, 1500, 0, 1, -1, -1), (TWO, 75, 9000, 1, -1, -1), (cut, 1500, 9000, 1, -1, -1)]


HEAD = section() + interface()
GOOD = enhanced(ONE, 5)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (struct.pack("<II", 6, 30) + bytes(100), "claims 30 octets"),
        (struct.pack("<II", 6, 28) + bytes(100), "claims 28 octets"),
        (struct.pack("<II", 0x99, 0xFFFF_FFF0) + bytes(100), "claims 4294967280 octets"),
        (struct.pack("<II", 0x99, 0) + bytes(100), "claims 0 octets"),
        (block(0x99, b"12345678")[:-4] + b"\0\0\0\0", "does not end with its own length"),
        (GOOD[:-4] + b"\0\0\0\0", "does not end with its own length"),
        (enhanced(ONE, 5, 3), "unknown interface"),
        (block(6, struct.pack("<IIIII", 0, 0, 0, 61, 61) + ONE), "more octets than it holds"),
        (block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4E, 1, 0, -1)), "byte-order magic"),
    ],
)
def test_a_broken_block_is_a_fault_after_what_came_before(path: Path, bad: bytes, words: str) -> None:
    """A block that contradicts itself ends the reading with its byte; the frames before it are kept."""
    frames, lost, fault = told(path, HEAD + GOOD + bad + GOOD)
    assert (frames, lost) == ([(ONE, 60, 5000, 1, -1, -1)], {})
    assert words in fault
    assert fault.startswith(f"{path}, byte {len(HEAD + GOOD)}: ")


def test_packets_without_an_interface_are_a_fault(path: Path) -> None:
    """A packet block before any interface description cannot be read."""
    assert "unknown interface" in told(path, section() + GOOD)[2]
    assert "unknown interface" in told(path, section() + block(3, struct.pack("<I", 60) + ONE))[2]


def test_a_pcapng_file_may_be_cut_anywhere(path: Path) -> None:
    """Cut in its first section header it is a fault; cut later, its whole blocks count, and the torn one is counted."""
    first = section() + interface()
    octets = first + enhanced(ONE, 5) + enhanced(TWO, 6, length=900)
    for cut in range(4, len(octets)):
        frames, lost, fault = told(path, octets[:cut])
        if cut < 28:
            assert (frames, lost) == ([], {})
            assert f"ends inside the first section header, after {cut} octets" in fault
            continue
        assert len(frames) == (cut >= len(first) + len(enhanced(ONE, 5)))
        assert (fault, lost.get("torn_tail", (1, 0))[0]) == ("", 1)
    assert told(path, octets[:-1])[1] == {"torn_tail": (1, 900)}


# files ----------------------------------------------------------------------------------------------------------------

MANY = traffic(Shape(packets=4000, sessions=150)).pcap()


@pytest.mark.parametrize(
    "pack",
    [gzip.compress, lzma.compress, zstandard.ZstdCompressor().compress],
    ids=["gzip", "xz", "zstd"],
)
class TestCompressed:
    """gzip, xz and zstd."""

    def test_frames_are_those_of_the_plain_file(self, path: Path, pack: Callable[[bytes], bytes]) -> None:
        """A compressed capture gives the frames of the plain one, also in several compressed parts."""
        path.write_bytes(MANY)
        want = read(path)
        for octets in (pack(MANY), pack(MANY[:9000]) + pack(MANY[9000:])):
            path.write_bytes(octets)
            assert read(path) == read(path, 999) == want

    def test_a_cut_file_gives_what_is_whole(self, path: Path, pack: Callable[[bytes], bytes]) -> None:
        """Compressed data that stops in the middle is a torn tail, as in a plain file."""
        path.write_bytes(pack(MANY))
        whole = read(path)[0]
        path.write_bytes(pack(MANY)[: len(pack(MANY)) * 2 // 3])
        frames, lost, fault = read(path)
        assert 0 < len(frames) < len(whole)
        assert (frames, list(lost), fault) == (whole[: len(frames)], ["torn_tail"], "")

    def test_corrupt_data_is_a_fault_after_what_came_before(
        self, path: Path, pack: Callable[[bytes], bytes]
    ) -> None:
        """Damage in the compressed data is named as such; the frames of the parts before it are kept."""
        part = bytearray(pack(os.urandom(200_000)))
        part[50_000:50_040] = bytes(40)
        part[-12:] = bytes(12)
        path.write_bytes(pack(MANY) + bytes(part))
        frames, _, fault = read(path)
        path.write_bytes(MANY)
        assert frames[: len(read(path)[0])] == read(path)[0]
        assert "the compression is corrupt" in fault or "a record claims" in fault

    def test_what_is_inside_must_be_a_capture(self, path: Path, pack: Callable[[bytes], bytes]) -> None:
        """A compressed file of something else is refused."""
        path.write_bytes(pack(b"hello, world, this is no capture"))
        assert "begins with 68 65 6c 6c" in read(path)[2]


def test_corrupt_gzip_is_named(path: Path) -> None:
    """A wrong checksum at the end of a gzip file is a fault, after all its frames."""
    octets = bytearray(gzip.compress(MANY))
    octets[-6] ^= 1
    path.write_bytes(octets)
    frames, _, fault = read(path)
    assert len(frames) == 4000
    assert fault.startswith(f"{path}, byte {len(octets)}: the compression is corrupt (CRC check failed")


def test_a_file_that_grows_is_read_to_the_end_it_had(path: Path) -> None:
    """Records written after the file was opened are not waited for; what was there is read once."""
    path.write_bytes(MANY)
    file = CaptureFile(path, chunk_octets=5000)
    seen = 0
    for chunk in file.frames():
        seen += len(chunk)
        with path.open("ab") as more:
            more.write(classic([ONE] * 50)[24:])
    assert (seen, file.torn) == (4000, (0, 0))
    assert file.read_octets == len(MANY)


def test_a_pipe_is_read_as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard input gives each frame as soon as it is there, byte by byte if need be."""
    reader, writer = os.pipe()
    octets = classic([ONE, TWO])
    with os.fdopen(reader, "rb") as ours:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(ours))
        os.write(writer, octets[: 24 + 16 + 60 + 3])
        file = CaptureFile(Path("-"))
        frames = file.frames()
        assert len(next(frames)) == 1
        os.write(writer, octets[24 + 16 + 60 + 3 :])
        os.close(writer)
        assert [len(chunk) for chunk in frames] == [1]
        assert (file.name, file.torn) == ("stdin", (0, 0))


def test_a_slow_header_on_a_pipe_is_waited_for(tmp_path: Path) -> None:
    """A capture whose first bytes come one at a time through a named pipe is read whole."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    program = "import os,sys; f=os.open(sys.argv[1],os.O_WRONLY); [os.write(f,bytes([b])) for b in sys.stdin.buffer.read()]"
    with subprocess.Popen([sys.executable, "-c", program, str(fifo)], stdin=subprocess.PIPE) as writer:
        assert writer.stdin
        writer.stdin.write(classic([ONE, TWO]))
        writer.stdin.close()
        assert read(fifo) == (plain(ONE, TWO), {}, "")


def test_what_cannot_be_opened_says_how_to_mend_it(tmp_path: Path) -> None:
    """A missing file and a directory are named, with what to give instead."""
    for path, words in ((tmp_path / "none", "there is no such file"), (tmp_path, "is a folder")):
        with pytest.raises(CaptureError, match=words):
            list(CaptureFile(path).frames())


def test_an_unreadable_file_says_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file without permission is named, with advice."""
    path.write_bytes(MANY)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(CaptureError, match=r"cannot be opened \(Permission denied\); check its permissions"):
        list(CaptureFile(path).frames())


def test_a_disk_that_fails_is_a_fault_after_what_came_before(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An I/O error in the middle of a file is named with its byte; the frames before it are kept."""
    path.write_bytes(MANY)
    monkeypatch.setattr(files_module, "_decompressed", lambda source: _Failing(source).readinto)
    seen = 0
    file = CaptureFile(path, chunk_octets=10_000)
    chunks = file.frames()
    with pytest.raises(CaptureError, match=r"cannot be read on at byte 50000: Input/output error"):
        for chunk in chunks:
            seen += len(chunk)
    assert seen == len(_whole(MANY[:50_000]))


class _Failing:
    def __init__(self, source: io.RawIOBase) -> None:
        self.source, self.left = source, 50_000

    def readinto(self, room: memoryview) -> int:
        if not self.left:
            raise OSError(5, "Input/output error")
        got = self.source.readinto(room[: min(self.left, 1000)]) or 0
        self.left -= got
        return got


def _whole(octets: bytes) -> list[int]:
    return _by_hand(octets)


def test_memory_does_not_grow_with_the_file(path: Path) -> None:
    """Every chunk of a file of short frames lies in one buffer of the first size."""
    path.write_bytes(MANY)
    sizes = {chunk.data.base.nbytes for chunk in CaptureFile(path, chunk_octets=1 << 19).frames()}  # type: ignore[union-attr]
    assert sizes == {(1 << 19) + 128}


def test_a_zstd_file_may_begin_with_a_frame_that_is_skipped(path: Path) -> None:
    """pzstd writes the size of what follows before it: RFC 8878 calls such frames skippable."""
    for number in (0x50, 0x5F):
        skipped = bytes([number]) + b"\x2a\x4d\x18\x04\0\0\0abcd"
        path.write_bytes(skipped + zstandard.compress(MANY))
        assert sum(map(len, CaptureFile(path).frames())) == len(_whole(MANY))


def test_a_zstd_window_that_takes_too_much_memory_is_named(path: Path) -> None:
    """A window over 128 MiB is refused for what it is, with how to go on: the file is not corrupt."""
    wide = zstandard.ZstdCompressionParameters.from_level(1, window_log=30, enable_ldm=True)
    packer = zstandard.ZstdCompressor(compression_params=wide).compressobj()
    path.write_bytes(packer.compress(MANY) + packer.flush())
    with pytest.raises(
        DecodeError, match=r"window is over 128 MiB; unpack it beforehand \(zstd -d --long=31\)"
    ):
        list(CaptureFile(path).frames())


def test_the_file_is_closed_when_reading_is_given_up(path: Path) -> None:
    """Closing the generator closes the file."""
    path.write_bytes(MANY)
    before = len(list(Path("/proc/self/fd").iterdir()))
    file = CaptureFile(path, chunk_octets=1000)
    chunks = file.frames()
    next(chunks)
    assert len(list(Path("/proc/self/fd").iterdir())) == before + 1
    chunks.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# any octets -----------------------------------------------------------------------------------------------------------


@settings(max_examples=150)
@given(
    st.binary(max_size=300),
    st.sampled_from([b"", classic([]), classic([], order=">"), HEAD, HEAD + GOOD, section(">")]),
)
def test_any_octets_keep_the_readers_promise(octets: bytes, head: bytes) -> None:
    """See tests/fuzz/fuzz_files.py."""
    fuzz_files.target(head + octets)


SAMPLES = (
    classic([ONE, TWO, b"", THREE]),
    classic([ONE, TWO], order=">", magic=0xA1B2CD34),
    HEAD
    + GOOD
    + block(3, struct.pack("<I", 60) + ONE)
    + section(">")
    + interface(order=">")
    + enhanced(TWO, 7, order=">"),
)


@settings(max_examples=200)
@given(
    st.sampled_from(SAMPLES),
    st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), max_size=3),
    st.integers(0, 2**16),
)
def test_damaged_captures_keep_the_readers_promise(
    sample: bytes, changes: list[tuple[int, int]], cut: int
) -> None:
    """Captures with octets changed and the end cut off keep the promise of tests/fuzz/fuzz_files.py, too."""
    damaged = bytearray(sample)
    for at, value in changes:
        damaged[at % len(damaged)] = value
    fuzz_files.target(bytes(damaged[: len(damaged) - cut % 40]))

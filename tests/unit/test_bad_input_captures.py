"""Captures that are wrong in every way, through the real command: said clearly, counted, and nothing before them lost."""

from __future__ import annotations

import gzip
import json
import lzma
import os
import struct
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

from tests.tools.captures import classic, enhanced, interface, section
from tests.tools.program import SECONDS, Outcome, command, environment, fit_to_be_seen, sekisho
from tests.tools.truth import BEGIN_S, Shape, traffic

MADE = traffic(Shape(packets=1500, sessions=60))
GOOD = MADE.pcap()
TRUTH = MADE.truth
ONE = MADE.frames[0].tobytes()
NOTHING = {"flows": 0, "octets_out": 0, "octets_in": 0}


def replay(folder: Path, *files: str | Path, **more: Any) -> tuple[Outcome, dict[str, Any]]:
    """A replay with its summary as JSON."""
    outcome = sekisho(
        "replay", "--json", "--local", "10.0.0.0/8", "--local", "2001:db8:1::/48", *files, home=folder, **more
    )
    return outcome, json.loads(outcome.out)


def octets_out(document: dict[str, Any]) -> int:
    """Octets out that are decided; fails where the account leaves any unexplained."""
    account = document["account"]
    assert (account["residue"], account["sealed residue"]) == (NOTHING, NOTHING)
    assert account["decided"] == account["captured"]
    return int(account["decided"]["octets_out"])


def lost(document: dict[str, Any]) -> dict[str, int]:
    """Frames lost by reason."""
    return {reason: amounts["frames"] for reason, amounts in document["account"]["lost_frames"].items()}


UNREADABLE = {
    "empty.pcap": (b"", ": is empty; expected a pcap or pcapng capture"),
    "text.pcap": (
        b"hello, this is no capture",
        ": begins with 68 65 6c 6c; expected a pcap or pcapng capture, plain or compressed by gzip, xz or zstd; "
        "convert it (editcap -F pcapng) or leave it out",
    ),
    "half.pcap": (
        GOOD[:11],
        ", byte 11: ends inside the file header, after 11 of 24 octets; copy the file again",
    ),
    "half.pcapng": (
        section()[:20],
        ", byte 20: ends inside the first section header, after 20 octets; copy the file again",
    ),
    "half.zst": (
        zstandard.compress(GOOD)[:-2000],
        ": its compression is cut off before anything came out of it; copy the file again",
    ),
}
"""Name -> (octets, what is said behind the name)."""
ABSURD = f", byte {len(GOOD)}: a record claims 4294967295 captured octets; expected at most 262144; what came before it was read"
BROKEN_OFF = {
    "absurd.pcap": (GOOD + struct.pack("<IIII", BEGIN_S, 0, 2**32 - 1, 2**32 - 1) + bytes(64), ABSURD),
    "noise.pcap": (GOOD + b"\xff" * 64, ABSURD),
}


def faults_of(
    folder: Path, files: Mapping[str, tuple[bytes, str]], *more: str
) -> tuple[int, dict[str, Any], set[str]]:
    """Exit code, summary and fault lines of one replay of all of them."""
    for name, (octets, _) in files.items():
        (folder / name).write_bytes(octets)
    outcome, document = replay(folder, *files, *more)
    return outcome.code, document, set(document["faults"]["pcap"].splitlines())


def test_what_cannot_be_read_at_all_is_said_with_what_was_expected(tmp_path: Path) -> None:
    """Exit code 1, one line for each that names it and how to mend it; the good capture beside them is read all the same."""
    (tmp_path / "good.pcap").write_bytes(GOOD)
    code, document, said = faults_of(tmp_path, UNREADABLE, "good.pcap")
    assert said == {name + words for name, (_, words) in UNREADABLE.items()}
    assert (code, octets_out(document)) == (1, TRUTH.octets_out)


def test_what_breaks_off_keeps_what_came_before(tmp_path: Path) -> None:
    """All whole records before the fault are decided, the fault is named with its byte, and the exit code is 1."""
    code, document, said = faults_of(tmp_path, BROKEN_OFF)
    assert said == {name + words for name, (_, words) in BROKEN_OFF.items()}
    assert (code, octets_out(document)) == (1, 2 * TRUTH.octets_out)


def test_corrupt_compression_is_a_fault_and_no_crash(tmp_path: Path) -> None:
    """Fifty octets overwritten in the middle of each kind: exit code 1, each named, and what came out first is decided."""
    files = {}
    for name, pack in (("bad.gz", gzip.compress), ("bad.xz", lzma.compress), ("bad.zst", zstandard.compress)):
        packed = bytearray(pack(GOOD))
        packed[len(packed) // 2 : len(packed) // 2 + 50] = bytes(50)
        files[name] = (bytes(packed), "")
    code, document, said = faults_of(tmp_path, files)
    assert (code, {line.split(",")[0].split(":")[0] for line in said}) == (1, set(files))
    assert sum("the compression is corrupt" in line and "copy the file again" in line for line in said) >= 2
    assert 0 <= octets_out(document) < 3 * TRUTH.octets_out


def test_a_file_that_ends_in_the_middle_is_read_and_the_torn_record_counted(tmp_path: Path) -> None:
    """A capture that is still written, or was cut, is no fault: what is whole is decided, the rest is in the account."""
    (tmp_path / "cut.pcap").write_bytes(GOOD[:-10])
    outcome, document = replay(tmp_path, "cut.pcap")
    assert (outcome.code, document["faults"], lost(document)) == (0, {}, {"torn_tail": 1})


def test_time_that_runs_backwards_loses_no_octet(tmp_path: Path) -> None:
    """Records out of order by minutes are all decided."""
    times = [(BEGIN_S + at, 0) for at in (600, 0, 300, 299, 900)]
    (tmp_path / "back.pcap").write_bytes(classic([ONE] * 5, times=times))
    outcome, document = replay(tmp_path, "back.pcap")
    length = octets_out(document) + document["account"]["decided"]["octets_in"]
    (tmp_path / "one.pcap").write_bytes(classic([ONE]))
    _, one = replay(tmp_path, "one.pcap")
    assert length == 5 * (octets_out(one) + one["account"]["decided"]["octets_in"])
    assert outcome.code == 0


def test_time_up_to_2106_is_read_and_time_beyond_any_clock_is_counted(tmp_path: Path) -> None:
    """The last second of a 32-bit clock is decided and archived; a time that no clock can hold is a lost frame."""
    (tmp_path / "late.pcap").write_bytes(classic([ONE] * 2, times=[(2**32 - 1, 0), (2**32 - 1, 999_999)]))
    (tmp_path / "never.pcapng").write_bytes(section() + interface() + enhanced(ONE, 2**64 - 1))
    outcome, document = replay(tmp_path, "late.pcap", "never.pcapng", "--state", "kept")
    assert (outcome.code, lost(document)) == (0, {"time_out_of_range": 1})
    assert document["account"]["decided"]["flows"] == 1
    assert octets_out(document) + document["account"]["decided"]["octets_in"] > 0
    shown = sekisho("flows", "--since", "2000-01-01", "--archive", "kept/archive", "--json", home=tmp_path)
    assert (shown.code, len(shown.out.splitlines())) == (0, 1)


def test_what_cannot_be_opened_says_why(tmp_path: Path) -> None:
    """Missing, a folder, symbolic links in a circle, a path through a file: each in one line, and the good one is read."""
    (tmp_path / "good.pcap").write_bytes(GOOD)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "folder").mkdir()
    outcome = sekisho(
        "replay", "--quiet", "none", "folder", "loop", "good.pcap/x", "/dev/null", "good.pcap", home=tmp_path
    )
    assert outcome.code == 1
    assert sorted(outcome.said) == [
        "sekisho: /dev/null: is empty; expected a pcap or pcapng capture",
        "sekisho: folder: holds no capture; name its sub-folders or other files by themselves",
        "sekisho: good.pcap/x: cannot be opened (Not a directory); check the path",
        "sekisho: loop: cannot be opened (Too many levels of symbolic links); check the path",
        "sekisho: none: there is no such file; give the path of a capture",
    ]
    assert "not explained 0 octets" in outcome.out


def test_a_capture_that_may_not_be_read_says_so(tmp_path: Path) -> None:
    """Closed by its mode, or in a folder that is: exit code 1, and the capture beside it is read."""
    (tmp_path / "closed.pcap").write_bytes(GOOD)
    (tmp_path / "closed.pcap").chmod(0)
    (tmp_path / "cellar").mkdir()
    (tmp_path / "cellar" / "in.pcap").write_bytes(GOOD)
    (tmp_path / "cellar").chmod(0)
    (tmp_path / "good.pcap").write_bytes(GOOD)
    try:
        outcome, document = replay(
            tmp_path, "closed.pcap", "cellar/in.pcap", "good.pcap", without_rights=True
        )
    finally:
        (tmp_path / "cellar").chmod(0o700)
    assert (outcome.code, octets_out(document)) == (1, TRUTH.octets_out)
    assert sorted(document["faults"]["pcap"].splitlines()) == [
        "cellar/in.pcap: cannot be opened (Permission denied); check its permissions",
        "closed.pcap: cannot be opened (Permission denied); check its permissions",
    ]


def test_a_file_that_grows_while_it_is_read_ends(tmp_path: Path) -> None:
    """Records that are written while the replay runs do not keep it from ending, and whole ones alone are counted."""
    file = tmp_path / "growing.pcap"
    file.write_bytes(GOOD)
    with subprocess.Popen(
        command("replay", "--json", "growing.pcap", state_dir=tmp_path / "state"),
        cwd=tmp_path,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as running:
        with file.open("ab", buffering=0) as more:
            while running.poll() is None and file.stat().st_size < 2**24:
                more.write(classic([ONE] * 50)[24:])
                if running.poll() is None:
                    time.sleep(0.001)
        out, err = running.communicate(timeout=SECONDS)
    outcome = Outcome(running.returncode, out.decode(), err.decode())
    fit_to_be_seen(outcome)
    assert outcome.code == 0
    assert set(lost(json.loads(outcome.out))) <= {"torn_tail"}
    octets_out(json.loads(outcome.out))


def test_a_hundred_thousand_destinations_a_second_in_a_capture(tmp_path: Path) -> None:
    """300,000 SYNs to as many addresses within three seconds: every one is counted, in bounded memory."""
    count = 300_000
    record = np.zeros((count, 16 + 54), np.uint8)
    number = np.arange(count)
    head = np.stack(
        [BEGIN_S + number // 100_000, number % 100_000 * 10, np.full(count, 54), np.full(count, 54)], axis=1
    )
    record[:, :16] = head.astype("<u4").view(np.uint8).reshape(count, 16)
    frame = bytes(12) + struct.pack(
        ">HBBHHHBBH4s4s", 0x0800, 0x45, 0, 40, 0, 0, 64, 6, 0, bytes([10, 0, 0, 1]), bytes(4)
    )
    frame += struct.pack(">HHIIBBHHH", 40_000, 443, 0, 0, 0x50, 2, 0, 0, 0)
    record[:, 16:] = np.frombuffer(frame, np.uint8)
    record[:, 16 + 30 : 16 + 34] = (20 << 24 | number).astype(">u4").view(np.uint8).reshape(count, 4)
    (tmp_path / "scan.pcap").write_bytes(GOOD[:24] + record.tobytes())
    (tmp_path / "policy.yaml").write_text(
        "stores: [{id: ehr, categories: [personal_health], recognise: {addresses: [10.0.0.1]}}]\n"
    )
    line = command("replay", "--json", "--policy", "policy.yaml", "scan.pcap", state_dir=tmp_path / "state")
    with (tmp_path / "out").open("wb") as out, (tmp_path / "err").open("wb") as err:
        started = subprocess.Popen(line, cwd=tmp_path, env=environment(tmp_path), stdout=out, stderr=err)
        _, status, used = os.wait4(started.pid, 0)
        started.returncode = os.waitstatus_to_exitcode(status)
    document = json.loads((tmp_path / "out").read_text())
    assert (started.returncode, octets_out(document)) == (0, count * 40)
    assert document["account"]["captured"]["flows"] == count
    assert used.ru_maxrss < 900_000, f"{used.ru_maxrss} KiB"

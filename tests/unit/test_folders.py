"""Folders of captures: which files are taken, in what order, and what is said of those left out."""

from __future__ import annotations

import gzip
import json
import lzma
import threading
from pathlib import Path

import pytest
import zstandard

from agent.core.accounts import Accounts
from agent.core.errors import CaptureError
from agent.core.stages import Context
from collectors.captures.folders import choose
from collectors.pcap import Pcap, Settings
from tests.tools.captures import classic, enhanced, interface, section
from tests.tools.encapsulated import TUNNELS, U4, E
from tests.tools.program import sekisho
from tests.tools.truth import BEGIN_S

FRAME = bytes(E / U4)


def capture(second: int, frames: int = 1) -> bytes:
    """A capture whose first frame has this second."""
    return classic([FRAME] * frames, times=[(BEGIN_S + second + i, 0) for i in range(frames)])


def fill(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(exist_ok=True)
    for name, octets in files.items():
        (folder / name).write_bytes(octets)


def collector(*paths: Path, tunnels: str = "outer") -> Pcap:
    settings = Settings.model_validate({"files": paths, "local": ["192.0.2.0/24"], "tunnels": tunnels})
    return settings.build(Context(Accounts(), Path()))


def octets(pcap: Pcap) -> int:
    """Octets of all rows."""
    batches = list(pcap.collect(threading.Event()))
    return sum(int(batch["octets_out"].sum() + batch["octets_in"].sum()) for batch in batches)


def test_a_folder_stands_for_its_captures(tmp_path: Path) -> None:
    """Plain, compressed, numbered and nameless captures are taken, numbers in order; the rest is left out with a reason."""
    folder = tmp_path / "ring"
    fill(
        folder,
        {
            "cap.pcap10": capture(10),
            "cap.pcap2": capture(2),
            "cap.pcap.1.gz": gzip.compress(capture(1)),
            "eve.pcapng.xz": lzma.compress(section() + interface() + enhanced(FRAME, 0)),
            "nameless": zstandard.compress(capture(3)),
            "torn.cap": b"\xd4\xc3\xb2\xa1",
            "notes.txt": b"what was captured where",
            "cap.pcap11": b"",
            ".cap.pcap12.swp": capture(12),
        },
    )
    (folder / "older").mkdir()
    (folder / "gone").symlink_to("nowhere")
    chosen = choose([Path("-"), folder, tmp_path / "absent"])
    names = ["cap.pcap2", "cap.pcap10", "cap.pcap.1.gz", "eve.pcapng.xz", "nameless", "torn.cap"]
    assert [path.name for path in chosen.files] == ["-", *names, "absent"]
    assert {path.name: reason for path, reason in chosen.left_out.items()} == {
        "notes.txt": "is no capture by its name or content",
        "cap.pcap11": "is empty",
        ".cap.pcap12.swp": "is hidden",
        "older": "is a folder; name it by itself to read it",
        "gone": "is no plain file",
    }
    assert chosen.faults == ()


def test_a_folder_without_captures_is_a_fault_of_its_own(tmp_path: Path) -> None:
    """What else was named is read first; then the fault names the folder."""
    (tmp_path / "bare").mkdir()
    good = tmp_path / "good.pcap"
    good.write_bytes(capture(0))
    pcap = collector(tmp_path / "bare", good)
    seen = 0
    with pytest.raises(CaptureError, match="bare: holds no capture; name its sub-folders"):
        for batch in pcap.collect(threading.Event()):
            seen += len(batch)
    assert seen == 1


def test_a_folder_is_read_in_order_of_time(tmp_path: Path) -> None:
    """Whatever the names say, rows come in the order of the packets' times, and all of them come."""
    folder = tmp_path / "ring"
    fill(folder, {"a.pcap": capture(4000), "b.pcap.gz": gzip.compress(capture(0)), "c.pcap1": capture(2000)})
    pcap = collector(folder)
    starts = [int(at) for batch in pcap.collect(threading.Event()) for at in batch["start_ns"]]
    assert [at // 10**9 - BEGIN_S for at in starts] == [0, 2000, 4000]
    assert pcap.progress() is not None


def test_a_capture_that_is_being_written_is_read_to_its_end_at_opening(tmp_path: Path) -> None:
    """A file that grows while it is read gives what it held when it was opened; a torn last record is counted."""
    folder = tmp_path / "ring"
    whole = capture(0, frames=50)
    fill(folder, {"live.pcap": whole[:-30]})
    pcap = collector(folder)
    batches = pcap.collect(threading.Event())
    first = next(batches)
    with (folder / "live.pcap").open("ab") as file:
        file.write(whole[-30:] + capture(60, frames=50)[24:])
    rows = [first, *batches]
    assert sum(int(batch["packets_out"].sum() + batch["packets_in"].sum()) for batch in rows) == 49


@pytest.mark.parametrize(("tunnels", "expected", "unopened"), [("outer", 0, 0), ("inner", 1, 1)])
def test_the_setting_chooses_outer_or_inner(
    tmp_path: Path, tunnels: str, expected: int, unopened: int
) -> None:
    """``tunnels`` counts the packets that leave the host or those inside; what could not be opened is told."""
    broken = bytes(E / TUNNELS["VXLAN"])
    broken = broken[:42] + b"\0" + broken[43:]
    frames = [bytes(E / packet) for packet in TUNNELS.values()]
    path = tmp_path / "tunnels.pcap"
    path.write_bytes(classic([*frames, broken]))
    pcap = collector(path, tunnels=tunnels)
    inside = sum(128 if frame.endswith(bytes(U4)) else 148 for frame in frames)
    outside = sum(len(frame) - 14 for frame in frames)
    assert octets(pcap) == (inside if expected else outside) + len(broken) - 14
    assert pcap.seen.unopened == unopened


def test_a_ring_whose_oldest_file_goes_meanwhile_is_read_on(tmp_path: Path) -> None:
    """Found in a folder and gone when its turn comes: left out with the reason, all others counted. A file that
    somebody named is still missed."""
    folder = tmp_path / "ring"
    fill(folder, {f"c.pcap{n}": capture(n * 1000) for n in range(4)})
    pcap = collector(folder)
    batches = pcap.collect(threading.Event())
    seen = len(next(batches))
    (folder / "c.pcap2").unlink()
    seen += sum(map(len, batches))
    assert (seen, pcap.left_out) == (3, {folder / "c.pcap2": "was removed before it was read"})
    named = collector(folder, tmp_path / "absent.pcap")
    with pytest.raises(CaptureError, match=r"absent\.pcap: there is no such file"):
        list(named.collect(threading.Event()))


def test_no_file_name_holds_the_reader_up(tmp_path: Path) -> None:
    """A name as long as a name may be, made to be tried in many ways, is told at once from a capture's.

    Were it not, this test would never end: ways to try it double with every sign.
    """
    names = [".pcap" + sign * (240 // len(sign)) + "!" for sign in ("_a", "_-", "-", ".pcap")]
    fill(tmp_path / "ring", {"x" + name: b"no capture" for name in names} | {"a.pcap_--_1": capture(0)})
    chosen = choose([tmp_path / "ring"])
    assert [path.name for path in chosen.files] == ["a.pcap_--_1"]
    assert len(chosen.left_out) == len(names)


@pytest.mark.parametrize(("flags", "octets_in"), [([], 128 + 50), (["--tunnels", "inner"], 128)])
def test_replay_counts_outer_or_inner_as_it_is_told(tmp_path: Path, flags: list[str], octets_in: int) -> None:
    """``--tunnels`` of replay chooses; the same choice in the settings is the default, and the flag wins over it."""
    (tmp_path / "t.pcap").write_bytes(classic([bytes(E / TUNNELS["VXLAN"])]))
    ours = "--local=198.51.100.0/24", "--local=203.0.113.2"
    plain = sekisho("replay", "--json", *ours, *flags, "t.pcap", home=tmp_path)
    told = json.loads(plain.out)
    assert told["account"]["captured"]["octets_in"] == octets_in
    assert {line["network"] for line in told["destinations"]} <= {None}
    settings = tmp_path / "sekisho.yaml"
    settings.write_text("collectors: {pcap: {files: [other.pcap], tunnels: inner}}\n")
    for given, expected in (([], 128), (["--tunnels", "outer"], 128 + 50)):
        again = sekisho("replay", "--json", *ours, *given, "t.pcap", home=tmp_path)
        assert json.loads(again.out)["account"]["captured"]["octets_in"] == expected


def test_one_state_counts_outer_or_inner_not_both(tmp_path: Path) -> None:
    """The same capture looked at in another way would count twice in one state: refused, with what to do."""
    (tmp_path / "t.pcap").write_bytes(classic([bytes(E / TUNNELS["VXLAN"])]))
    assert sekisho("replay", "--quiet", "--state=kept", "t.pcap", home=tmp_path).code == 0
    again = sekisho("replay", "--quiet", "--state=kept", "--tunnels=inner", "t.pcap", home=tmp_path)
    assert again.code == 1
    assert "name another folder with --state" in again.err


def test_replay_takes_a_folder_and_says_what_it_left_out(tmp_path: Path) -> None:
    """The command reads a rotating folder as one, names what it left out, and ends well."""
    fill(tmp_path / "ring", {"cap.pcap1": capture(1), "cap.pcap0": capture(0), "index.txt": b"no capture"})
    outcome = sekisho("replay", "--quiet", "ring", home=tmp_path)
    assert outcome.code == 0
    assert "2 flows" in outcome.out
    assert "left out: ring/index.txt is no capture by its name or content" in outcome.out

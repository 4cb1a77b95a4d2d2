"""The tools people would use instead: how each is called, what its version is, and whether its totals are true.

What is held to the truth is what each claims to count. Where its records are not flows by its own choice, they are
brought together by key before they are counted, and the table says so.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.bench.inputs import CACHE
from tests.bench.measure import Side, Used
from tests.tools.truth import Truth

APT: Final = "apt-get install -y --no-install-recommends softflowd nfdump argus-server argus-client pmacct"
NFSTREAM: Final = CACHE / "nfstream"
_NFSTREAM: Final = """
import sys
from nfstream import NFStreamer
if __name__ == "__main__":
    sums = [0, 0, 0]
    for flow in NFStreamer(source=sys.argv[1], n_dissections=0, statistical_analysis=False, idle_timeout=300,
                           n_meters=1, accounting_mode=1):
        sums = [sums[0] + 1, sums[1] + flow.bidirectional_packets, sums[2] + flow.bidirectional_bytes]
    print(*sums)
"""
_PMACCTD: Final = """
daemonize: false
pcap_savefile: {file}
plugins: print
aggregate: src_host, dst_host, src_port, dst_port, proto
print_output: csv
print_output_file: {{fresh}}/out.csv
print_refresh_time: 86400
print_cache_entries: 131071
print_output_file_append: true
plugin_pipe_size: 536870912
plugin_buffer_size: 1048576
"""
FEW_SESSIONS: Final = 100_000
Check = Callable[[Used, Path], str]


def peers(file: Path, truth: Truth) -> tuple[list[Side], list[str]]:
    """The peers that are at hand, and a sentence for each that is not."""
    made: tuple[Callable[[Path, Truth], Side | str], ...] = (_softflowd, _nfpcapd, _argus, _pmacctd)
    sides, missing = [], []
    if truth.sessions <= FEW_SESSIONS:
        made = (*made, _nfstream)
    else:
        missing.append("nfstream is compared with few flows only: with these it takes half a minute a run")
    for make in made:
        found = make(file, truth)
        if isinstance(found, Side):
            sides.append(found)
        else:
            missing.append(found)
    return sides, missing


def _softflowd(file: Path, truth: Truth) -> Side | str:
    if not shutil.which("softflowd"):
        return f"softflowd is not installed: {APT}"

    def check(used: Used, _fresh: Path) -> str:
        packets = _number(r"Packets processed: (\d+)", used.out)
        flows = 2 * _number(r"Flows expired: (\d+)", used.out)  # both ways in one; with v5 it exports no IPv6
        octets = sum(
            int(n)
            for n in re.findall(
                r"^\s+\w+ \(\d+\):\s+(\d+)", used.out.partition("Per-protocol")[2], re.MULTILINE
            )
        )
        return _wrong(truth, packets, octets, flows)

    return Side(
        "softflowd -6",
        ["softflowd", "-6", "-d", "-m", "2000000", "-r", str(file)],
        check,
        f"{_version('softflowd', '-h')}; -6 -d -m 2000000, exporting nowhere",
    )


def _nfpcapd(file: Path, truth: Truth) -> Side | str:
    if not shutil.which("nfpcapd"):
        return f"nfpcapd is not installed: {APT}"

    def check(_used: Used, fresh: Path) -> str:
        said = _run(["nfdump", "-R", str(fresh), "-I"])
        packets, octets = (_number(rf"^{name}: (\d+)", said) for name in ("Packets", "Bytes"))
        # A datagram from or to port 53 is a record by itself.
        by_key = [
            "nfdump",
            "-R",
            str(fresh),
            "-q",
            "-A",
            "proto,srcip,srcport,dstip,dstport",
            "-o",
            "fmt:%pr",
        ]
        return _wrong(
            truth, packets, octets, len(re.findall(r"^\s*(?:TCP|UDP)\b", _run(by_key), re.MULTILINE))
        )

    command = ["nfpcapd", "-r", str(file), "-w", "{fresh}"]
    settings = "-r -w, as it comes; a record for each datagram of port 53, counted by key"
    return Side("nfpcapd", command, check, f"{_version('nfpcapd', '-V')}; {settings}")


def _argus(file: Path, truth: Truth) -> Side | str:
    if not shutil.which("argus") or not shutil.which("racount"):
        return f"argus is not installed: {APT}"

    def check(_used: Used, fresh: Path) -> str:
        # Its sum has a record more than there are flows: the first one of the file.
        said = _run(["racount", "-r", str(fresh / "out"), "-M", "proto", "-", "not", "man"])
        lines = re.findall(r"^\s+(?:tcp|udp)\s+(\d+)\s+(\d+)\s+\d+\s+\d+\s+(\d+)", said, re.MULTILINE)
        records, packets, octets = (sum(int(line[i]) for line in lines) for i in range(3))
        # It counts octets of frames, and one record for both ways.
        return _wrong(truth, packets, octets - (truth.frame_octets - truth.octets), 2 * records)

    command = ["argus", "-r", str(file), "-w", "{fresh}/out", "-S", "300"]
    return Side("argus", command, check, f"{_version('argus', '-h')}; -S 300")


def _pmacctd(file: Path, truth: Truth) -> Side | str:
    if not shutil.which("pmacctd"):
        return f"pmacctd is not installed: {APT}"

    def check(_used: Used, fresh: Path) -> str:
        packets = octets = flows = 0
        with (fresh / "out.csv").open() as lines:
            head = next(lines).strip().split(",")
            at_packets, at_octets = head.index("PACKETS"), head.index("BYTES")
            for line in lines:
                words = line.split(",")
                if words[0] == head[0]:
                    continue
                packets += int(words[at_packets])
                octets += int(words[at_octets])
                flows += 1
        return _wrong(truth, packets, octets, flows)

    script = f"cat > {{fresh}}/pmacctd.conf <<'END'\n{_PMACCTD.format(file=file)}\nEND\nexec pmacctd -f {{fresh}}/pmacctd.conf"
    settings = "print plugin to CSV, 131,071 cache entries (with more it took gigabytes)"
    return Side("pmacctd", ["sh", "-c", script], check, f"{_version('pmacctd', '-V')}; {settings}")


def _nfstream(file: Path, truth: Truth) -> Side | str:
    python = NFSTREAM / "bin/python"
    if not (NFSTREAM / ".ready").exists():
        done = [
            [sys.executable, "-m", "venv", str(NFSTREAM)],
            [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "nfstream"],
        ]
        for command in done:
            if subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode:
                return f"nfstream is not installed: {' '.join(map(str, command[1:]))} failed"
        (NFSTREAM / ".ready").touch()

    def check(used: Used, _fresh: Path) -> str:
        told = used.out.splitlines()[-1].split()
        flows, packets, octets = map(int, told)
        wrong = _wrong(truth, packets, octets, 2 * flows)
        return f"{wrong}: it leaves out IPv6 packets that the snap length cut" if wrong else ""

    said = _run([str(python), "-m", "pip", "show", "nfstream"])
    version = _text(r"^Version: (\S+)", said)
    return Side("nfstream", [str(python), "-c", _NFSTREAM, str(file)], check, f"{version}; no DPI, 1 meter")


def _wrong(truth: Truth, packets: int, octets: int, flows: int) -> str:
    """What differs from the truth; ``flows`` are one-way."""
    told = (
        ("packets", packets, truth.packets),
        ("octets", octets, truth.octets),
        ("flows", flows, 2 * truth.sessions),
    )
    return ", ".join(f"{mine:,} {name} for {true:,}" for name, mine, true in told if mine != true)


def _number(pattern: str, text: str) -> int:
    return int(_text(pattern, text) or -1)


def _text(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    return found[1] if found else ""


def _version(program: str, flag: str) -> str:
    return _text(r"(\d+\.\d+[\w.]*\w)", _run([program, flag])) or "version unknown"


def _run(command: list[str]) -> str:
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, stdin=subprocess.DEVNULL
    )
    return done.stdout

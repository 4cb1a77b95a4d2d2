"""Packets a second from a capture to flows, beside tcpdump's and softflowd's in the same run.

    python -m tests.bench.bench_pcap [PACKETS] [SESSIONS] [REPEATS]      # 2000000 25000 5

CPU seconds (user + system) of whole processes, imports included, the sides taking turns; medians. Each run of ours is
checked against the generator's truth. Peers that are not installed are left out.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.tools.truth import LOCAL, Truth, write_pcap

OURS = """
import sys, threading
from pathlib import Path
from agent.core.accounts import Accounts
from agent.core.stages import Context
from collectors.pcap import Settings
collector = Settings(files=(Path(sys.argv[1]),), local=sys.argv[2:]).build(Context(Accounts(), Path(".")))
flows = octets = packets = 0
for batch in collector.collect(threading.Event()):
    flows += int(batch["flows"].sum())
    octets += int(batch["octets_out"].sum() + batch["octets_in"].sum())
    packets += int(batch["packets_out"].sum() + batch["packets_in"].sum())
high = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(flows, octets, packets, int(high.split()[1]) // 1024)
"""
PEERS = {
    "tcpdump": ["tcpdump", "-r", "{file}", "-w", "/dev/null"],
    "softflowd -6": ["softflowd", "-6", "-r", "{file}", "-d"],
}


def cpu(command: list[str]) -> tuple[float, str]:
    """(CPU seconds, standard output) of a process."""
    before = os.times()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    after = os.times()
    return (
        after.children_user + after.children_system - before.children_user - before.children_system,
        done.stdout,
    )


def ours(file: Path, truth: Truth) -> tuple[float, int]:
    """(CPU seconds, MiB of memory at most) of our side, checked."""
    seconds, out = cpu([sys.executable, "-c", OURS, str(file), *LOCAL])
    flows, octets, packets, memory = map(int, out.split())
    if (flows, octets, packets) != (truth.sessions, truth.octets, truth.packets):
        raise SystemExit(f"wrong: {out} instead of {truth}")
    return seconds, memory


def parts(file: Path, packets: int) -> None:
    """What the file reader and the decoder take of it, inside one process."""
    from collectors.packets.decode import decode
    from collectors.packets.files import CaptureFile

    reading = decoding = 0.0
    mark = time.process_time()
    for frames in CaptureFile(file).frames():
        read = time.process_time()
        decode(frames.data, frames.starts, frames.captured, frames.length, frames.time_ns, frames.link)  # type: ignore[arg-type]
        done = time.process_time()
        reading, decoding, mark = reading + read - mark, decoding + done - read, done
    print(
        f"  reading {packets / reading / 1e6:6.2f} M packets/s, decoding {packets / decoding / 1e6:6.2f} M packets/s"
    )


def main(packets: int = 2_000_000, sessions: int = 25_000, repeats: int = 5) -> None:
    """Make the capture, let the sides take turns, print medians and ratios."""
    there = {name: command for name, command in PEERS.items() if shutil.which(command[0])}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bench.pcap"
        truth = write_pcap(file, packets=packets, sessions=sessions, destinations=700)
        took: dict[str, list[float]] = {"sekisho": [], **{name: [] for name in there}}
        memory = 0
        for _ in range(repeats):
            seconds, memory = ours(file, truth)
            took["sekisho"].append(seconds)
            for name, command in there.items():
                took[name].append(cpu([part.replace("{file}", str(file)) for part in command])[0])
        rate = {name: packets / statistics.median(seconds) / 1e6 for name, seconds in took.items()}
        print(f"{packets} packets, {sessions} flows, {file.stat().st_size >> 20} MiB; {repeats} runs; exact")
        for name, millions in rate.items():
            ratio = "" if name == "sekisho" else f"  sekisho does {rate['sekisho'] / millions:.2f} of it"
            print(f"  {name:14s} {millions:6.2f} M packets/s of CPU{ratio}")
        print(f"  memory of sekisho at most {memory} MiB")
        parts(file, packets)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

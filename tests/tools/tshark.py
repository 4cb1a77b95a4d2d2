"""What tshark reads in a capture: packets and octets of their IP layer, outermost or innermost."""

from __future__ import annotations

import functools
import shutil
import subprocess
from pathlib import Path

import pytest

_QUIET = (
    "ip.defragment:FALSE",
    "ipv6.defragment:FALSE",
    "tcp.desegment_tcp_streams:FALSE",
)
_AS = ("udp.port==8472,vxlan", "udp.port==4790,vxlan_gpe", "udp.port==3544,teredo")
_QUOTES = ("icmp", "icmpv6")
"""What follows these is the beginning of another packet, quoted."""


def needs_tshark() -> str:
    """Its path; skips the test where it is not installed."""
    path = shutil.which("tshark")
    if path is None:
        pytest.skip("tshark is not installed: apt-get install tshark")
    return path


def octets_by_frame(capture: Path, *, inner: bool) -> dict[int, int]:
    """Number of each frame that carries IP -> octets of the outermost, or innermost, IP packet in it."""
    return {number: sizes[-1 if inner else 0] for number, sizes in _read(capture).items()}


@functools.cache
def _read(capture: Path) -> dict[int, list[int]]:
    """Number of each frame that carries IP -> octets of each IP packet in it. One run of tshark for both questions."""
    command = [needs_tshark(), "-n", "-r", str(capture), "-T", "fields", "-E", "separator=/t"]
    for option in _QUIET:
        command += ["-o", option]
    for option in _AS:
        command += ["-d", option]
    for name in ("frame.number", "frame.protocols", "ip.len", "ipv6.plen"):
        command += ["-e", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    found = {}
    for line in done.stdout.splitlines():
        number, protocols, *lengths = line.split("\t")
        if sizes := _sizes(
            protocols.split(":"), *([int(n) for n in text.split(",") if n] for text in lengths)
        ):
            found[int(number)] = sizes
    return found


def _sizes(protocols: list[str], of_v4: list[int], of_v6: list[int]) -> list[int]:
    """Octets of each IP header's packet, from the outermost in."""
    sizes, left = [], {"ip": iter(of_v4), "ipv6": iter(of_v6)}
    for name in protocols:
        if name in _QUOTES:
            break
        if name in left:
            length = next(left[name], None)
            if length is None:
                break
            sizes.append(length + (40 if name == "ipv6" else 0))
    return sizes

"""Packets and octets of captures against tshark, a decoder by others: outer and inner, theirs and our own."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest

from agent.core.errors import DecodeError
from collectors.captures.files import CaptureFile
from collectors.packets.inner import decode_inner
from collectors.packets.odd import decode_any
from tests.tools.captures import classic
from tests.tools.encapsulated import LINKS, TUNNELS, E
from tests.tools.places import TESTDATA
from tests.tools.tshark import needs_tshark, octets_by_frame

CAPTURES = sorted((TESTDATA / "pcap").glob("*.pcap*")) if TESTDATA else []

DIFFERENT: dict[tuple[str, bool], tuple[int, int, str]] = {
    ("suricata-verify__truncated.pcap", False): (
        1,
        65_028 - 1516,
        "the header claims 65,028 octets of a frame that had 1530 on the wire: the wire counts",
    ),
    ("tcpdump__ipv4_invalid_total_length.pcap", False): (
        1,
        1,
        "the header claims one octet more than the frame had on the wire: the wire counts",
    ),
    ("tcpdump__ipv6_jumbogram_1.pcap", False): (
        1,
        40 - 65_576,
        "tshark's ipv6.plen is 0 for a jumbogram; its length is in the option",
    ),
    ("tcpdump__various_gre.pcap", True): (
        20,
        -720,
        "Cisco metadata (ethertype 8909) between GRE and IP is not known here: the outer packet counts",
    ),
    ("zeek__gtp1_gn_normal_incl_fragmentation.pcap", True): (
        40,
        -800,
        "the outer packet is a first fragment: tshark shows the inner header's length, which is not there in full",
    ),
}
"""(capture, inner) -> (frames that differ, tshark's octets less ours, reason); outer reasons hold for inner too."""


def octets_of(capture: Path, *, inner: bool) -> dict[int, int]:
    """Number of each frame that gave a packet -> its octets. Fails on anything but a fault of the file."""
    decode = functools.partial(decode_inner, decode_any) if inner else decode_any
    found: dict[int, int] = {}
    frames_before = 1
    try:
        for frames in CaptureFile(capture).frames():
            links = np.broadcast_to(np.asarray(frames.link), len(frames))
            for link in np.unique(links).tolist():
                rows = np.flatnonzero(links == link)
                part = decode(
                    frames.data,
                    frames.starts[rows],
                    frames.captured[rows],
                    frames.length[rows],
                    frames.time_ns[rows],
                    link,
                )
                numbers = (rows[part.order] + frames_before).tolist()
                found |= dict(zip(numbers, part.packets.octets.tolist(), strict=True))
            frames_before += len(frames)
    except DecodeError as fault:
        print(fault)
    return found


@pytest.mark.testdata
@pytest.mark.parametrize("inner", [False, True], ids=["outer", "inner"])
def test_captures_by_others_give_tsharks_packets_and_octets(inner: bool) -> None:
    """Each capture of the test data: the same frames carry IP, with the same octets, but for the differences explained."""
    needs_tshark()
    assert CAPTURES
    seen: dict[str, tuple[int, int]] = {}
    print(f"\n{'capture':62} {'packets':>8} {'octets':>10} {'tshark':>8} {'octets':>10}")
    for capture in CAPTURES:
        ours, theirs = octets_of(capture, inner=inner), octets_by_frame(capture, inner=inner)
        sums = sum(ours.values()), sum(theirs.values())
        different = [n for n in ours.keys() | theirs.keys() if ours.get(n) != theirs.get(n)]
        reason = _explained(capture.name, inner)[2] if different else ""
        print(f"{capture.name:62} {len(ours):8} {sums[0]:10} {len(theirs):8} {sums[1]:10}  {reason}")
        if different:
            seen[capture.name] = (len(different), sums[1] - sums[0])
    expected = {
        name: (frames, octets) for (name, of), (frames, octets, _) in DIFFERENT.items() if of <= inner
    }
    assert seen == expected


def _explained(name: str, inner: bool) -> tuple[int, int, str]:
    return DIFFERENT.get((name, inner)) or DIFFERENT.get((name, False)) or (0, 0, "NOT EXPLAINED")


OWN = LINKS | {name: (1, E / packet) for name, packet in TUNNELS.items()}
NOT_BY_TSHARK = {
    "Ethernet over MPLS, control word": "tshark shows such a pseudowire as data unless the label is configured",
    "MPLS alone": "tshark has no such link type in pcap files",
}
"""Name -> why tshark finds no IP there; scapy built the frame, so what is in it is known."""


def test_every_link_type_and_tunnel_gives_tsharks_octets(tmp_path: Path) -> None:
    """Captures made here, one for each link type and tunnel that docs/decoding.md names: outer and inner octets alike."""
    needs_tshark()
    by_link: dict[int, list[str]] = {}
    for name, (link, _) in OWN.items():
        by_link.setdefault(link, []).append(name)
    for link, names in by_link.items():
        path = tmp_path / f"{link}.pcap"
        path.write_bytes(classic([bytes(OWN[name][1]) for name in names], link=link))
        for inner in (False, True):
            ours = {names[n - 1]: octets for n, octets in octets_of(path, inner=inner).items()}
            theirs = {names[n - 1]: octets for n, octets in octets_by_frame(path, inner=inner).items()}
            assert list(ours) == names
            assert {name: ours[name] for name in names if name not in NOT_BY_TSHARK} == theirs

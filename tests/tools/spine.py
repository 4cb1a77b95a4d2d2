"""Captures of whole transfers: who sends how much to whom and for how long, as packets whose headers say so.

Segments are large, as a card that cuts them itself shows them (up to 60,000 octets at the IP layer), so that gigabytes
need few packets; frames hold headers only. Addresses are private and of documentation.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.core.address import parse

SEGMENT = 60_000
"""Octets of the largest packet, header included."""
HEADERS = 40
GAP_S = 9.0
"""The longest silence within a transfer: below the 15 s after which a flow is over."""
BEGIN_S = 1_763_679_600
"""2025-11-20 23:00 UTC: what lasts longer than an hour passes midnight."""
FRAME = 54


@dataclass(frozen=True, slots=True)
class Transfer:
    """One TCP flow. Octets are content; the other end sends ``back`` in packets of its own, or bare ACKs."""

    local: str
    remote: str
    start_s: float
    """After :data:`BEGIN_S`."""
    seconds: float
    octets: int
    back: int = 0
    local_port: int = 40_000
    remote_port: int = 443
    by_peer: bool = False
    """The other end opened it."""


def capture(transfers: Sequence[Transfer], *, seed: int = 1, jitter_s: float = 0.0) -> bytes:
    """A classic capture with nanosecond times. ``jitter_s`` moves each packet but the first of its flow by up to so much,
    and so past others."""
    seeded = np.random.default_rng(seed)
    parts = [_packets(transfer, seeded, jitter_s) for transfer in transfers]
    time_ns = np.concatenate([p[0] for p in parts])
    frames = np.concatenate([p[1] for p in parts])
    length = np.concatenate([p[2] for p in parts])
    order = np.argsort(time_ns, kind="stable")
    records = np.zeros((len(order), 16 + FRAME), np.uint8)
    head = np.stack(
        [time_ns // 10**9, time_ns % 10**9, np.full(len(order), FRAME), length + 14], axis=1
    ).astype("<u4")
    records[:, :16] = head[order].view(np.uint8).reshape(-1, 16)
    records[:, 16:] = frames[order]
    return struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, FRAME, 1) + records.tobytes()


def _packets(
    transfer: Transfer, seeded: np.random.Generator, jitter_s: float
) -> tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64]]:
    """(time, frame, octets at the IP layer) of each packet of a transfer, its handshake first."""
    out, back = (_cut(n, transfer.seconds) for n in (transfer.octets, transfer.back))
    content = np.concatenate([[0, 0], out, back])
    outward = np.concatenate(
        [[not transfer.by_peer, transfer.by_peer], np.ones(len(out), bool), np.zeros(len(back), bool)]
    )
    flags = np.full(len(content), 0x10)
    flags[:2] = 0x02, 0x12
    at = np.concatenate(
        [[0.0, 0.001], *(np.linspace(0.01, max(transfer.seconds, 0.02), len(c)) for c in (out, back))]
    )
    at[2:] += seeded.uniform(0, jitter_s, len(at) - 2) if jitter_s else 0
    time_ns = BEGIN_S * 10**9 + ((transfer.start_s + at) * 1e9).astype(np.int64)
    frames = np.zeros((len(content), FRAME), np.uint8)
    frames[:, 12:14] = 0x08, 0x00
    frames[:, 14], frames[:, 20], frames[:, 22], frames[:, 23] = 0x45, 0x40, 64, 6
    _put(frames, 16, ">u2", content + HEADERS)
    local, remote = (int(parse([a])[0, 1]) & 0xFFFF_FFFF for a in (transfer.local, transfer.remote))
    _put(frames, 26, ">u4", np.where(outward, local, remote))
    _put(frames, 30, ">u4", np.where(outward, remote, local))
    _put(frames, 34, ">u2", np.where(outward, transfer.local_port, transfer.remote_port))
    _put(frames, 36, ">u2", np.where(outward, transfer.remote_port, transfer.local_port))
    frames[:, 46], frames[:, 47] = 0x50, flags
    return time_ns, frames, content + HEADERS


def _cut(octets: int, seconds: float) -> NDArray[np.int64]:
    """Content of each packet: as few as the largest segment allows, but never a silence longer than a flow stands."""
    most = SEGMENT - HEADERS
    count = max(-(-octets // most), int(seconds / GAP_S) + 2)
    each, rest = divmod(octets, count)
    sizes = np.full(count, each, np.int64)
    sizes[:rest] += 1
    return sizes


def _put(out: NDArray[np.uint8], at: int, kind: str, values: Any) -> None:
    octets = np.ascontiguousarray(np.asarray(values).astype(kind)).view(np.uint8)
    size = np.dtype(kind).itemsize
    out[:, at : at + size] = octets.reshape(len(out), size)


STORES = {"ehr": "10.0.0.1", "claims": "10.0.0.2", "genome": "10.0.1.1"}
"""Store -> its address. 10.9.0.x are hosts without a store."""
OWNERS = {
    "203.0.113.0/26": ("example-cloud", "example-holdings", "CN", "DE"),
    "203.0.113.64/26": ("other-cloud", "other-group", "RU", "NL"),
    "203.0.113.128/25": ("plain-cloud", "plain-group", "US", "US"),
    "198.51.100.0/25": ("example-cdn", "example-holdings", "CN", "FR"),
    "198.51.100.128/25": ("third-cloud", "third-group", "DE", "DE"),
}
"""Network -> provider, owner, the owner's country, country. All invented."""

RULES = """
rules:
  - {id: burst, over: 8 MB, window: 5m, quiet: 30m, severity: low}
  - {id: hourly, over: 30 MB, window: 1h, quiet: 2h}
  - {id: bulk-external, over: 200 MB}
  - {id: bulk-restricted-owner, over: 20 MB}
"""
"""Two rules of the operator beside the two that are shipped, these at a fifth of their amounts."""


def write_policy(folder: Path) -> tuple[Path, Path]:
    """A policy of three stores and four rules, and overrides that say who owns what: the two files."""
    lines = ["version: 1", "tenant: example", "stores:"]
    for store, local in STORES.items():
        lines.append(
            f"  - {{id: {store}, categories: [personal_health], recognise: {{addresses: [{local}]}}}}"
        )
    policy, overrides = folder / "policy.yaml", folder / "overrides.yaml"
    policy.write_text("\n".join(lines) + RULES)
    lines = ["overrides:"]
    for number, (network, (provider, owner, owner_country, country)) in enumerate(OWNERS.items()):
        lines.append(
            f"  - {{network: {network}, country: {country}, asn: {64496 + number}, as_org: {provider}, "
            f"provider: {provider}, owner: {owner}, owner_country: {owner_country}, source: test, "
            f"checked: 2025-11-01}}"
        )
    overrides.write_text("\n".join(lines) + "\n")
    return policy, overrides


def day(hours: float, flows_per_minute: int, seed: int = 1) -> list[Transfer]:
    """Small talk of stores and others with everyone, and among it bulk transfers that pass one rule or another."""
    seeded = random.Random(seed)
    remotes = [f"203.0.113.{n}" for n in range(1, 255)] + [f"198.51.100.{n}" for n in range(1, 255)]
    locals_ = [*STORES.values(), "10.9.0.1", "10.9.0.2"]
    talk = [
        Transfer(
            local=seeded.choice(locals_),
            remote=seeded.choice(remotes),
            start_s=seeded.uniform(0, hours * 3600),
            seconds=seeded.choice([0.0, 0.0, 2.0, 20.0]),
            octets=seeded.randrange(0, 20_000),
            back=seeded.randrange(0, 40_000),
            local_port=1024 + number % 60_000,
            by_peer=seeded.random() < 0.2,
        )
        for number in range(int(hours * 60 * flows_per_minute))
    ]
    bulk = [
        Transfer(
            local=seeded.choice(list(STORES.values())),
            remote=seeded.choice(remotes),
            start_s=seeded.uniform(0, hours * 3600 * 0.95),
            seconds=seeded.choice([5.0, 90.0, 600.0]),
            octets=seeded.choice([6, 12, 24, 60]) * 10**6,
            local_port=62_000 + number,
            remote_port=22,
        )
        for number in range(int(8 + hours * 2))
    ]
    whole = Transfer("10.0.1.1", "198.51.100.200", 60.0, 1200.0, 260_000_000, local_port=61_500)
    return [*talk, *bulk, whole]

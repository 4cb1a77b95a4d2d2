"""The whole road of ``sekisho replay`` beside records alone, and its start.

    python -m tests.bench replay [PACKETS SESSIONS REPEATS]      # 20,000,000 packets, 500,000 flows

All of it: flows, places and owners, stores, sealing, thirty rules, windows, cases, the summary.
"with --state" adds the ledger and all else of the state in SQLite, and the Parquet archive. Totals are checked against the generator's truth in every run. Country and
network databases are made up: they answer for every address of the capture, in 16 places to a network.

"The start" is the same command on a capture that holds no packet, with the settings that come with the program.
"""

from __future__ import annotations

import json
import struct
import sys
import tempfile
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

from tests.bench.bench_pcap import ours
from tests.bench.inputs import CACHE, capture
from tests.bench.measure import REPEATS, Side, Took, Used, in_turns, once
from tests.bench.page import Bar, Report
from tests.tools import mmdb
from tests.tools.truth import LOCAL, Truth

_COUNTRIES = ("JP", "DE", "US", "FR", "CN", "GB", "BR", "IN", "ZA", "CA", "SE", "KR", "AU", "SG", "NL", "PL")
_WINDOWS = ("5m", "1h", "24h", "30d")


def policy() -> dict[str, Any]:
    """About a quarter of the flows are of a store; thirty rules that read them."""
    sets = [{"id": f"to-{code.lower()}", "countries": [code]} for code in _COUNTRIES[:7]]
    rules: list[dict[str, Any]] = [
        {"id": f"any-{window}", "over": "2 TB", "window": window} for window in _WINDOWS[:2]
    ]
    rules += [
        {"id": f"{place['id']}-{window}", "over": "1 TB", "window": window, "destinations": [place["id"]]}
        for place in sets
        for window in _WINDOWS
    ]
    recognise = {"addresses": ["10.0.0.0/18"]}
    stores = [{"id": "bench", "categories": ["personal_health"], "recognise": recognise}]
    return {"version": 1, "stores": stores, "destinations": sets, "rules": rules}


def databases(folder: Path) -> None:
    """A country and a network for each sixteenth of the networks that the captures use."""
    folder.mkdir(parents=True, exist_ok=True)
    networks = [
        f"{net}.{low}/28" for net in ("192.0.2", "198.51.100", "203.0.113") for low in range(0, 256, 16)
    ]
    networks.append("2001:db8:2::/48")
    countries = {net: {"country": {"iso_code": _COUNTRIES[i % 16]}} for i, net in enumerate(networks)}
    owners = {
        net: {
            "autonomous_system_number": 64_496 + i % 16,
            "autonomous_system_organization": f"Example {i % 16}",
        }
        for i, net in enumerate(networks)
    }
    # Of today, as after an installation: of old ones the program warns.
    now_s = int(time.time())
    mmdb.write(folder / "country.mmdb", countries, built_s=now_s)
    mmdb.write(folder / "network.mmdb", owners, built_s=now_s)


def main(arguments: list[str]) -> None:
    """The table of the whole road."""
    packets, sessions, repeats = (*map(int, arguments), *(20_000_000, 500_000, REPEATS)[len(arguments) :])
    file, truth = capture(packets, sessions)
    empty = CACHE / "empty.pcap"
    empty.write_bytes(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 96, 1))
    home = CACHE / "home"
    databases(home / "databases")
    rules = CACHE / "policy.yaml"
    rules.write_text(json.dumps(policy()))
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        start = _replay("the start", home, None, empty, Truth(*[0] * len(fields(Truth))))
        once(start.command, Path(folder))  # tables and bytecode are kept from here on
        sides = [
            ours(file, truth),
            _replay("sekisho replay", home, rules, file, truth),
            _replay("with --state", home, rules, file, truth, "--state", "{fresh}/state"),
            start,
        ]
        took = in_turns(sides, Path(folder), repeats)
    names = {"sekisho": "records alone", "the start": "the start: replay of no packets"}
    alone, road = took["sekisho"], took["sekisho replay"]
    rows = [["what", "CPU s", "M packets/s", "CPU of records alone", "anonymous MiB"]]
    rows += [_row(names.get(name, name), entry, alone, packets) for name, entry in took.items()]
    bars = [
        Bar("CPU of the whole road", 1.5, road.median / alone.median, "times records alone", at_most=True),
        Bar("CPU of the start", 0.6, took["the start"].median, "s", at_most=True),
    ]
    title = f"{packets:,} packets of {sessions:,} flows, {file.stat().st_size >> 20} MiB, {repeats} runs; totals exact"
    Report("replay", title, rows, bars, partial=bool(arguments)).publish()


def _replay(name: str, home: Path, rules: Path | None, file: Path, truth: Truth, *more: str) -> Side:
    set_up = [f"--local={network}" for network in LOCAL] + [f"--policy={rules}"] if rules else []
    command = [sys.executable, "-m", "agent.cli", "--state-dir", str(home), "replay", str(file), *set_up]

    def check(used: Used, _fresh: Path) -> str:
        account = json.loads(used.out[used.out.index("{\n") :])["account"]
        told = tuple(account["decided"][name] for name in ("flows", "octets_out", "octets_in"))
        if told != (truth.sessions, truth.octets_out, truth.octets_in):
            raise SystemExit(f"wrong: {told} instead of {truth}")
        return ""

    return Side(name, [*command, "--json", *more], check)


def _row(name: str, entry: Took, alone: Took, packets: int) -> list[str]:
    if entry.side.name == "the start":
        return [name, f"{entry.median:.2f}", "", "", f"{entry.anonymous_mib:.0f}"]
    return [
        name,
        f"{entry.median:.2f}",
        f"{packets / entry.median / 1e6:.2f}",
        f"{entry.median / alone.median:.2f} times",
        f"{entry.anonymous_mib:.0f}",
    ]

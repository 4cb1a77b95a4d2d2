"""The whole program: which database, of which version and hash, said what stands in a row, wherever the row goes."""

from __future__ import annotations

import hashlib
import json
import socket
import subprocess
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.tools import mmdb, netns
from tests.tools.captures import classic
from tests.tools.encapsulated import U4, E
from tests.tools.netns import HOST4, PEER4
from tests.tools.program import command, environment, sekisho

PARTS = ("country", "network", "country_witness", "network_witness", "list.mine")


def settings(home: Path, **collectors: Any) -> Path:
    """Settings whose every source of facts is a file of this test; JSON lines as a sink of flows beside the archive."""
    home.mkdir(exist_ok=True)
    mmdb.write(
        home / "country.mmdb", {"198.51.100.0/24": {"country_code": "DE"}}, database_type="DBIP-Country"
    )
    mmdb.write(
        home / "country_witness.mmdb",
        {"198.51.100.0/24": {"country_code": "FR"}},
        database_type="GeoLite2-Country",
    )
    for name, number in (("network", 64500), ("network_witness", 64501)):
        record = {"autonomous_system_number": number, "autonomous_system_organization": "Example"}
        mmdb.write(home / f"{name}.mmdb", {"198.51.100.0/24": record}, database_type=f"DBIP-{name}")
    (home / "mine.txt").write_text("# date: 2026-11-01\n198.51.100.0/24\n")
    geo = {name: str(home / f"{name}.mmdb") for name in PARTS[:4]}
    lists = [{"file": str(home / "mine.txt"), "flags": ["vpn"]}]
    file = home / "sekisho.yaml"
    file.write_text(
        json.dumps(
            {
                "host": "db-01",
                "collectors": collectors or {"af_packet": {}},
                "enrichers": {"asset": {}, "geo": {**geo, "lists": lists}, "owner": {}},
                "sinks": {"jsonl": {"file": str(home / "rows.jsonl")}},
            }
        )
    )
    return file


def stated_by(home: Path) -> dict[str, str]:
    """The end of each part's version: the hash of the file as it lies there."""
    files = [home / f"{name}.mmdb" for name in PARTS[:4]] + [home / "mine.txt"]
    digests = [hashlib.sha256(file.read_bytes()).hexdigest()[:12] for file in files]
    return {part: f"sha256:{digest}" for part, digest in zip(PARTS, digests, strict=True)}


def every_row_says(home: Path, archive: Path) -> list[dict[str, Any]]:
    """The rows of the JSON lines; fails unless they and each batch in the archive's files name every source by its hash."""
    lines = [json.loads(line) for line in (home / "rows.jsonl").read_text().splitlines()]
    rows = [line for line in lines if line["record"] == "flow"]
    named = {line["id"]: line["versions"] for line in lines if line["record"] == "versions"}
    files = sorted((archive / "flows").glob("day=*/host=*/part-*.parquet"))
    told = [named[row["versions"]] for row in rows]
    archived = 0
    for file in files:
        metadata = pq.read_metadata(file)
        batches = json.loads(metadata.metadata[b"sekisho.batches"])
        archived += metadata.num_rows
        told += [batch["versions"] for batch in batches]
    assert rows and archived == len(rows)
    expected = stated_by(home)
    for versions in told:
        assert {part: versions[part].split()[-1] for part in PARTS} == expected
        assert {"ownership", "anycast"} <= versions.keys()
        assert all("sha256:" in version for part, version in versions.items() if part != "policy")
    return rows


def test_a_replayed_row_names_every_database_by_its_hash(tmp_path: Path) -> None:
    """JSON lines and the archive's Parquet: each batch has version and hash of all that told something of it; two
    databases that disagree stand side by side, the place doubtful and the owner with a confidence of its own."""
    settings(tmp_path)
    (tmp_path / "t.pcap").write_bytes(classic([bytes(E / U4)] * 3))
    outcome = sekisho(
        "replay", "--send", "--quiet", "--state=kept", "--local=192.0.2.0/24", "t.pcap", home=tmp_path
    )
    assert (outcome.code, outcome.said) == (0, [])
    (row,) = every_row_says(tmp_path, tmp_path / "kept/archive")
    # 198.51.100.0/24 is of documentation: it has no place of its own, but what the databases say stands.
    assert {name: row[name] for name in ("remote_asn", "remote_asn_witness", "remote_flags")} == {
        "remote_asn": 64500,
        "remote_asn_witness": 64501,
        "remote_flags": "vpn",
    }
    assert (row["location_confidence"], row["owner_confidence"]) == ("none", "none")


def _one_datagram() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here:
        here.sendto(b"x", (PEER4, 9))


@pytest.mark.root
@pytest.mark.slow
def test_a_watched_row_names_every_database_by_its_hash(tmp_path: Path) -> None:
    """The same of `up`: rows of live traffic, in JSON lines and in the archive that its end left."""
    file = settings(tmp_path)
    with netns.pair() as two:
        line = command("-c", file, "up", "--plain", state_dir=tmp_path / "state")
        watching = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{two.host.name}", *line],
            cwd=tmp_path,
            env=environment(tmp_path),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            rows = tmp_path / "rows.jsonl"

            def seen() -> bool:
                assert watching.poll() is None
                two.host.call(_one_datagram)
                return rows.exists() and PEER4 in rows.read_text()

            netns.wait_for(seen, "a row of the ping", 60)
            watching.terminate()
            out, err = watching.communicate(timeout=60)
        finally:
            watching.kill()
            watching.wait()
    assert watching.returncode == 0, (out, err)
    ends = {
        (row["local_address"], row["remote_address"])
        for row in every_row_says(tmp_path, tmp_path / "state/archive")
    }
    assert (HOST4, PEER4) in ends

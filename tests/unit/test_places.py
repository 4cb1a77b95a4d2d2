"""How sure a place and an owner are: the tables of docs/databases.md, row by row; and witnesses, lists and flags in use."""

from __future__ import annotations

import json
from datetime import UTC, date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from agent.core import wire
from agent.core.accounts import Accounts
from agent.core.address import from_v4
from agent.core.finding import Confidence, Share
from agent.core.flow import FlowBatch
from agent.core.stages import Context, Witness
from agent.policy.model import Override, Policy
from agent.policy.ownership import Ownership
from agent.words import render
from enrichers import geo, owner
from enrichers.ranges import RangeTable, direct, flatten, open_database
from enrichers.ranges.facts import READINGS
from enrichers.ranges.lineages import Lineage, independent, lineage_of
from sinks import archive
from sinks.jsonl import flow_lines, versions_line
from sinks.ocsf_events.flows import flow_events
from tests.tools import mmdb, notices
from tests.tools.rows import batch_of

ADDRESSES = {4: "20.0.0.1", 6: "2600::1"}
FACTS = ("remote_country", "remote_country_witness", "location_confidence")


def database(path: Path, record: Any, name: str) -> None:
    records = {"20.0.0.0/8": record, "2600::/16": record, "40.0.0.0/8": {"country_code": "BR"}}
    mmdb.write(path, {k: v for k, v in records.items() if v}, database_type=name)


def built(tmp_path: Path, *overrides: Override, **settings: Any) -> geo.Geo:
    context = Context(Accounts(), tmp_path, policy=Policy(overrides=overrides))
    return geo.Settings(cache=False, **settings).build(context)


def says(enricher: geo.Geo, address: str, *facts: str) -> tuple[Any, ...]:
    row = next(iter(enricher.enrich(batch_of([{"remote_address": address}])).rows()))
    return tuple(row[name] for name in facts)


US, JP = {"country_code": "US"}, {"country_code": "JP"}
FRENCH_HOLDER = {"registered_country": {"iso_code": "FR"}}


@pytest.mark.parametrize(
    ("first", "second", "lineage", "stated", "country", "v4", "v6"),
    [
        # first, second: what the databases say; lineage: of the second; stated: by an override
        (None, None, "MaxMind", None, None, "none", "none"),
        (FRENCH_HOLDER, None, "MaxMind", None, "FR", "low", "low"),
        (US, None, "MaxMind", None, "US", "medium", "low"),
        (None, US, "MaxMind", None, "US", "medium", "low"),
        (US, US, "MaxMind", None, "US", "high", "high"),
        (US, JP, "MaxMind", None, "US", "low", "low"),
        (US, US, "DB-IP", None, "US", "medium", "low"),
        (US, JP, "DB-IP", None, "US", "medium", "low"),
        (US, US, "", None, "US", "medium", "low"),
        (US, JP, "", None, "US", "medium", "low"),
        (None, None, "MaxMind", "DE", "DE", "medium", "medium"),
        (US, None, "MaxMind", "US", "US", "high", "high"),
        (US, JP, "MaxMind", "JP", "JP", "high", "high"),
        (US, US, "MaxMind", "DE", "DE", "medium", "medium"),
    ],
)
def test_location_confidence(
    tmp_path: Path, first: Any, second: Any, lineage: str, stated: str | None, country: Any, v4: str, v6: str
) -> None:
    """Each row of the table of docs/databases.md: what the witnesses say gives the country and how sure it is."""
    database(tmp_path / "a.mmdb", first, "DBIP-Country")
    database(tmp_path / "b.mmdb", second, "Made-Up")
    overrides = [Override(network=n, country=stated) for n in ("20.0.0.0/8", "2600::/16")] if stated else []
    enricher = built(
        tmp_path,
        *overrides,
        country=tmp_path / "a.mmdb",
        country_witness=tmp_path / "b.mmdb",
        lineages={"country_witness": lineage} if lineage else {},
    )
    witness = second["country_code"] if second else None
    assert says(enricher, ADDRESSES[4], *FACTS) == (country, witness, v4)
    assert says(enricher, ADDRESSES[6], *FACTS) == (country, witness, v6)


@pytest.mark.parametrize("flag", ["anycast", "cdn"])
def test_an_address_that_moves_has_no_place(tmp_path: Path, flag: str) -> None:
    """What a list calls anycast or CDN has no country, whatever the databases say, unless an override states one."""
    database(tmp_path / "a.mmdb", US, "DBIP-Country")
    database(tmp_path / "b.mmdb", US, "GeoLite2-Country")
    (tmp_path / "list.txt").write_text("20.0.0.0/16\n")
    enricher = built(
        tmp_path,
        Override(network="20.0.0.0/24", country="CH"),
        country=tmp_path / "a.mmdb",
        country_witness=tmp_path / "b.mmdb",
        lists=[{"file": tmp_path / "list.txt", "flags": [flag]}],
    )
    assert says(enricher, "20.0.1.1", *FACTS, "remote_flags") == (None, None, "none", flag)
    assert says(enricher, "20.0.0.1", *FACTS, "remote_flags") == ("CH", None, "medium", flag)
    assert says(enricher, "20.1.0.1", *FACTS, "remote_flags") == ("US", "US", "high", None)


@pytest.mark.parametrize(
    ("first", "second", "two"),
    [
        (Lineage("DB-IP"), Lineage("MaxMind"), True),
        (Lineage("DB-IP"), Lineage("db-ip"), False),
        (Lineage("DB-IP"), Lineage("registries", place=False), False),
        (Lineage("DB-IP"), None, False),
        (None, None, False),
    ],
)
def test_two_of_one_lineage_are_one_witness(first: Any, second: Any, two: bool) -> None:
    """Two databases count twice only if both lineages are known, differ, and speak of places."""
    assert (independent(first, second), independent(second, first)) == (two, two)


def test_lineages_on_record() -> None:
    """The longest beginning of a name decides; what is not on record has no lineage."""
    assert lineage_of("dbip-country-lite") == Lineage("DB-IP")
    assert lineage_of("iptoasn-country") == Lineage("IPtoASN", place=False)
    assert lineage_of("iptoasn-asn") == Lineage("IPtoASN")
    assert lineage_of("country-ipvall") is None


ASNS = {"huawei": 136907, "huawei too": 55990, "amazon": 16509, "yandex": 13238, "none": 64500}


@pytest.mark.parametrize(
    ("asn", "witness", "cloud", "region", "provider", "owner_id", "confidence"),
    [
        ("none", None, None, None, None, None, "none"),
        ("yandex", None, None, None, "yandex", "yandex", "medium"),
        ("yandex", "yandex", None, None, "yandex", "yandex", "medium"),
        ("yandex", "none", None, None, "yandex", "yandex", "medium"),
        ("yandex", "amazon", None, None, "yandex", "yandex", "low"),
        ("yandex", None, "aws", "us-east-1", "yandex", "yandex", "low"),
        ("yandex", None, "aws", "cn-north-1", "yandex", "yandex", "medium"),
        ("amazon", None, "aws", "us-east-1", "aws", "amazon", "low"),
        ("none", None, "aws", "us-east-1", "aws", "amazon", "low"),
        ("none", None, "aws", "cn-north-1", None, None, "none"),
        ("none", None, "unheard-of", None, "unheard-of", None, "none"),
    ],
)
def test_owner_confidence(
    tmp_path: Path,
    asn: str,
    witness: Any,
    cloud: Any,
    region: Any,
    provider: Any,
    owner_id: Any,
    confidence: str,
) -> None:
    """Each row of the table of docs/databases.md: AS, second AS and published range give operator, owner, and how sure."""
    table = Ownership.load()
    second = ASNS[witness] if witness else None
    fact, worth = owner.judged(
        table,
        asn=ASNS[asn],
        witness_asn=second,
        cloud=cloud,
        region=region,
        today=date(2026, 11, 21),
    )
    assert (fact.provider or None, fact.owner_id or None, worth) == (
        provider,
        owner_id,
        Confidence(confidence),
    )
    enricher = owner.Settings().build(Context(Accounts(), tmp_path))
    row = {"remote_asn": ASNS[asn], "remote_asn_witness": second, "remote_cloud": cloud}
    batch = enricher.enrich(batch_of([row | {"remote_cloud_region": region}, {}]))
    got = [tuple(r[n] for n in ("remote_provider", "remote_owner", "owner_confidence")) for r in batch.rows()]
    assert got == [(provider, owner_id, confidence), (None, None, "none")]


def test_both_networks_are_kept(tmp_path: Path) -> None:
    """The second AS database answers beside the first; an override changes the first answer only."""
    mmdb.write(tmp_path / "a.mmdb", mmdb.NETWORKS)
    mmdb.write(tmp_path / "b.mmdb", {"20.0.0.0/8": {"autonomous_system_number": 64509}})
    enricher = built(
        tmp_path,
        Override(network="20.0.0.0/24", asn=64510),
        network=tmp_path / "a.mmdb",
        network_witness=tmp_path / "b.mmdb",
    )
    facts = ("remote_asn", "remote_asn_witness")
    assert says(enricher, "20.0.0.1", *facts) == (64510, 64509)
    assert says(enricher, "20.0.1.1", *facts) == (64500, 64509)
    assert says(enricher, "30.0.0.1", *facts) == (64502, None)


def test_lists_are_taken_up_while_it_runs(tmp_path: Path) -> None:
    """A changed list answers after reload with a new version; one with a fault leaves the last good one in force."""
    path = tmp_path / "exits.txt"
    path.write_text("20.0.0.1\n")
    enricher = built(tmp_path, lists=[{"file": path, "flags": ["tor"], "date": "2026-11-20"}])
    assert says(enricher, "20.0.0.1", "remote_flags") == ("tor",)
    before = enricher.versions()["list.exits"]
    assert before.startswith("exits 2026-11-20 sha256:")
    path.write_text("20.0.0.2\n20.0.0.3\n")
    assert enricher.reload() is True
    assert says(enricher, "20.0.0.1", "remote_flags") == (None,)
    assert says(enricher, "20.0.0.2", "remote_flags") == ("tor",)
    after = enricher.versions()["list.exits"]
    assert after != before
    path.write_text("20.0.0.4\nnonsense here\n")
    assert enricher.reload() is False
    assert says(enricher, "20.0.0.2", "remote_flags") == ("tor",)
    assert enricher.versions()["list.exits"] == after
    assert enricher.faults[0].startswith(f"{path}:2: 'nonsense' is no address")
    assert enricher.faults[0].endswith("; the last good databases still answer")
    path.unlink()
    assert enricher.reload() is False
    assert says(enricher, "20.0.0.2", "remote_flags") == ("tor",)


def test_a_bad_list_at_the_start_is_left_out(tmp_path: Path) -> None:
    """A list with a fault stops nothing at the start: the others answer, its fault is told, its version is none."""
    (tmp_path / "good.txt").write_text("20.0.0.1\n")
    (tmp_path / "bad.txt").write_text("20.0.0.1/8\n")
    lists = [{"file": tmp_path / f"{n}.txt", "flags": ["vpn"]} for n in ("bad", "good", "gone")]
    enricher = built(tmp_path, lists=lists)
    assert says(enricher, "20.0.0.1", "remote_flags") == ("vpn",)
    versions = enricher.versions()
    assert (versions["list.bad"], versions["list.gone"]) == ("none", "none")
    faults = "\n".join(enricher.faults)
    assert f"{tmp_path}/bad.txt:1: '20.0.0.1/8' has host bits set" in faults
    assert f"{tmp_path}/gone.txt: there is no gone list; check the path" in faults


def test_two_lists_of_one_name_are_refused(tmp_path: Path) -> None:
    """Two lists that would be told by one name must be given names."""
    with pytest.raises(ValueError, match="two lists are called a: give one another name"):
        geo.Settings(lists=[{"file": tmp_path / "a.txt"}, {"file": tmp_path / "b" / "a.csv"}])


def test_a_list_may_take_the_place_of_a_canary(tmp_path: Path) -> None:
    """A list that makes a canary anycast is taken up: only what the databases forgot counts against them."""
    database(tmp_path / "a.mmdb", US, "DBIP-Country")
    path = tmp_path / "providers.csv"
    path.write_text("cidr,flags\n30.0.0.1,anycast\n")
    enricher = built(tmp_path, country=tmp_path / "a.mmdb", providers=path, canaries=["20.0.0.1"])
    path.write_text("cidr,flags\n20.0.0.1,anycast\n")
    assert enricher.reload() is True
    assert says(enricher, "20.0.0.1", "remote_country", "remote_flags") == (None, "anycast")


def test_the_direct_index_answers_as_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of one answer are read directly, mixed ones searched: equal to the plain search at every edge."""
    records = {
        f"20.0.{i}.0/{22 + i % 9}": {"country_code": "US" if i % 2 else "JP"} for i in range(0, 256, 4)
    }
    records |= {"0.0.0.0/9": {"country_code": "DE"}, "255.255.255.0/24": {"country_code": "FR"}}
    records |= {"20.0.9.7/32": {"country_code": "IT"}}
    path = mmdb.write(tmp_path / "a.mmdb", records)
    table: RangeTable = flatten(open_database(path), READINGS["country"])
    edges = np.unique(
        np.concatenate([table.v4_start, table.v4_start - np.uint32(1), np.array([2**32 - 1], np.uint32)])
    )
    addresses = from_v4(edges.astype(np.uint32))
    plain = table.find(addresses)
    assert table._direct.octets == 0
    monkeypatch.setattr(direct, "ASKED_BEFORE", 1)
    monkeypatch.setattr(direct, "INTERVALS_BEFORE", 1)
    assert table.find(addresses).tolist() == plain.tolist()
    assert table._direct.octets == 1 << 26


def assert_carried(batch: FlowBatch, folder: Path) -> None:
    """JSON lines, OCSF events, the Arrow form and the archive's files say what the batch's facts are from."""
    versions = dict(batch.header.versions)
    named = json.loads(versions_line(versions))
    assert (json.loads(flow_lines(batch))["versions"], named["versions"]) == (named["id"], versions)
    assert next(flow_events(batch))["unmapped"]["sekisho"]["versions"] == versions
    assert dict(wire.from_arrow(wire.to_arrow(batch)).header.versions) == versions
    sink = archive.Settings(directory=folder / "archive", min_free=0).build(
        Context(Accounts(), folder, host="h")
    )
    sink.write_flows(batch)
    sink.close()
    (file,) = (folder / "archive").rglob("*.parquet")
    held = json.loads(pq.read_metadata(file).metadata[b"sekisho.batches"])
    assert [row["versions"] for row in held] == [versions]


def test_every_source_is_stamped_on_the_batch(tmp_path: Path) -> None:
    """Versions name each source that answers, with day and hash: databases, witnesses, provider ranges, lists."""
    database(tmp_path / "a.mmdb", US, "DBIP-Country")
    database(tmp_path / "b.mmdb", US, "GeoLite2-Country")
    (tmp_path / "p.csv").write_text("# name: ranges\n# date: 2026-10-26\ncidr,provider\n20.0.0.0/8,aws\n")
    (tmp_path / "l.txt").write_text("20.0.0.1\n")
    enricher = built(
        tmp_path,
        country=tmp_path / "a.mmdb",
        country_witness=tmp_path / "b.mmdb",
        providers=tmp_path / "p.csv",
        lists=[{"file": tmp_path / "l.txt", "name": "mine", "flags": ["relay"], "date": "2026-11-01"}],
    )
    told = {part: version.rsplit(" sha256:", 1)[0] for part, version in enricher.versions().items()}
    batch = enricher.enrich(batch_of([{"remote_address": "20.0.0.1"}]))
    assert_carried(batch.with_header(versions=enricher.versions(), agent_id="a", run_id="r"), tmp_path)
    assert told == {
        "country": "dbip-country 2026-09-01",
        "network": "none",
        "country_witness": "geolite2-country 2026-09-01",
        "providers": "ranges 2026-10-26",
        "list.mine": "mine 2026-11-01",
        "anycast": "anycast 2026-11-21",
    }


def test_an_alert_shows_every_witness_and_doubt(tmp_path: Path) -> None:
    """A notice's destination gets each source's own answer, and the text says so, with the doubt of a relay."""
    database(tmp_path / "a.mmdb", US, "DBIP-Country")
    database(tmp_path / "b.mmdb", JP, "GeoLite2-Country")
    (tmp_path / "p.csv").write_text("cidr,provider,region\n20.0.0.0/16,aws,us-east-1\n")
    (tmp_path / "v.txt").write_text("20.0.0.0/24\n")
    enricher = built(
        tmp_path,
        country=tmp_path / "a.mmdb",
        country_witness=tmp_path / "b.mmdb",
        providers=tmp_path / "p.csv",
        lists=[{"file": tmp_path / "v.txt", "flags": ["vpn"]}],
    )
    assert isinstance(enricher, Witness)
    shares = (Share(value="20.0.0.1", content_octets_out=7), Share(value="20.0.1.1", content_octets_out=3))
    notice = notices.opened()
    assert notice.case is not None
    before = notice.case.destination.model_copy(update={"addresses": shares})
    after = enricher.witnessed(before)
    versions = enricher.versions()
    assert after.flags == ("hosting", "vpn")
    assert [(w.source, w.said) for w in after.witnesses] == [
        (versions["country"], "US"),
        (versions["country_witness"], "JP"),
        (versions["providers"], "aws us-east-1"),
    ]
    told = notice.model_copy(update={"case": notice.case.model_copy(update={"destination": after})})
    text = render(told, language="en", zone=UTC, detail="full")
    assert f"{versions['country_witness']} says JP." in text
    assert "Kind of address, as lists say: hosting, vpn." in text
    assert "It passes traffic on: the true destination is not known." in text
    assert enricher.witnessed(before.model_copy(update={"addresses": ()})).witnesses == ()

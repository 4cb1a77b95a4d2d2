"""The geo enricher: places and networks from databases, overrides and what has no place."""

from __future__ import annotations

import os
import sys
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from agent.core.accounts import Accounts
from agent.core.clock import DAY_NS, SECOND_NS
from agent.core.stages import Context
from agent.policy.model import Override, Policy
from enrichers import geo
from enrichers.ranges.facts import Placeless, read_country, read_network
from tests.tools import mmdb
from tests.tools.rows import batch_of

FACTS = ("remote_country", "remote_asn", "remote_as_org", "location_confidence")


def install(state: Path, countries: Any = mmdb.COUNTRIES, networks: Any = mmdb.NETWORKS, **more: Any) -> None:
    folder = state / "databases"
    folder.mkdir(exist_ok=True)
    if countries is not None:
        swap(folder / "country.mmdb", countries, database_type="Test-Country", **more)
    if networks is not None:
        swap(folder / "network.mmdb", networks, database_type="Test-ASN", **more)


def swap(path: Path, records: Any, **more: Any) -> None:
    """Put a database in place as `sekisho db` does: in one step, so that its inode changes."""
    mmdb.write(path.with_suffix(".new"), records, aliases=mmdb.MAXMIND_ALIASES, **more)
    path.with_suffix(".new").replace(path)


def built(state: Path, *overrides: Override, **settings: Any) -> geo.Geo:
    context = Context(Accounts(), state, policy=Policy(overrides=overrides))
    return geo.Settings(**settings).build(context)


def says(enricher: geo.Geo, *addresses: str) -> list[tuple[Any, ...]]:
    batch = enricher.enrich(batch_of([{"remote_address": a} for a in addresses]))
    return [tuple(row[name] for name in FACTS) for row in batch.rows()]


def test_place_and_network_come_from_the_databases(tmp_path: Path) -> None:
    """Country, AS number and organisation are filled in, from the key names of several makers; unknown is null."""
    install(tmp_path)
    enricher = built(tmp_path)
    assert says(enricher, "20.0.0.1", "20.200.0.1", "30.1.1.1", "40.0.0.1", "2600::1") == [
        ("US", 64500, "Example Networks", "medium"),
        ("US", 64501, "Other Networks", "medium"),
        ("FR", 64502, None, "low"),
        (None, None, None, "none"),
        ("US", 64500, "Example Networks", "low"),
    ]
    assert enricher.faults == ()


def test_a_row_without_an_address_has_no_place(tmp_path: Path) -> None:
    """A batch of no rows comes back as it is."""
    install(tmp_path)
    assert len(built(tmp_path).enrich(batch_of([]))) == 0


def test_special_addresses_have_no_country_whatever_a_database_says(tmp_path: Path) -> None:
    """Private, shared, documentation and anycast addresses have no country; their network is kept."""
    everything = {"0.0.0.0/1": {"country_code": "US"}, "128.0.0.0/1": {"country_code": "US"}}
    everything |= {"fc00::/7": {"country_code": "US"}, "2001:db8::/32": {"country_code": "US"}}
    install(tmp_path, everything, {"9.9.9.0/24": {"autonomous_system_number": 64505}})
    none = (None, None, None, "none")
    special = ["10.1.1.1", "100.64.0.1", "192.0.2.1", "127.0.0.1", "fd00::1", "2001:db8::1", "224.0.0.1"]
    assert says(built(tmp_path), *special) == [none] * len(special)
    assert says(built(tmp_path), "9.9.9.9", "9.9.8.9", "2002:a01:101::") == [
        (None, 64505, None, "none"),
        ("US", None, None, "medium"),
        none,
    ]


SPECIAL = [
    "0.0.0.0", "0.255.255.255", "10.0.0.0", "10.255.255.255", "100.64.0.0", "100.127.255.255", "127.0.0.1",
    "169.254.0.1", "172.16.0.0", "172.31.255.255", "192.0.0.1", "192.0.2.1", "192.168.0.0", "192.168.255.255",
    "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.0", "239.255.255.255", "240.0.0.1", "255.255.255.255",
]  # fmt: skip
SPECIAL_6 = [
    "::",
    "::1",
    "fc00::1",
    "fdff::1",
    "fe80::1",
    "febf::1",
    "ff00::1",
    "ff02::1",
    "ffff::1",
    "2001:db8::1",
]


@pytest.mark.parametrize("witness", ["US", "JP"])
def test_no_special_address_has_a_country_in_any_form(tmp_path: Path, witness: str) -> None:
    """Private, shared, multicast, reserved, documentation and unspecified addresses have no place, no confidence and no
    witness of a place, at the ends of each range, in IPv4, IPv6, 6to4 and as IPv4 inside IPv6, though two databases of
    different lineage name a country for every address."""
    everywhere = ("0.0.0.0/1", "128.0.0.0/1", "2001:db8::/32", "4000::/2", "8000::/2", "c000::/2")
    whole = {network: {"country_code": "US"} for network in everywhere}
    install(tmp_path, whole)
    mmdb.write(
        tmp_path / "second.mmdb",
        {n: {"country_code": witness} for n in whole},
        database_type="GeoLite2-Country",
        aliases=mmdb.MAXMIND_ALIASES,
    )
    enricher = built(tmp_path, country_witness=tmp_path / "second.mmdb")
    mapped = [f"::ffff:{address}" for address in SPECIAL]
    six_to_four = [f"2002:{int(IPv4Address(a)) >> 16:x}:{int(IPv4Address(a)) & 0xFFFF:x}::" for a in SPECIAL]
    asked = [*SPECIAL, *SPECIAL_6, *mapped, *six_to_four]
    found = dict(zip(asked, says(enricher, *asked), strict=True))
    assert {a: f for a, f in found.items() if (f[0], f[3]) != (None, "none")} == {}
    assert says(enricher, "9.9.8.9", "::ffff:9.9.8.9")[0][0] == "US"


def test_an_override_wins_over_the_databases(tmp_path: Path) -> None:
    """The longest override prefix wins; what it does not state stays the database's; agreement makes it high."""
    install(tmp_path)
    enricher = built(
        tmp_path,
        Override(network="20.0.0.0/16", country="SG", as_org="Known Better"),
        Override(network="20.0.1.0/24", country="US"),
        Override(network="20.0.2.0/24", asn=64510),
        Override(network="20.0.3.0/24", asn=64500),
        Override(network="192.0.2.0/24", country="NL"),
        Override(network="2001:db8:1::/48", country="SE", asn=64511, as_org="Six"),
    )
    addresses = [
        "20.0.0.1",
        "20.0.1.1",
        "20.0.2.1",
        "20.0.3.1",
        "192.0.2.9",
        "2001:db8:1::1",
        "2002:1400:1::1",
    ]
    assert says(enricher, *addresses) == [
        ("SG", 64500, "Known Better", "medium"),
        ("US", 64500, "Example Networks", "high"),
        ("US", 64510, None, "medium"),
        ("US", 64500, "Example Networks", "medium"),
        ("NL", None, None, "medium"),
        ("SE", 64511, "Six", "medium"),
        ("SG", 64500, "Known Better", "medium"),
    ]


def test_an_override_takes_or_gives_the_place_of_anycast(tmp_path: Path) -> None:
    """An override may call a network anycast, and may place a known anycast address; special scopes stay placeless."""
    install(tmp_path)
    enricher = built(
        tmp_path,
        Override(network="20.1.0.0/16", anycast=True),
        Override(network="9.9.9.9/32", country="CH"),
        Override(network="10.0.0.0/8", country="JP", asn=64512),
    )
    assert says(enricher, "20.1.1.1", "9.9.9.9", "10.0.0.1") == [
        (None, 64500, "Example Networks", "none"),
        ("CH", None, None, "medium"),
        (None, 64512, None, "none"),
    ]


def test_without_databases_everything_is_null_and_said(tmp_path: Path) -> None:
    """Missing databases stop nothing: facts are null, the faults name the files and the way to mend it."""
    enricher = built(tmp_path)
    assert says(enricher, "20.0.0.1") == [(None, None, None, "none")]
    folder = tmp_path / "databases"
    assert enricher.faults == tuple(
        f"{folder}/{kind}.mmdb: there is no {kind} database; run `sekisho db install`"
        for kind in ("country", "network")
    )
    assert {k: v for k, v in enricher.versions().items() if k != "anycast"} == {
        "country": "none",
        "network": "none",
    }
    assert enricher.reload() is False


def test_one_database_answers_without_the_other(tmp_path: Path) -> None:
    """With only the country database the network is null; when the other one comes it is taken up."""
    install(tmp_path, networks=None)
    enricher = built(tmp_path)
    assert says(enricher, "20.0.0.1") == [("US", None, None, "medium")]
    assert len(enricher.faults) == 1
    install(tmp_path, countries=None)
    assert enricher.reload() is True
    assert says(enricher, "20.0.0.1") == [("US", 64500, "Example Networks", "medium")]
    assert enricher.faults == ()


@pytest.mark.parametrize("content", [b"", b"no database", None])
def test_a_broken_database_at_the_start_is_left_out(tmp_path: Path, content: bytes | None) -> None:
    """A broken or wrong-type database stops nothing at the start: the other one answers, the fault is told."""
    install(tmp_path)
    path = tmp_path / "databases" / "country.mmdb"
    if content is None:
        swap(path, mmdb.NETWORKS)
    else:
        path.write_bytes(content)
    enricher = built(tmp_path)
    assert says(enricher, "20.0.0.1") == [(None, 64500, "Example Networks", "none")]
    assert [f.startswith(f"{path}: ") for f in enricher.faults] == [True]


def test_a_replaced_database_is_taken_up(tmp_path: Path) -> None:
    """A new file of the same name answers after reload, and its version is stated; nothing changed is no change."""
    install(tmp_path)
    enricher = built(tmp_path)
    before = enricher.versions()
    assert enricher.reload() is False
    swap(tmp_path / "databases" / "country.mmdb", {"20.0.0.0/8": {"country_code": "CA"}})
    assert enricher.reload() is True
    assert says(enricher, "20.0.0.1") == [("CA", 64500, "Example Networks", "medium")]
    after = enricher.versions()
    assert (before["network"], before["anycast"]) == (after["network"], after["anycast"])
    assert before["country"] != after["country"]
    assert enricher.reload() is False


def test_a_file_only_touched_is_no_change(tmp_path: Path) -> None:
    """A new change time with the same content is looked at once and is no change."""
    install(tmp_path)
    enricher = built(tmp_path)
    os.utime(tmp_path / "databases" / "country.mmdb", ns=(1, 1))
    assert enricher.reload() is False


@pytest.mark.parametrize("fault", ["deleted", "cut", "wrong kind", "other file"])
def test_the_last_good_database_answers_on(tmp_path: Path, fault: str) -> None:
    """Deleted, cut short or replaced by another kind while running: answers stay, the fault is told until mended."""
    install(tmp_path)
    enricher = built(tmp_path)
    path = tmp_path / "databases" / "network.mmdb"
    whole, answer, versions = path.read_bytes(), says(enricher, "20.0.0.1"), enricher.versions()
    if fault == "deleted":
        path.unlink()
    elif fault == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif fault == "wrong kind":
        swap(path, mmdb.COUNTRIES)
    else:
        path.write_bytes(b"PK\x03\x04")
    assert enricher.reload() is False
    assert (says(enricher, "20.0.0.1"), enricher.versions()) == (answer, versions)
    assert len(enricher.faults) == 1
    assert enricher.faults[0].startswith(f"{path}: ")
    assert enricher.faults[0].endswith("; the last good databases still answer")
    assert enricher.reload() is False
    path.write_bytes(whole)
    assert enricher.reload() is False
    assert enricher.faults == ()


def test_a_database_that_forgot_the_canaries_is_not_taken_up(tmp_path: Path) -> None:
    """A new database that no longer knows an address the old one knew is refused; without canaries it is taken."""
    install(tmp_path)
    careful = built(tmp_path, canaries=["20.0.0.1"])
    careless = built(tmp_path, canaries=[])
    swap(tmp_path / "databases" / "network.mmdb", {"30.0.0.0/8": {"autonomous_system_number": 64502}})
    assert (careful.reload(), careless.reload()) == (False, True)
    assert says(careful, "20.0.0.1")[0][1] == 64500
    assert careful.faults == (
        "the new databases know no asn of 20.0.0.1, which the old ones did; the last good databases still answer",
    )


def test_large_databases_are_built_in_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What building takes is not the lasting process's: it finds the table built. Where no process can be made, it builds."""
    monkeypatch.setattr(geo, "APART_FROM", 0)
    install(tmp_path)
    with monkeypatch.context() as here:
        here.setattr(geo, "merge", None)
        assert says(built(tmp_path), "20.0.0.1") == [("US", 64500, "Example Networks", "medium")]
    for file in (tmp_path / "cache" / "ranges").iterdir():
        file.unlink()
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    assert says(built(tmp_path), "20.0.0.1") == [("US", 64500, "Example Networks", "medium")]


def test_the_cache_gives_the_same_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second start reads the built table; a change of overrides does not use an old one."""
    install(tmp_path)
    first = says(built(tmp_path), "20.0.0.1", "2600::1", "9.9.9.9")

    def not_again(*_: Any) -> None:
        raise AssertionError("flattened again")

    monkeypatch.setattr(geo, "table_of", not_again)
    assert says(built(tmp_path), "20.0.0.1", "2600::1", "9.9.9.9") == first
    changed = built(tmp_path, Override(network="20.0.0.0/24", country="BR"))
    assert says(changed, "20.0.0.1")[0][0] == "BR"


def test_databases_may_stand_anywhere(tmp_path: Path) -> None:
    """Paths in the settings are read instead of the installed ones."""
    path = mmdb.write(tmp_path / "own.mmdb", {"20.0.0.0/8": {"country_code": "PT"}})
    assert says(built(tmp_path, country=path, cache=False), "20.0.0.1") == [("PT", None, None, "medium")]
    assert not (tmp_path / "cache").exists()


def test_age_counts_from_the_day_it_was_built(tmp_path: Path) -> None:
    """Age is in whole days since the build; a database that does not say has none."""
    install(tmp_path)
    install(tmp_path, networks=None, built_s=2**64 - 1)
    now_ns = mmdb.BUILT_S * SECOND_NS + 46 * DAY_NS + 1
    assert built(tmp_path).age_days(now_ns) == {"network": 46}


@pytest.mark.parametrize(
    ("record", "facts"),
    [
        ({"country": {"iso_code": "JP"}, "registered_country": {"iso_code": "US"}}, ("JP", "US")),
        ({"registered_country": {"iso_code": "AU"}}, (None, "AU")),
        ({"country_code": "CN"}, ("CN", None)),
        ({"country": "DE"}, ("DE", None)),
        ({"country": {"iso_code": "EU"}}, (None, None)),
        ({"country_code": "ZZ"}, (None, None)),
        ({"country_code": "usa"}, (None, None)),
        ({"country_code": 7}, (None, None)),
        ({"country": ["JP"]}, (None, None)),
        ("JP", (None, None)),
        (None, (None, None)),
    ],
)
def test_country_records(record: Any, facts: tuple[Any, ...]) -> None:
    """A place is an ISO code under a known key; a region or anything else is no country."""
    assert read_country(record) == facts


@pytest.mark.parametrize(
    ("record", "facts"),
    [
        ({"autonomous_system_number": 64500, "autonomous_system_organization": "A"}, (64500, "A")),
        ({"asn": "AS64500", "as_name": "A"}, (64500, "A")),
        ({"autonomous_system_number": 0, "autonomous_system_organization": "A"}, (None, None)),
        ({"autonomous_system_number": 2**32}, (None, None)),
        ({"autonomous_system_number": True}, (None, None)),
        ({"autonomous_system_number": 1, "autonomous_system_organization": "a\x1b[31m\nb"}, (1, "a [31m b")),
        ({"autonomous_system_number": 1, "autonomous_system_organization": "x" * 999}, (1, "x" * 200)),
        ({"autonomous_system_number": 1, "autonomous_system_organization": "  "}, (1, None)),
        ([], (None, None)),
    ],
)
def test_network_records(record: Any, facts: tuple[Any, ...]) -> None:
    """An AS is a number from 1 to 2**32 - 1; a name loses what could steer a terminal."""
    assert read_network(record) == facts


def test_the_anycast_list_is_read(tmp_path: Path) -> None:
    """The shipped list holds the root servers and public resolvers; a broken list is our own error."""
    shipped = Placeless.read()
    assert sum(name == "anycast: DNS root servers" for name in shipped.names) == 26
    broken = tmp_path / "anycast.yaml"
    broken.write_text("groups: [{name: x, networks: [nonsense]}]")
    with pytest.raises(geo.EnrichError, match="not a list of anycast networks"):
        Placeless.read(broken)

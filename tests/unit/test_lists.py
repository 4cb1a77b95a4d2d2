"""Published lists of networks: every format is read as it is written, and what is wrong is told by file and line."""

from __future__ import annotations

import gzip
import json
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.address import parse
from agent.core.errors import EnrichError
from agent.core.flow import Text
from enrichers.ranges import RangeTable, lists
from enrichers.ranges.clouds import Listed, operates, table_of_lists, words
from enrichers.ranges.lists import FLAGS, AddressList, list_of, open_list
from enrichers.ranges.prefixes import PrefixError, Prefixes
from enrichers.ranges.sources import ListFile, Sources
from enrichers.ranges.table import from_prefixes

AWS = {
    "syncToken": "1",
    "createDate": "2026-10-26-03-12-34",
    "prefixes": [
        {"ip_prefix": "192.0.2.0/24", "region": "ap-northeast-1", "service": "AMAZON"},
        {"ip_prefix": "192.0.2.0/24", "region": "ap-northeast-1", "service": "S3"},
        {"ip_prefix": "192.0.2.0/24", "region": "ap-northeast-1", "service": "EC2"},
        {"ip_prefix": "192.0.2.64/26", "region": "GLOBAL", "service": "CLOUDFRONT"},
    ],
    "ipv6_prefixes": [{"ipv6_prefix": "2001:db8::/32", "region": "us-east-1", "service": "EC2"}],
}
AZURE = {
    "changeNumber": 1,
    "cloud": "Public",
    "values": [
        {
            "name": "AzureCloud.japaneast",
            "properties": {
                "region": "japaneast",
                "systemService": "",
                "addressPrefixes": ["198.51.100.0/24"],
            },
        },
        {
            "name": "Storage.JapanEast",
            "properties": {
                "region": "japaneast",
                "systemService": "AzureStorage",
                "addressPrefixes": ["198.51.100.0/25"],
            },
        },
        {
            "name": "AzureActiveDirectory",
            "properties": {
                "region": "",
                "systemService": "AzureAD",
                "addressPrefixes": ["198.51.100.8/29"],
            },
        },
    ],
}
GOOGLE = {
    "syncToken": "1",
    "creationTime": "2026-10-20T01:02:03.4",
    "prefixes": [
        {"ipv4Prefix": "203.0.113.0/24", "service": "Google Cloud", "scope": "asia-northeast1"},
        {"ipv6Prefix": "2001:db8:1::/48", "service": "Google Cloud", "scope": "asia-northeast1"},
    ],
}
ORACLE = {
    "last_updated_timestamp": "2026-10-21T00:00:00",
    "regions": [
        {"region": "ap-tokyo-1", "cidrs": [{"cidr": "192.0.2.0/24", "tags": ["OSN", "OBJECT_STORAGE"]}]}
    ],
}
CLOUDFLARE = {
    "result": {"ipv4_cidrs": ["192.0.2.0/24"], "ipv6_cidrs": ["2001:db8::/32"]},
    "success": True,
}


def made(content: str | bytes | dict[str, Any], name: str = "a.txt") -> AddressList:
    if isinstance(content, dict):
        content = json.dumps(content)
    return list_of(content.encode() if isinstance(content, str) else content, Path(name))


def table(*contents: Any, provider: str = "", flags: tuple[str, ...] = ()) -> RangeTable:
    return table_of_lists([Listed(*made(c).read(), provider=provider, flags=flags) for c in contents])


def said(found: RangeTable, address: str) -> tuple[Any, ...]:
    row = found.find(parse([address]))
    facts = [found.take(name, row) for name in ("cloud", "cloud_region", "cloud_service", "flags")]
    texts = [f.decode()[0] if isinstance(f, Text) else words(max(int(f[0]), 0)) for f in facts]
    return tuple(texts)


@pytest.mark.parametrize(
    ("content", "address", "facts", "day"),
    [
        (AWS, "192.0.2.1", ("aws", "ap-northeast-1", "EC2+S3", "hosting"), "2026-10-26"),
        (AWS, "192.0.2.65", ("aws", "GLOBAL", "CLOUDFRONT", "cdn+hosting"), "2026-10-26"),
        (AWS, "2001:db8::1", ("aws", "us-east-1", "EC2", "hosting"), "2026-10-26"),
        (AWS, "198.51.100.1", (None, None, None, None), "2026-10-26"),
        (AZURE, "198.51.100.200", ("azure", "japaneast", None, "hosting"), None),
        (AZURE, "198.51.100.1", ("azure", "japaneast", "AzureStorage", "hosting"), None),
        (AZURE, "198.51.100.9", ("azure", "japaneast", "AzureAD", "hosting"), None),
        (GOOGLE, "203.0.113.1", ("google-cloud", "asia-northeast1", None, "hosting"), "2026-10-20"),
        (GOOGLE, "2001:db8:1::1", ("google-cloud", "asia-northeast1", None, "hosting"), "2026-10-20"),
        (
            ORACLE,
            "192.0.2.1",
            ("oracle-cloud", "ap-tokyo-1", "OBJECT_STORAGE+OSN", "hosting"),
            "2026-10-21",
        ),
        (CLOUDFLARE, "2001:db8::5", ("cloudflare", None, None, "anycast+cdn"), None),
    ],
)
def test_the_lists_of_the_providers(content: Any, address: str, facts: Any, day: str | None) -> None:
    """Each provider's own JSON gives provider, region, service and kind; the day is the one that it states."""
    assert said(table(content), address) == facts
    assert (str(made(content).built) if day else made(content).built) == day


@pytest.mark.parametrize(
    "text",
    [
        "192.0.2.0/24\n2001:db8::/32\n",
        "\ufeff192.0.2.0/24\r\n2001:db8::/32\r\n",
        "# a comment\n\n192.0.2.0/24 ; SBL1\n2001:db8::/32 # more\n; another\n",
        "192.0.2.0/24,US,US-NJ,Clifton,07014\n2001:db8::/32,NL,NL-NH,Amsterdam,\n",
        "prefix,note\n192.0.2.0/24,x\n2001:db8::/32,y",
        'cidr,note\n"192.0.2.0/24","a, b"\n"2001:db8::/32",',
    ],
)
def test_lists_of_lines(text: str) -> None:
    """Plain text, CSV with and without a head line, with comments, a byte order mark or CRLF: the same networks."""
    found = table(text, provider="digitalocean", flags=("vpn",))
    for address in ("192.0.2.9", "2001:db8::9"):
        assert (said(found, address)[0], said(found, address)[3]) == ("digitalocean", "hosting+vpn")
    assert said(found, "198.51.100.1") == (None, None, None, None)


def test_a_gzip_is_the_list_in_it(tmp_path: Path) -> None:
    """A gzipped list is unpacked; name, date, source and licence come from its head, its hash is that of the file."""
    text = b"# name: my-list\n# date: 2026-11-01\n# source: a feed\n# licence: CC0\n192.0.2.0/24\n"
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(text))
    found = open_list(path)
    assert (found.name, str(found.built), found.source, found.licence) == (
        "my-list",
        "2026-11-01",
        "a feed",
        "CC0",
    )
    assert (found.version, len(found.read()[0])) == (f"my-list 2026-11-01 sha256:{found.sha256[:12]}", 1)


def test_tors_exit_list() -> None:
    """Of Tor's exit list the addresses of exits count, nothing else of it."""
    text = "ExitNode 0F\nPublished 2026-11-20 01:02:03\nLastStatus 2026-11-20 02:00:00\n"
    found = table(text + "ExitAddress 192.0.2.77 2026-11-20 02:01:00\n", flags=("tor",))
    assert said(found, "192.0.2.77") == (None, None, None, "tor")
    assert said(found, "192.0.2.78") == (None, None, None, None)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            "192.0.2.0/24\n\n192.0.2.0/33\n",
            r"^a\.txt:3: '192\.0\.2\.0/33': expected a prefix length from 0 to 32;",
        ),
        ("192.0.2.1/24", r"^a\.txt:1: '192\.0\.2\.1/24' has host bits set"),
        ("2001:db8::1/64", r"^a\.txt:1: .*host bits"),
        ("# x\nexample.net\n", r"^a\.txt:2: 'example\.net' is no address"),
        ("192.0.2.0/x", r"^a\.txt:1: .*prefix length"),
        ("192.0.2.0/24\n192.0.2/24\n", r"^a\.txt:2: "),
        ("fe80::1%eth0", r"^a\.txt:1: "),
        ("192.0.2.0/\u0662", r"^a\.txt:1: .*prefix length"),
        ("# only comments\n", r"^a\.txt: there is no network in it"),
        ("", "there is no network in it"),
        (b"\n\n\xff\xfe", r"^a\.txt:3: is no UTF-8"),
        (b"\x1f\x8bjunk", "its gzip is broken"),
        ("{", r"^a\.txt: is no JSON"),
        ("[]", "is a JSON list"),
        ('{"a": 1}', r"JSON of an unknown kind \(keys \['a'\]\)"),
        ({**AWS, "prefixes": [{"ip_prefix": 7}]}, "entry 1: has not the shape"),
        ({**AWS, "prefixes": [AWS["prefixes"][0], {}]}, "entry 2: has not the shape"),
        ({**GOOGLE, "prefixes": [{"ipv4Prefix": "x"}]}, "entry 1: 'x' is no address"),
        ('cidr,provider\n"192.0.2.0/24,x', r"^a\.txt:2: is no CSV"),
        (
            "cidr,flags\n192.0.2.0/24,vpn\n192.0.2.0/24,bad\n",
            r"^a\.txt:3: 'bad' is no kind of address; expected anycast,",
        ),
    ],
)
def test_what_is_wrong_is_told_by_line(content: Any, reason: str) -> None:
    """A fault names file and line, or the entry of a JSON list, and nothing of the list is taken up."""
    with pytest.raises(EnrichError, match=reason):
        made(content).read()


def test_a_list_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many octets, before or after unpacking, and too many entries are refused."""
    monkeypatch.setattr(lists, "MAX_OCTETS", 1000)
    monkeypatch.setattr(lists, "MAX_ENTRIES", 3)
    path = tmp_path / "a.txt"
    path.write_bytes(b"#" * 1001)
    with pytest.raises(EnrichError, match="is over 1000 octets"):
        open_list(path)
    path.write_bytes(gzip.compress(b"#" * 1001))
    with pytest.raises(EnrichError, match="unpacks to over 1000 octets"):
        open_list(path)
    with pytest.raises(EnrichError, match=r"a\.txt:4: over 3 entries"):
        made("192.0.2.1\n" * 4).read()


def test_a_list_cannot_steer_a_terminal() -> None:
    """Control characters in a list's words are taken out, and words are cut."""
    text = "cidr,provider,region\n192.0.2.0/24,a\x1b[31mb," + "r" * 999
    assert said(table(text), "192.0.2.1")[:2] == ("a [31mb", "r" * 100)


def test_the_most_specific_entry_wins_fact_by_fact() -> None:
    """Nested: what the inner entry does not state is that of the outer one of the same provider, never of another."""
    text = (
        "cidr,provider,region,service\n"
        "192.0.2.0/24,aws,us-east-1,EC2\n192.0.2.0/26,aws,,S3\n192.0.2.128/25,azure,,\n"
        "192.0.2.0/24,azure,japaneast,SQL\n"
    )
    found = table(text)
    assert said(found, "192.0.2.1") == ("aws", "us-east-1", "S3", "hosting")
    assert said(found, "192.0.2.100") == ("aws", "us-east-1", "EC2", "hosting")
    assert said(found, "192.0.2.200") == ("azure", None, None, "hosting")


def test_flags_add_up_over_lists() -> None:
    """An address in several lists has the flags of all, outer networks included; the first list's provider stands."""
    first = Listed(*made("192.0.2.0/24").read(), flags=("vpn",))
    second = Listed(*made("192.0.2.1\n192.0.2.0/25").read(), provider="aws", flags=("tor",))
    found = table_of_lists([first, second])
    assert said(found, "192.0.2.1") == ("aws", None, None, "hosting+vpn+tor")
    assert said(found, "192.0.2.200") == (None, None, None, "vpn")
    assert FLAGS[0] == "anycast"


@pytest.mark.parametrize("joined", ["vpn+tor", '"VPN,tor"', "Tor;vpn", "vpn tor", "vpn|tor|"])
def test_flags_of_a_row_however_they_are_joined(joined: str) -> None:
    """Several flags of one row all count, whatever sign joins them and in whatever case they are."""
    found = table(f"cidr,flags\n192.0.2.0/24,{joined}\n198.51.100.0/24,\n")
    assert said(found, "192.0.2.1") == (None, None, None, "vpn+tor")
    assert said(found, "198.51.100.1") == (None, None, None, None)


@pytest.mark.parametrize(
    ("text", "entry", "refused"),
    [
        ("192.0.2.0/24\n", {}, True),
        ("network,kind\n192.0.2.0/24,vpn\n", {}, True),
        ("192.0.2.0/24\n", {"flags": ("vpn",)}, False),
        ("192.0.2.0/24\n", {"provider": "aws"}, False),
        ("192.0.2.0/24,JP,JP-13,Tokyo,\n", {}, False),
    ],
)
def test_a_list_that_says_nothing_is_refused(
    tmp_path: Path, text: str, entry: dict[str, Any], refused: bool
) -> None:
    """Networks of which neither the list nor the settings say anything: told, with what to add, not taken in silence."""
    file = tmp_path / "mine.csv"
    file.write_text(text)
    sources = Sources({}, {"list.mine": ListFile(file=file, **entry)})
    opened = {"list.mine": sources.open_list("list.mine")}
    if not refused:
        assert len(sources.listed(opened, None))
        return
    with pytest.raises(
        EnrichError, match=r"mine\.csv: says nothing of its networks .*; add `flags` or `provider`"
    ):
        sources.listed(opened, None)


def test_regions_that_others_operate() -> None:
    """In some countries another company runs a provider's region, so its list does not name the operator there."""
    regions = ("cn-north-1", "ap-northeast-1", None)
    assert [operates("aws", region) for region in regions] == [False, True, True]
    assert operates("unheard-of", "cn-north-1")


prefix_texts = st.one_of(
    st.builds(
        lambda n, length: str(ip_network((n, length), strict=False)),
        st.integers(0, 2**32 - 1),
        st.integers(0, 32),
    ),
    st.builds(
        lambda n, length: str(ip_network((n, length), strict=False)),
        st.one_of(st.integers(0, 2**128 - 1), st.integers(0, 7).map(lambda n: n << 62)),
        st.integers(0, 128),
    ).filter(lambda t: not ip_network(t).overlaps(ip_network("::/64"))),
)


@given(st.lists(prefix_texts, max_size=15), st.lists(st.integers(0, 2**32 - 1), max_size=5))
def test_any_prefixes_answer_as_a_search_over_all(texts: list[str], more: list[int]) -> None:
    """At every edge of every prefix, and at random, the longest one answers, of equal ones the first."""
    found = from_prefixes(Prefixes.parse(texts), {})
    networks = [ip_network(t) for t in texts]
    addresses = {ip_address(n) for n in more}
    for network in networks:
        for number in (int(network.network_address), int(network.broadcast_address)):
            for near in (number - 1, number, number + 1):
                if 0 <= near < 1 << network.max_prefixlen:
                    addresses.add(type(network.network_address)(near))
    asked = sorted((a for a in addresses if a.version == 4 or int(a) >> 64), key=str)

    def longest(address: Any) -> int:
        fits = [
            (-n.prefixlen, i) for i, n in enumerate(networks) if n.version == address.version and address in n
        ]
        return min(fits)[1] if fits else -1

    null = (1 << 128) - 1
    asked = [a for a in asked if int(a) != null]
    assert found.find(parse(map(str, asked))).tolist() == [longest(a) for a in asked] if asked else True


@given(st.binary(max_size=300))
def test_any_octets_are_a_list_or_an_error(data: bytes) -> None:
    """Whatever the octets, reading gives entries or an EnrichError, never anything else."""
    try:
        prefixes, entries = list_of(data, Path("x")).read()
    except EnrichError:
        return
    assert len(prefixes) == len(entries.cidrs) > 0


def test_a_million_prefixes() -> None:
    """A million networks are read, compiled and answered, each of them with its own row."""
    numbers = np.arange(1_000_000, dtype=np.int64) * 512 + (20 << 24)
    text = "\n".join(f"{n >> 24}.{n >> 16 & 255}.{n >> 8 & 255}.0/24" for n in numbers.tolist())
    prefixes, entries = made(text).read()
    found = table_of_lists([Listed(prefixes, entries, provider="aws", flags=("vpn",))])
    assert len(entries.cidrs) == 1_000_000
    assert found.intervals[0] == 2_000_001
    assert said(found, "20.0.0.1") == ("aws", None, None, "hosting+vpn")
    assert said(found, "20.0.1.1") == (None, None, None, None)


def test_the_first_bad_prefix_is_named() -> None:
    """The index of the first text that is no prefix is told."""
    with pytest.raises(PrefixError) as caught:
        Prefixes.parse(["192.0.2.0/24", "2001:db8::/129"])
    assert caught.value.index == 1

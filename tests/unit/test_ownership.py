"""The ownership table, what is told of it, and when it matches a destination set."""

from __future__ import annotations

import string
from collections import Counter
from datetime import date
from ipaddress import ip_network
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.address import parse
from agent.core.errors import PolicyError
from agent.core.finding import OwnerFact
from agent.policy.load import load
from agent.policy.match import Match, in_networks, matches, restricts
from agent.policy.model import DestinationSet, Override
from agent.policy.ownership import Ownership, is_stale
from agent.policy.ownership_page import page

TODAY = date(2026, 11, 21)
TABLE = Ownership.load()
ROOT = Path(__file__).parents[2]


def shipped_set(name: str) -> DestinationSet:
    for pack in load([], today=TODAY).packs:
        for found in pack.destinations:
            if found.id == name:
                return found
    raise AssertionError(name)


def match(asn: int, name: str = "restricted-owners") -> Match:
    fact = TABLE.fact(asn=asn, as_org=None, today=TODAY)
    return matches(shipped_set(name), fact, asn=asn, country=None)


def test_version_names_day_and_digest() -> None:
    """The version is `ownership <date> sha256:<12 hex digits>`."""
    word, day, digest = TABLE.version.split(" ")
    assert (word, date.fromisoformat(day), digest[:7]) == ("ownership", date(2026, 11, 21), "sha256:")
    assert len(digest) == 19
    assert set(digest[7:]) <= set(string.hexdigits.lower())


def test_each_network_stands_once() -> None:
    """No autonomous system stands in two rows, and each is found."""
    counted = Counter(asn for row in TABLE.rows for asn in row.asns)
    assert set(counted.values()) == {1}
    assert len(counted) > 150
    assert all(TABLE.asn(asn) is not None for asn in counted)
    assert (TABLE.asn(64500), TABLE.provider("nobody")) == (None, None)


def test_page_is_up_to_date() -> None:
    """docs/ownership.md is what `python -m agent.policy.ownership` writes."""
    assert (ROOT / "docs/ownership.md").read_text(encoding="utf-8") == page(TABLE)


def test_whole_fact_of_one_network() -> None:
    """A network's fact names operator, owner, source, date, lists and doubts; the weaker mark is told."""
    assert TABLE.fact(asn=136907, as_org="HWCLOUDS", today=TODAY) == OwnerFact(
        provider="huawei-cloud",
        provider_name="Huawei Cloud",
        organisation="HUAWEI INTERNATIONAL PTE. LTD.",
        organised_in="SG",
        owner="Huawei Investment & Holding Co., Ltd",
        owner_id="huawei",
        owner_country="CN",
        share="held by employees through the Union",
        source="annual reports 2018 and 2019; list copies",
        checked="2026-11-21",
        mark="V2",
        designations=("1260H from 2021-06-03", "FCC from 2021-03-12"),
        note="Overseas regions",
    )


def test_unknown_network_is_unknown() -> None:
    """A network outside the table has its name from the database and nothing else."""
    assert TABLE.fact(asn=64500, as_org="Example Networks", today=TODAY) == OwnerFact(
        organisation="Example Networks"
    )
    assert TABLE.fact(asn=None, as_org=None, today=TODAY) == OwnerFact()


def test_owner_is_not_inferred_from_a_name() -> None:
    """Names that mislead: each network has the owner on record, not the one its name suggests."""
    asked = {45102: "HK", 38107: "CN", 213291: "NL", 199524: "LU", 210644: "RU", 57568: "IR", 59257: "CN"}
    found = {asn: TABLE.fact(asn=asn, as_org=None, today=TODAY).owner_country for asn in asked}
    assert found == asked
    assert TABLE.asn(34947) is None  # Alibaba Travel Company
    assert TABLE.asn(208398) is None  # originates Yandex prefixes


@pytest.mark.parametrize(
    ("asn", "counts"),
    [
        (45102, True),
        (396986, False),
        (63288, True),
        (63199, True),
        (36678, True),
        (19174, True),
        (11983, False),
    ],
)
def test_us_organised_subsidiaries_are_for_review(asn: int, counts: bool) -> None:
    """A subsidiary organised in the US counts for the operator's owner list unless disputed, for review, and not for us-dsp."""
    row = TABLE.asn(asn)
    assert row is not None
    assert (row.organised_in, row.review) == ("US", True)
    assert (match(asn).hit, match(asn, "us-dsp-countries").hit) == (counts, False)


@pytest.mark.parametrize("asn", [9304, 3491])
def test_hong_kong_companies_not_owned_from_the_mainland(asn: int) -> None:
    """HGC and PCCW: organised in Hong Kong counts for us-dsp, nothing counts for the owner list."""
    assert match(asn) == Match(False, (), False)
    assert match(asn, "us-dsp-countries") == Match(True, ("organised_in",), False)


@pytest.mark.parametrize(
    "asn",
    [
        21859,
        62610,
        4229,
        139057,
        54994,
        139341,
        59796,
        200449,
        7979,
        199524,
        202422,
        213291,
        53428,
        210560,
        11983,
        138699,
        150436,
        6682,
        16509,
        24940,
    ],
)
def test_doubtful_owners_never_match(asn: int) -> None:
    """Disputed, divested and neutral networks never count as of a restricted owner."""
    assert match(asn).hit is False


@pytest.mark.parametrize(
    "asn",
    [134963, 132203, 136907, 38365, 4134, 9381, 38107, 13238, 8359, 198610, 202468, 27725, 8048, 131279],
)
def test_owners_on_record_match(asn: int) -> None:
    """Networks whose owner on record has its head office in a listed country match by that."""
    assert match(asn) == Match(True, ("owner_country",), False)


def test_disputed_owner_organised_in_a_listed_country() -> None:
    """A dispute on the owner does not touch where the holder is organised."""
    assert match(137718, "us-dsp-countries") == Match(True, ("owner_country", "organised_in"), True)


def test_stale_rows_say_so() -> None:
    """Facts older than twelve months are stale and still count."""
    fact = TABLE.fact(asn=12389, as_org=None, today=TODAY)
    assert (fact.checked, fact.stale, match(12389).hit) == ("2021-12-31", True, True)
    days = [date(2026, 11, 21), date(2027, 11, 21), date(2027, 11, 22), date(2028, 1, 1)]
    assert [is_stale(date(2026, 11, 21), day) for day in days] == [False, False, True, True]
    assert is_stale(date(2024, 2, 29), date(2025, 2, 28)) is False


def test_removed_designation_keeps_its_end() -> None:
    """A list that removed an owner is told with the day of removal."""
    assert TABLE.fact(asn=202468, as_org=None, today=TODAY).designations == (
        "US SDN from 2023-06-02",
        "UK from 2023-09",
        "EU to 2024-04-04",
    )


def test_provider_gives_what_its_rows_share() -> None:
    """A provider known without its network has no organisation of its own, and only what all its rows share."""
    row = TABLE.provider("alibaba-cloud")
    assert row is not None
    assert (row.owner, row.organisation, row.organised_in, row.review) == ("alibaba", "", None, False)
    fact = TABLE.fact(asn=64500, as_org="Reseller", provider="alibaba-cloud", today=TODAY)
    assert (fact.provider, fact.organisation, fact.owner_id) == ("alibaba-cloud", "Reseller", "alibaba")


def test_owner_wins_over_the_network() -> None:
    """A known owner id brings its own record; an unknown name brings no country and no source."""
    known = TABLE.fact(asn=16509, as_org=None, owner="huawei", today=TODAY)
    assert (known.provider, known.owner_id, known.owner_country, known.mark) == ("aws", "huawei", "CN", "V")
    unknown = TABLE.fact(asn=16509, as_org=None, owner="Example Holdings", today=TODAY)
    assert (unknown.owner, unknown.owner_country, unknown.source, unknown.mark) == (
        "Example Holdings",
        None,
        "",
        "",
    )


def test_override_is_the_operators_word() -> None:
    """What an override says of the owner replaces the record, with mark O, its source and its date."""
    override = Override(
        network=ip_network("203.0.113.0/24"),
        as_org="Example Cloud Europe GmbH",
        owner="Example Holdings Group",
        owner_country="CN",
        organised_in="DE",
        source="contract 12",
        checked=date(2025, 1, 1),
    )
    assert TABLE.fact(asn=21859, as_org="Zenlayer Inc", today=TODAY, override=override) == OwnerFact(
        provider="zenlayer",
        provider_name="Zenlayer",
        organisation="Example Cloud Europe GmbH",
        organised_in="DE",
        owner="Example Holdings Group",
        owner_id="Example Holdings Group",
        owner_country="CN",
        source="contract 12",
        checked="2025-01-01",
        mark="O",
        stale=True,
    )


def test_override_of_the_place_leaves_the_owner() -> None:
    """An override that speaks of nothing but the place changes nothing of the owner's record."""
    override = Override(network=ip_network("203.0.113.0/24"), country="DE")
    plain = TABLE.fact(asn=136907, as_org=None, today=TODAY)
    assert TABLE.fact(asn=136907, as_org=None, today=TODAY, override=override) == plain


SET = DestinationSet(
    id="x",
    owners=("o",),
    owner_countries=("CN",),
    organised_in=("HK",),
    providers=("p",),
    asns=(64500,),
    countries=("RU",),
    networks=(ip_network("203.0.113.0/24"), ip_network("2001:db8::/32")),
)


def test_place_alone_is_no_hit() -> None:
    """Where an address is may be told, but never opens anything by itself."""
    assert restricts(SET, None, None, None, None, None, "RU") == Match(False, ("country",), False)
    assert restricts(SET, None, None, None, None, None, "RU", True, True) == Match(False, ("country",), False)


def test_unknown_matches_nothing() -> None:
    """None and empty text match no line, even of an empty set."""
    assert restricts(SET, "", "", "", "", None, "") == Match(False, (), False)
    assert restricts(DestinationSet(id="e"), None, None, None, None, None, None) == Match(False, (), False)


def test_every_line_matches_by_itself() -> None:
    """Each line of a set is enough, and says its name."""
    found = [
        restricts(SET, None, "o", None, None, None, None),
        restricts(SET, None, None, "CN", None, None, None),
        restricts(SET, None, None, None, "HK", None, None),
        restricts(SET, "p", None, None, None, None, None),
        restricts(SET, None, None, None, None, 64500, None),
        restricts(SET, None, None, None, None, None, None, in_network=True),
    ]
    names = ["owner", "owner_country", "organised_in", "provider", "asn", "network"]
    assert found == [Match(True, (name,), False) for name in names]


def test_what_the_set_names_itself_stands_in_spite_of_doubt() -> None:
    """A dispute blocks the lines on the owner only; review blocks them unless the set lets review count."""
    assert restricts(SET, None, "o", "CN", None, None, None, True) == Match(
        False, ("owner", "owner_country"), True
    )
    assert restricts(SET, "p", "o", None, None, None, None, True) == Match(True, ("owner", "provider"), True)
    counting = SET.model_copy(update={"review_counts": True})
    assert restricts(counting, None, "o", None, None, None, None, False, True) == Match(
        True, ("owner",), True
    )
    assert restricts(counting, None, "o", None, None, None, None, True, True) == Match(
        False, ("owner",), True
    )


def test_networks_of_a_set() -> None:
    """Networks are asked of whole columns."""
    addresses = parse(["203.0.113.9", "198.51.100.1", "2001:db8::1"])
    assert in_networks(SET, addresses).tolist() == [True, False, True]
    assert in_networks(DestinationSet(id="e"), addresses).tolist() == [False, False, False]
    assert in_networks(SET, addresses).dtype == np.bool_


@given(
    st.sampled_from([None, "", "p", "q"]),
    st.sampled_from([None, "", "o", "r"]),
    st.sampled_from([None, "CN", "DE"]),
    st.sampled_from([None, "HK", "DE"]),
    st.sampled_from([None, 64500, 64501]),
    st.sampled_from([None, "RU", "DE"]),
    st.booleans(),
)
def test_doubt_never_adds_a_hit(
    provider: str | None,
    owner: str | None,
    owner_country: str | None,
    organised_in: str | None,
    asn: int | None,
    country: str | None,
    counts: bool,
) -> None:
    """Whatever else is known, a dispute or a review never turns a miss into a hit, nor changes what is told."""
    destinations = SET.model_copy(update={"review_counts": counts})
    facts = (provider, owner, owner_country, organised_in, asn, country)
    plain = restricts(destinations, *facts)
    for doubts in ((True, False), (False, True), (True, True)):
        doubted = restricts(destinations, *facts, *doubts)
        assert doubted.by == plain.by
        assert plain.hit or not doubted.hit


def test_faults_of_a_table(tmp_path: Path) -> None:
    """A table with a network twice, an unknown or unused owner, or a provider of two owners is refused, all at once."""
    file = tmp_path / "o.yaml"
    file.write_text(
        "version: 1\nupdated: 2026-01-01\nowners:\n"
        "  - {id: a, name: A, mark: K, source: s, checked: 2026-01-01}\n"
        "  - {id: a, name: A, mark: K, source: s, checked: 2026-01-01}\n"
        "  - {id: b, name: B, mark: K, source: s, checked: 2026-01-01}\n"
        "  - {id: c, name: C, mark: K, source: s, checked: 2026-01-01}\n"
        "networks:\n"
        "  - {asns: [64500], provider: p, provider_name: P, organisation: O, owner: a}\n"
        "  - {asns: [64500], provider: p, provider_name: P, organisation: O, owner: b}\n"
        "  - {asns: [64501], provider: q, provider_name: Q, organisation: O, owner: d}\n"
    )
    with pytest.raises(PolicyError) as raised:
        Ownership.load(file)
    assert [(f.line, f.message) for f in raised.value.faults] == [
        (5, "owner `a` is given twice, first on line 4"),
        (7, "no network leads to owner `c`"),
        (10, "AS64500 is given twice, first on line 9"),
        (10, "rows of provider `p` differ in owner, name or dispute"),
        (11, "there is no owner `d`"),
    ]
    file.write_text("version: 1\nupdated: 2026-01-01\nowners: []\nnetworks: []\nrows: []\n")
    with pytest.raises(PolicyError, match=r"o\.yaml:5: unknown key `rows`"):
        Ownership.load(file)

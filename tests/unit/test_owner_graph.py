"""The graph of owners: who decides, what several hold together, and which files are refused."""

from __future__ import annotations

from datetime import date
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import PolicyError
from agent.core.finding import OwnerStep
from agent.policy.graph import Concern, Graph, Held, cycle
from agent.policy.holders import WHOLE, Owner, Stake
from agent.policy.match import Match, matches
from agent.policy.model import DestinationSet
from agent.policy.ownership import Ownership

TODAY = date(2026, 11, 21)
SEEN = date(2026, 11, 1)
CN = Concern(countries=frozenset({"CN", "RU"}))


def company(name: str, **changed: object) -> Owner:
    return Owner.model_validate(
        {"id": name, "name": name, "mark": "V", "source": "s", "checked": SEEN} | changed
    )


def stake(of: str, by: str, share: object = None, **changed: object) -> Stake:
    facts = {"of": of, "by": by, "share": share, "mark": "V", "source": "s", "checked": SEEN}
    return Stake.model_validate(facts | changed)


def graph(*stakes: Stake, **countries: str) -> Graph:
    names = {name for one in stakes for name in (one.of, one.by)} | countries.keys()
    return Graph({n: company(n, country=countries.get(n)) for n in names}, stakes)


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ((25.5, 24.5), True),
        ((25.5, 24.4999), False),
        ((50,), True),
        ((49.9999,), False),
        ((10, 20, 20), True),
    ],
)
def test_owners_of_concern_are_added_up(shares: tuple[float, ...], expected: bool) -> None:
    """28 CFR 202.211(a)(1): several owners that hold 50 % or more in the aggregate count as one would."""
    names = [f"h{n}" for n in range(len(shares))]
    found = graph(
        *(stake("c", by, share) for by, share in zip(names, shares, strict=True)),
        **dict.fromkeys(names, "CN"),
    ).held("c", CN)
    assert (found.share >= WHOLE // 2) is expected


def test_what_counts_counts_whole_for_what_it_holds() -> None:
    """Half of a half is enough (202.211(a)(2)): a company that counts passes on its whole share, not a quarter."""
    two = graph(stake("mid", "top", 50), stake("c", "mid", 50), top="RU")
    assert two.held("c", CN) == Held(500_000, 500_000, "V", SEEN)
    less = graph(stake("mid", "top", 49), stake("c", "mid", 100), top="RU")
    assert less.held("c", CN).share == 0


def test_direct_and_indirect_shares_are_added_up() -> None:
    """A share held directly and one held through a company that counts make one sum."""
    both = graph(stake("c", "top", 20), stake("c", "mid", 30), stake("mid", "top", 80), top="CN")
    assert both.held("c", CN).share == 500_000


@pytest.mark.parametrize(
    ("changed", "possible"),
    [({"disputed": True}, 600_000), ({"to": "2024-07-15"}, 0), ({"share": None, "control": True}, 0)],
)
def test_disputed_given_up_and_unknown_shares_add_nothing(changed: dict[str, object], possible: int) -> None:
    """A disputed stake only may count, one that was given up and one without a share on record do not."""
    found = graph(
        stake("c", "top", 60).model_copy(update=stake("c", "top", **{"share": 60} | changed).__dict__),
        top="CN",
    )
    assert (found.held("c", CN).share, found.held("c", CN).possible) == (0, possible)


def test_a_disputed_owner_counts_for_nothing() -> None:
    """An owner whose own record is disputed names nothing by itself."""
    owners = {"c": company("c"), "top": company("top", country="CN", disputed=True)}
    assert Graph(owners, [stake("c", "top", 100)]).held("c", CN) == Held(0, WHOLE, "", None)


def test_the_weakest_mark_and_the_oldest_day_are_told() -> None:
    """The sum of shares is as sure as the least of what was added up."""
    old = date(2020, 1, 1)
    found = graph(stake("c", "a", 30, mark="K"), stake("c", "b", 30, checked=old), a="CN", b="RU").held(
        "c", CN
    )
    assert found == Held(600_000, 600_000, "K", old)


def test_organised_in_and_named_owners_count_too() -> None:
    """A destination set may name owners by id, or by the law under which they are organised."""
    owners = {"c": company("c"), "a": company("a", organised_in="HK"), "b": company("b")}
    found = Graph(owners, [stake("c", "a", 30), stake("c", "b", 30)])
    assert found.held("c", Concern(organised_in=frozenset({"HK"}))).share == 300_000
    assert found.held("c", Concern(frozenset({"b"}), organised_in=frozenset({"HK"}))).share == 600_000


def test_who_decides_is_walked_up() -> None:
    """More than half of capital or votes, or control, leads on; two halves lead nowhere."""
    up = graph(
        stake("c", "a", 60),
        stake("a", "b", 10, votes=57.3),
        stake("b", "d", control=True),
        stake("c", "x", 40),
    )
    assert [s.by for s in up.walk("c")] == ["a", "b", "d"]
    halves = graph(stake("c", "a", 50), stake("c", "b", 50))
    assert halves.walk("c") == ()
    assert [s.by for s in graph(stake("c", "a", 60, disputed=True)).walk("c")] == []


def test_the_chain_holds_every_stake_once() -> None:
    """All stakes above a company are told, nearest first, largest first, those that do not count as well."""
    diamond = graph(
        stake("c", "a", 30), stake("c", "b", 60), stake("a", "t", 100), stake("b", "t", 100, to="2020")
    )
    assert [(s.of, s.by) for s in diamond.chain("c")] == [("c", "b"), ("c", "a"), ("b", "t"), ("a", "t")]


NODES = [f"n{i}" for i in range(6)]


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 100)), max_size=15),
    st.sets(st.sampled_from(NODES)),
)
def test_held_is_the_least_fixed_point(edges: list[tuple[int, int, int]], named: set[str]) -> None:
    """Whatever the graph, the sums are those of the plain rule repeated until nothing changes."""
    stakes = {(a, b): share for a, b, share in edges if a < b}
    found = graph(
        *(stake(f"n{a}", f"n{b}", share) for (a, b), share in stakes.items()),
        **{n: "CN" if n in named else "DE" for n in NODES},
    )
    counts = set(named)
    for _ in NODES:
        for node in NODES:
            total = sum(s for (a, b), s in stakes.items() if f"n{a}" == node and f"n{b}" in counts)
            counts |= {node} if total >= 50 else set()
    for node in NODES:
        share = found.held(node, Concern(countries=frozenset({"CN"}))).share
        assert (share * 2 >= WHOLE) is (node in counts)


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=20))
def test_a_cycle_is_found_where_there_is_one(edges: list[tuple[int, int]]) -> None:
    """A circle is told if and only if some company leads back to itself, and it is one."""
    reach = {(a, b) for a, b in edges}
    for k in range(8):
        reach |= {(a, c) for a, b in reach for d, c in reach if b == d == k}
    circle = cycle([stake(f"n{a}", f"n{b}", 1) for a, b in dict.fromkeys(edges)])
    assert bool(circle) is any(a == b for a, b in reach)
    if circle:
        assert circle[0] == circle[-1]
        steps = {(f"n{a}", f"n{b}") for a, b in edges}
        assert all(step in steps for step in pairwise(circle))


HEAD = "version: 1\nupdated: 2026-11-01\n"


def own(folder: Path, text: str) -> Ownership:
    file = folder / "own.yaml"
    file.write_text(HEAD + text)
    return Ownership.load(own=[file], today=TODAY)


EDGE = "mark: V, source: filing, checked: 2026-11-01"


def test_a_file_of_ones_own_wins(tmp_path: Path) -> None:
    """Owners by id, stakes by both ends and networks by number take the place of those in sekisho; the rest stays."""
    table = own(
        tmp_path,
        "owners:\n"
        f"  - {{id: buyer, name: Buyer Ltd, country: DE, {EDGE}}}\n"
        "stakes:\n"
        f"  - {{of: hgc, by: buyer, share: 100, {EDGE}}}\n"
        f"  - {{of: hgc, by: i-squared-capital, share: 100, to: 2026-10, {EDGE}}}\n"
        "networks:\n"
        "  - {asns: [45102], provider: sold, provider_name: Sold, organisation: Sold Ltd, owner: buyer}\n",
    )
    asked = {
        asn: table.fact(asn=asn, as_org=None, today=TODAY).owner_id for asn in (9304, 45102, 134963, 3491)
    }
    assert asked == {9304: "buyer", 45102: "buyer", 134963: "alibaba", 3491: "pccw"}
    assert Ownership.load().fact(asn=9304, as_org=None, today=TODAY).owner_id == "i-squared-capital"
    assert table.version != Ownership.load().version


def test_the_chain_of_a_shipped_network(tmp_path: Path) -> None:
    """A network's fact carries the stakes above its holder with share, source, date and mark."""
    fact = Ownership.load().fact(asn=3491, as_org=None, today=TODAY)
    assert fact.owner_id == "pccw"
    assert fact.chain == (
        OwnerStep(
            of="pccw",
            of_name="PCCW Ltd",
            by="china-unicom",
            by_name="China United Network Communications Group",
            country="CN",
            state_control=True,
            share="18.4 %",
            source="FCC order notes; news",
            checked="2026-11-21",
            mark="V2",
        ),
    )


@pytest.mark.parametrize(
    ("unicom", "hit"), [("18.4", False), ("49.99", False), ("50", True), ("50, disputed: true", False)]
)
def test_shares_of_listed_owners_match_a_set(tmp_path: Path, unicom: str, hit: bool) -> None:
    """From 50 % on, what listed owners hold together is the line `owner_share`; a disputed share is one to review."""
    table = own(tmp_path, f"stakes:\n  - {{of: pccw, by: china-unicom, share: {unicom}, {EDGE}}}\n")
    fact = table.fact(asn=3491, as_org=None, today=TODAY)
    listed = DestinationSet(id="x", owner_countries=("CN",))
    found = matches(listed, fact, asn=3491, country=None, held=table.held(fact, listed))
    assert found.hit is hit
    assert ("owner_share" in found.by, found.review) == (hit or "disputed" in unicom, "disputed" in unicom)


def test_a_subsidiary_organised_in_the_us_is_for_review(tmp_path: Path) -> None:
    """28 CFR 202.256: a row that does not say says `review` if its holder is organised in the US and its owner elsewhere."""
    rows = "networks:\n"
    for asn, owner, more in (
        (64500, "huawei", ""),
        (64501, "amazon", ""),
        (64502, "huawei", ", review: false"),
    ):
        rows += f"  - {{asns: [{asn}], provider: p{asn}, provider_name: P, organisation: P Inc, organised_in: US, owner: {owner}{more}}}\n"
    table = own(tmp_path, rows)
    assert [table.fact(asn=asn, as_org=None, today=TODAY).review for asn in (64500, 64501, 64502)] == [
        True,
        False,
        False,
    ]


def test_every_fault_of_a_file_is_told_with_its_line(tmp_path: Path) -> None:
    """Shares over 100 %, circles, unknown owners and dates that lie ahead are refused, each with line and advice."""
    text = (
        "owners:\n"
        f"  - {{id: a, name: A, {EDGE}}}\n"
        f"  - {{id: b, name: B, mark: V, source: s, checked: 2027-01-01}}\n"
        f"  - {{id: c, name: C, {EDGE}}}\n"
        "stakes:\n"
        f"  - {{of: pccw, by: a, share: 90, {EDGE}}}\n"
        f"  - {{of: a, by: b, share: 60, from: 2027-03, {EDGE}}}\n"
        f"  - {{of: b, by: pccw, share: 60, {EDGE}}}\n"
        f"  - {{of: a, by: nobody, share: 10, {EDGE}}}\n"
        f"  - {{of: a, by: b, share: 10, {EDGE}}}\n"
    )
    with pytest.raises(PolicyError) as raised:
        own(tmp_path, text)
    assert [(f.line, f.message) for f in raised.value.faults] == [
        (5, "the date 2027-01-01 lies ahead"),
        (6, "no network leads to owner `c`"),
        (8, "owners of `pccw` hold 108.4 % of the capital together"),
        (9, "the date 2027-03 lies ahead"),
        (10, "owners hold each other in a circle: pccw <- a <- b <- pccw"),
        (11, "there is no owner `nobody`"),
        (12, "what `b` holds of `a` is given twice, first on line 9"),
    ]
    assert all(fault.advice for fault in raised.value.faults)


@pytest.mark.parametrize(
    ("edge", "message"),
    [
        ("{of: pccw, by: huawei, share: 5, mark: V, checked: 2026-11-01}", "`source` is missing"),
        (f"{{of: pccw, by: huawei, share: 101, {EDGE}}}", "a share of 101 % cannot be"),
        (f"{{of: pccw, by: huawei, share: -1, {EDGE}}}", "a share of -1 % cannot be"),
        (f"{{of: pccw, by: huawei, share: half, {EDGE}}}", "expected a share in percent"),
        (f"{{of: pccw, by: huawei, share: .nan, {EDGE}}}", "a share of nan % cannot be"),
    ],
)
def test_a_stake_that_cannot_be_is_refused(tmp_path: Path, edge: str, message: str) -> None:
    """A stake without a source, or with a share that no one can hold, is refused with its line."""
    with pytest.raises(PolicyError) as raised:
        own(tmp_path, f"stakes:\n  - {edge}\n")
    (fault,) = raised.value.faults
    assert (fault.line, fault.message.split(": ")[-1]) == (4, message)


def test_cross_holdings_that_have_ended_are_no_circle(tmp_path: Path) -> None:
    """A stake that was given up may lead back: it is told and followed no further."""
    table = own(
        tmp_path,
        f"stakes:\n  - {{of: china-unicom, by: pccw, share: 5, to: 2020, {EDGE}}}\n",
    )
    assert len(table.fact(asn=3491, as_org=None, today=TODAY).chain) == 2
    listed = DestinationSet(id="x", owner_countries=("CN",))
    fact = table.fact(asn=3491, as_org=None, today=TODAY)
    assert table.held(fact, listed) == Held(184_000, 184_000, "V2", SEEN.replace(day=21))


@given(st.lists(st.integers(-1, 300_000), max_size=40))
def test_columns_find_what_the_table_finds(asked: list[int]) -> None:
    """The sorted columns give each network's row as the table by number does."""
    table = Ownership.load()
    found = table.columns.find(np.array([*asked, 45102, 3491], np.int64)).tolist()
    for asn, row in zip([*asked, 45102, 3491], found, strict=True):
        assert (table.rows[row] if row >= 0 else None) is table.asn(asn)


def test_review_and_dispute_stand_before_shares() -> None:
    """Shares decide nothing where the step from the network to its holder is disputed or for review."""
    listed = DestinationSet(id="x", owner_countries=("CN",))
    held = Held(WHOLE, WHOLE, "V", SEEN)
    fact = Ownership.load().fact(asn=3491, as_org=None, today=TODAY)
    for changed in ({"disputed": True}, {"review": True}):
        found = matches(listed, fact.model_copy(update=changed), asn=3491, country=None, held=held)
        assert found == Match(False, ("owner_share",), True, held)

"""The owner enricher: operator and owner by AS number and override, never by name."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.accounts import Accounts
from agent.core.clock import DataClock
from agent.core.errors import PolicyError
from agent.core.finding import Confidence, OwnerFact
from agent.core.stages import Context
from agent.policy.model import Override, Policy
from agent.policy.ownership import Ownership
from enrichers import owner
from tests.tools.rows import batch_of

FACTS = ("remote_provider", "remote_owner", "remote_owner_country", "owner_confidence")
NOW_NS = int(datetime(2026, 11, 21, tzinfo=UTC).timestamp()) * 10**9
TABLE = """
version: 1
updated: 2026-11-21
owners:
  - {id: north, name: North Group, country: NO, mark: V, source: report, checked: 2026-11-01}
  - {id: guess, name: Guess Group, country: CN, mark: K, source: none, checked: 2026-11-01}
  - {id: fought, name: Fought Group, country: RU, mark: V, source: x, checked: 2026-11-01, disputed: true}
networks:
  - {asns: [64500], provider: north-cloud, provider_name: North Cloud, organisation: North AS, owner: north}
  - {asns: [64501], provider: guess-cloud, provider_name: Guess Cloud, organisation: Guess Ltd, owner: guess}
  - {asns: [64502], provider: fought-net, provider_name: Fought Net, organisation: Fought Ltd, owner: fought}
  - {asns: [64503], provider: north-us, provider_name: North US, organisation: North Inc, owner: north, review: true}
"""


def built(path: Path, *overrides: Override) -> owner.Owner:
    table = path / "ownership.yaml"
    table.write_text(TABLE)
    context = Context(Accounts(), path, clock=DataClock(NOW_NS), policy=Policy(overrides=overrides))
    return owner.Settings(ownership=table).build(context)


def says(enricher: owner.Owner, *rows: dict[str, Any]) -> list[tuple[Any, ...]]:
    batch = enricher.enrich(batch_of(rows))
    return [tuple(row[name] for name in FACTS) for row in batch.rows()]


def test_owner_by_as_number(tmp_path: Path) -> None:
    """Provider, owner and its country come from the AS number; an unknown or null AS has none."""
    rows = [{"remote_asn": asn} for asn in (64500, 64501, 64502, 64503, 64999, None, 64500)]
    assert says(built(tmp_path), *rows) == [
        ("north-cloud", "north", "NO", "high"),
        ("guess-cloud", "guess", "CN", "low"),
        ("fought-net", "fought", "RU", "low"),
        ("north-us", "north", "NO", "low"),
        (None, None, None, "none"),
        (None, None, None, "none"),
        ("north-cloud", "north", "NO", "high"),
    ]


def test_never_by_name(tmp_path: Path) -> None:
    """An organisation's name alone tells nothing of its owner."""
    assert says(built(tmp_path), {"remote_as_org": "North AS"}) == [(None, None, None, "none")]


def test_an_override_names_the_owner(tmp_path: Path) -> None:
    """An override's owner wins over the AS number, the longest prefix first, whatever the AS is."""
    enricher = built(
        tmp_path,
        Override(network="203.0.113.0/24", owner="guess"),
        Override(network="203.0.113.128/25", owner="elsewhere", owner_country="KP", provider="p"),
        Override(network="198.51.100.0/24", provider="north-cloud"),
        Override(network="2001:db8::/32", owner="north"),
        Override(network="192.0.2.0/24", country="JP"),
    )
    rows = [
        {"remote_address": "203.0.113.1", "remote_asn": 64500},
        {"remote_address": "203.0.113.200", "remote_asn": 64500},
        {"remote_address": "198.51.100.1"},
        {"remote_address": "2001:db8::5"},
        {"remote_address": "2002:cb00:7101::"},
        {"remote_address": "192.0.2.1", "remote_asn": 64500},
        {"remote_address": "192.0.3.1", "remote_asn": 64500},
    ]
    found = says(enricher, *rows)
    assert [f[:3] for f in found] == [
        ("north-cloud", "guess", "CN"),
        ("p", "elsewhere", "KP"),
        ("north-cloud", "north", "NO"),
        (None, "north", "NO"),
        (None, "guess", "CN"),
        ("north-cloud", "north", "NO"),
        ("north-cloud", "north", "NO"),
    ]
    assert [f[3] for f in found] == ["medium", "medium", "high", "medium", "medium", "high", "high"]


@pytest.mark.parametrize(
    ("fact", "expected"),
    [
        (OwnerFact(), Confidence.NONE),
        (OwnerFact(provider="p"), Confidence.NONE),
        (OwnerFact(owner_id="o", mark="V"), Confidence.HIGH),
        (OwnerFact(owner_id="o", mark="V", disputed=True), Confidence.LOW),
        (OwnerFact(owner_id="o", mark="V", review=True), Confidence.LOW),
        *((OwnerFact(owner_id="o", mark=m), Confidence.MEDIUM) for m in ("V2", "N", "S", "O")),
        (OwnerFact(owner_country="CN", mark="O"), Confidence.MEDIUM),
        (OwnerFact(owner_id="o", mark="K"), Confidence.LOW),
    ],
)
def test_confidence_by_mark(fact: OwnerFact, expected: Confidence) -> None:
    """How well the row was verified says how far to trust it; dispute and review make it low."""
    assert owner.confidence(fact) is expected


def test_the_memory_is_bounded_and_ends_with_the_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers are remembered up to a bound, and never over midnight."""
    enricher = built(tmp_path)
    monkeypatch.setattr(owner, "MAX_REMEMBERED", 2)
    for asn in range(1, 8):
        says(enricher, {"remote_asn": asn})
    assert len(enricher._known) <= 3
    enricher._clock.set(NOW_NS + 86400 * 10**9)  # type: ignore[attr-defined]
    says(enricher, {"remote_asn": 1})
    assert len(enricher._known) == 1


def test_no_policy_is_no_fault(tmp_path: Path) -> None:
    """Without a policy the shipped table answers, and says its version."""
    enricher = owner.Settings().build(Context(Accounts(), tmp_path))
    assert enricher.versions() == {"ownership": Ownership.load().version}
    assert enricher.reload() is False
    assert enricher.enrich(batch_of([])).text("owner_confidence").decode() == []


def test_a_table_with_faults_is_refused(tmp_path: Path) -> None:
    """A table of the user's own with faults stops the start, with file and line."""
    path = tmp_path / "own.yaml"
    path.write_text(TABLE.replace("owner: guess}", "owner: gues}"))
    with pytest.raises(PolicyError, match=r"own\.yaml:"):
        owner.Settings(ownership=path).build(Context(Accounts(), tmp_path))


@given(
    st.lists(
        st.tuples(
            st.sampled_from([None, 64500, 64501, 64502, 64503, 64999]),
            st.sampled_from([None, 64500, 64502, 64999]),
            st.sampled_from([None, "north-cloud", "fought-net", "aws"]),
            st.sampled_from([None, "eu", "cn-north-1"]),
            st.sampled_from(["203.0.113.1", "198.51.100.1", "2001:db8::1"]),
        ),
        max_size=30,
    )
)
def test_columns_say_what_single_networks_are_judged_as(rows: list[tuple[Any, ...]]) -> None:
    """However rows are put together, each has the answer that its network alone is judged to have."""
    with TemporaryDirectory() as folder:
        enricher = built(
            Path(folder),
            Override(network="203.0.113.0/24", owner="guess"),
            Override(network="2001:db8::/32", provider="north-cloud"),
        )
    overrides = {"203.0.113.1": enricher._overrides[0], "2001:db8::1": enricher._overrides[1]}
    names = ("remote_asn", "remote_asn_witness", "remote_cloud", "remote_cloud_region", "remote_address")
    expected = []
    for asn, second, cloud, region, address in rows:
        fact, worth = owner.judged(
            enricher._ownership,
            asn=asn,
            witness_asn=second,
            cloud=cloud,
            region=region,
            override=overrides.get(address),
            today=date(2026, 11, 21),
        )
        expected.append((fact.provider or None, fact.owner_id or None, fact.owner_country, worth.value))
    assert says(enricher, *(dict(zip(names, row, strict=True)) for row in rows)) == expected

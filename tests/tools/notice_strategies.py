"""Hypothesis strategy for notices of cases, with every fact there or missing."""

from __future__ import annotations

from hypothesis import strategies as st

from agent.core.clock import DAY_NS
from agent.core.finding import (
    ApprovalFact,
    CaseState,
    Confidence,
    Notice,
    NoticeKind,
    OwnerFact,
    Severity,
    Share,
    Standing,
    TrafficState,
)
from agent.policy.model import Category
from tests.tools import notices


def _some(values: list[str]) -> st.SearchStrategy[tuple[Share, ...]]:
    share = st.builds(Share, value=st.sampled_from(values), content_octets_out=st.integers(0, 10**14))
    return st.lists(share, max_size=6, unique_by=lambda s: s.value).map(tuple)


_OWNERS = st.builds(
    OwnerFact,
    provider=st.sampled_from(["", "p1"]),
    provider_name=st.sampled_from(["", "Example Cloud"]),
    organisation=st.sampled_from(["", "Example GmbH"]),
    organised_in=st.sampled_from([None, "DE", "HK", "ZZ"]),
    owner=st.sampled_from(["", "Example Holdings"]),
    owner_country=st.sampled_from([None, "CN", "RU", "XX"]),
    share=st.sampled_from(["", "50 %"]),
    source=st.sampled_from(["", "annual report 2025"]),
    checked=st.sampled_from(["", "2026-09-30"]),
    mark=st.sampled_from(["", "V", "V2", "N", "S", "K", "odd"]),
    disputed=st.booleans(),
    stale=st.booleans(),
    review=st.booleans(),
)


_APPROVALS = st.builds(
    ApprovalFact,
    id=st.sampled_from(["offsite-backup", "apr-2"]),
    standing=st.sampled_from(Standing),
    approver=st.sampled_from(["A. Person"]),
    basis=st.sampled_from(["", "contract 2026-17"]),
    ticket=st.sampled_from(["", "CHG-4412"]),
    valid_from=st.just("2026-11-01"),
    valid_to=st.just("2027-03-31"),
    cap_octets=st.integers(1, 10**14),
    window=st.sampled_from(["24h", "12mo"]),
    used_octets=st.none() | st.integers(0, 10**14),
    provisional=st.booleans(),
)


@st.composite
def _any_notice(draw: st.DrawFn) -> Notice:
    """Notices of every kind, with every fact there or not."""
    kind = draw(st.sampled_from([k for k in NoticeKind if k is not NoticeKind.EVENT]))
    first = draw(st.integers(0, 4 * 10**18))
    finding = notices.finding(
        pack=draw(st.sampled_from(["operator", "us-dsp"])),
        destinations=draw(st.sampled_from([(), ("restricted-owners",), ("a", "b")])),
        reasons=draw(st.sampled_from([(), ("first_seen",), ("restricted_owner", "odd_reason")])),
        severity_reasons=draw(st.sampled_from([(), ("owner_mark_k", "estimated"), ("odd_reason",)])),
        first_seen=draw(st.booleans()),
        observed_days=draw(st.integers(0, 500)),
        share_of_store=draw(st.none() | st.floats(0, 1)),
        window=draw(st.sampled_from(["5m", "1h", "24h", "30d"])),
        provisional=draw(st.booleans()),
        simulated=draw(st.booleans()),
    )
    destination = notices.destination(
        owner=draw(_OWNERS),
        countries=draw(_some(["?", "DE", "CN", "HK", "JP", "XX"])),
        networks=draw(_some(["?", "AS64500 Example", "AS64501 Other"])),
        addresses=draw(_some(["203.0.113.1", "2001:db8::1", "198.51.100.7"])),
        address_count=draw(st.integers(0, 1_000)),
        location_confidence=draw(st.sampled_from(Confidence)),
        owner_confidence=draw(st.sampled_from(Confidence)),
        location_sources=draw(st.sampled_from([(), ("example-country 2026-11-01",)])),
    )
    traffic = notices.traffic(
        octets_out=draw(st.integers(0, 10**15)),
        first_ns=first,
        last_ns=first + draw(st.integers(0, 40 * DAY_NS)),
        bases=draw(
            _some(
                [
                    "process",
                    "port",
                    "unit",
                    "container",
                    "same_pod",
                    "same_host",
                    "copy_of",
                    "relay",
                    "odd",
                    "other",
                    "?",
                ]
            )
        ),
        initiators=draw(_some(["local", "remote", "?"])),
        processes=draw(_some(["?", "rclone", "psql", "curl", "scp"])),
        services=draw(_some(["tcp/443", "udp/443", "?"])),
        estimated=draw(st.booleans()),
        late_octets=draw(st.integers(0, 10**9)),
    )
    store = notices.case().store.model_copy(
        update={
            "name": draw(st.sampled_from(["", "ehr-main"])),
            "categories": tuple(draw(st.lists(st.sampled_from(list(Category)), max_size=4))),
            "contact": draw(st.sampled_from(["", "on-call"])),
            "subjects": draw(st.none() | st.integers(0, 10**8)),
            "runbook": draw(st.sampled_from(["", "runbook 7"])),
            "host": draw(st.sampled_from(["", "db-ehr-01"])),
        }
    )
    case = notices.case(
        severity=draw(st.sampled_from(Severity)),
        state=draw(st.sampled_from(CaseState)),
        traffic_state=draw(st.sampled_from(TrafficState)),
        approvals=tuple(draw(st.lists(_APPROVALS, max_size=3))),
        revision=draw(st.integers(1, 99)),
        store=store,
        destination=destination,
        traffic=traffic,
        findings=(finding,) * draw(st.integers(1, 6)),
        opened_ns=first,
        not_seen=draw(st.sampled_from([(), ("bypass", "processes"), ("odd",)])),
    )
    account = draw(
        st.sampled_from(
            [{}, {"captured": 5}, {"captured_octets": 5, "dropped_octets": 1, "excluded_octets": 0}]
        )
    )
    return notices.notice(kind=kind, case=case, account=account, lost_frames=draw(st.integers(0, 9)))


NOTICES = _any_notice()
"""Any notice of a case."""

"""The words of a relayed transfer: the chain, each leg's evidence, the hedges."""

from __future__ import annotations

from datetime import UTC

import pytest

from agent.core.clock import HOUR_NS
from agent.core.finding import Relay, RelayState, Share
from agent.words import render
from tests.tools import notices

WAY = Relay(
    hosts=("10.20.9.7", "10.20.9.8"),
    host="jump-03",
    state=RelayState.MATCHED,
    taken_octets=42_310_554_112,
    matched_octets=42_118_203_904,
    possible_octets=3_000_000_000,
    taken_first_ns=notices.START_NS,
    sent_first_ns=notices.START_NS + HOUR_NS,
    sent_last_ns=notices.END_NS,
)


def told(language: str, *relays: Relay, basis: str = "relay") -> str:
    """The whole text of a case with such ways."""
    traffic = notices.traffic(relays=relays, bases=(Share(value=basis, content_octets_out=1),))
    notice = notices.notice(case=notices.case(traffic=traffic))
    return render(notice, language=language, zone=UTC, detail="full")


@pytest.mark.parametrize(
    ("language", "words"),
    [
        (
            "en",
            (
                "Relay: ",
                "-> 10.20.9.7 -> jump-03 10.20.9.8 -> Example Holdings Group.",
                "Leg in (observed): jump-03 10.20.9.8 took 42.3 GB from 10.20.9.7",
                "Leg out (observed): jump-03 10.20.9.8 sent 42.1 GB there",
                "inferred, at most so much of it is the store's",
                "went the same way and is possible only",
                "link inferred from volume and time of each leg",
                "in volume and time it fits what store",
            ),
        ),
        (
            "ja",
            (
                "中継：",
                "内側の区間（観測）",
                "外側の区間（観測）",
                "（推定）",
                "可能性のみ",
                "量と時刻が、保管先",
            ),
        ),
    ],
)
def test_a_matched_relay_is_told_leg_by_leg(language, words):
    """Chain, both legs as observed, their link as inferred, the rest as possible; in the title, too."""
    text = told(language, WAY)
    assert [word for word in words if word not in text] == []


@pytest.mark.parametrize(
    ("language", "word"), [("en", "one of its possible origins"), ("ja", "可能性のある送信元の一つ")]
)
def test_behind_a_forwarder_the_store_is_one_of_the_possible_origins(language, word):
    """And its amount is said to be no part of the case's."""
    way = WAY.model_copy(update={"state": RelayState.POSSIBLE, "forwarder": "web-proxy", "matched_octets": 0})
    text = told(language, way, basis="same_host")
    assert word in text
    assert ("Not part of the amount" in text) or ("量には含めていない" in text)


def test_a_direct_transfer_has_no_word_of_a_relay():
    """The line of doubts says so."""
    text = told("en", basis="same_host")
    assert "Relay:" not in text
    assert "direct, no relay is part of this case" in text

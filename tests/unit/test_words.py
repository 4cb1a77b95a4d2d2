"""The words of alerts: what they say, and what they may never say."""

from __future__ import annotations

import string
import unicodedata
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.clock import DAY_NS, HOUR_NS, MINUTE_NS, SECOND_NS
from agent.core.finding import Confidence, Notice, NoticeKind, OwnerFact, Severity, Share
from agent.policy.model import Category
from agent.words import LANGUAGES, phrases, regime_phrases, render, shown, span, units
from agent.words.phrases import _flat, _read
from tests.tools import notices
from tests.tools.forbidden import claims
from tests.tools.notice_strategies import NOTICES

GOLDEN = Path(__file__).parents[1] / "golden"
TOKYO = ZoneInfo("Asia/Tokyo")


def full(notice: Notice, language: str = "en") -> str:
    return render(notice, language=language, zone=TOKYO, detail="full")


def title(notice: Notice, language: str = "en") -> str:
    return render(notice, language=language, zone=TOKYO, detail="title")


def with_destination(**changed: Any) -> Notice:
    findings = (notices.finding(destinations=()),)
    return notices.notice(case=notices.case(destination=notices.destination(**changed), findings=findings))


# golden texts


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize(
    ("name", "notice"),
    [
        ("opened", notices.opened()),
        ("stopped", notices.stopped()),
        ("unverified", notices.unverified()),
        ("event", notices.event()),
    ],
)
def test_full_text_is_the_golden_text(name: str, notice: Notice, language: str) -> None:
    """The full text of a known notice is, to the letter, the one that was read and found good."""
    assert full(notice, language) + "\n" == (GOLDEN / f"alert-{name}.{language}.txt").read_text("utf-8")


# phrases


def test_both_languages_hold_the_same_keys_with_the_same_blanks() -> None:
    """Every phrase exists in both languages and has the same blanks in both."""
    blanks = {
        language: {
            key: {name for _, name, _, _ in string.Formatter().parse(text) if name}
            for key, text in regime_phrases(language)
        }
        for language in LANGUAGES
    }
    assert blanks["en"] == blanks["ja"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_file_of_phrases_speaks_over_another(language: str) -> None:
    """Files of phrases that are read together share no key: the later one would say another thing everywhere."""
    files = [f"{prefix}{language}.yaml" for prefix in ("", "screen.", "regimes.")]
    keys = [set(dict(_flat("", _read(name)))) for name in files]
    assert [sorted(a & b) for a, b in ((keys[0], keys[1]), (keys[0], keys[2]), (keys[1], keys[2]))] == [
        []
    ] * 3


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_phrase_holds_a_forbidden_word(language: str) -> None:
    """No phrase says what sekisho must never say."""
    assert list(claims(regime_phrases(language), assurances=True)) == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_category_and_kind_has_words(language: str) -> None:
    """Each data category of the policy and each kind of notice has a phrase of its own."""
    say = phrases(language)
    wanted = [f"category.{c}" for c in Category] + [f"severity.{s.name.lower()}" for s in Severity]
    wanted += [
        f"{group}.{k}" for k in NoticeKind if k != "event" for group in ("title", "pager", "case_line")
    ]
    assert [key for key in wanted if key not in say] == []


def test_a_count_chooses_between_one_and_many() -> None:
    """A phrase with two forms takes the one that fits the number."""
    say = phrases("en")
    assert (say("summary.cases", n=1), say("summary.cases", n=2)) == ("1 case opened.", "2 cases opened.")


def test_unknown_language_is_refused() -> None:
    """A language without words is an error that names those that have them."""
    with pytest.raises(ValueError, match="expected one of en, ja"):
        phrases("tlh")


# units


@pytest.mark.parametrize(
    ("octets", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1_000, "1 kB"),
        (999_999, "999.9 kB"),
        (1_000_000_000, "1 GB"),
        (42_118_203_904, "42.1 GB"),
        (999_999_999_999, "999.9 GB"),
        (2**63, "9,223 PB"),
    ],
)
def test_sizes_are_decimal_and_cut(octets: int, text: str) -> None:
    """A size is decimal, has one figure behind the point at most and is never rounded up."""
    assert units.size(octets) == text


@given(st.integers(0, 2**63))
def test_a_size_never_says_more_than_was_counted(octets: int) -> None:
    """The figure of a size, multiplied out, is at most the count and less than two tenths of its unit short of it."""
    figure, unit = units.size(octets).split(" ")
    scale = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "PB": 10**15}[unit]
    tenths = round(float(figure.replace(",", "")) * 10)
    said = tenths * scale // 10
    assert said <= octets < said + scale


@pytest.mark.parametrize(
    ("ratio", "text"),
    [
        (0.0, "0 %"),
        (0.001, "< 1 %"),
        (0.834, "83 %"),
        (0.9899, "98 %"),
        (0.9999999, "> 99 %"),
        (1.0, "100 %"),
    ],
)
def test_nearly_all_is_not_all(ratio: float, text: str) -> None:
    """A share is cut; only the whole is 100 % and only nothing is 0 %."""
    assert units.share(ratio) == text


def test_times_stand_in_local_zone_with_utc_beside_them() -> None:
    """A range gives local time with the zone's name, then UTC."""
    assert units.time_range(notices.START_NS, notices.END_NS, TOKYO) == (
        "2026-11-18 01:12-04:14 JST",
        "2026-11-17 16:12-19:14 UTC",
    )


def test_a_range_over_a_change_of_the_clock_names_both_zones() -> None:
    """Where daylight saving ends inside a range, each end keeps the zone name that was in force."""
    first_ns = int(datetime(2026, 10, 24, 23, 40, tzinfo=UTC).timestamp()) * SECOND_NS
    assert units.time_range(first_ns, first_ns + 2 * HOUR_NS, ZoneInfo("Europe/Berlin")) == (
        "2026-10-25 01:40 CEST - 02:40 CET",
        "2026-10-24 23:40 - 2026-10-25 01:40 UTC",
    )


def test_utc_is_not_said_twice() -> None:
    """Where the local zone is UTC, the time stands once."""
    text = render(notices.opened(), language="en", zone=UTC, detail="full")
    assert "UTC (" not in text


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (-5, "0 s"),
        (59 * SECOND_NS, "59 s"),
        (4 * MINUTE_NS + 7 * SECOND_NS, "4 min 07 s"),
        (3 * HOUR_NS + 2 * MINUTE_NS, "3 h 02 min"),
        (2 * DAY_NS + HOUR_NS, "2 d 1 h"),
    ],
)
def test_spans_have_two_units(ns: int, text: str) -> None:
    """A span of time is told in its two largest units."""
    assert span(ns, phrases("en")) == text


# what a title may say


def test_parent_in_title_needs_source_date_and_mark() -> None:
    """The title names the parent's country only with source, mark and date beside it."""
    assert "whose parent on record is in China (annual report 2025, mark V2, 2026-09-30)" in title(
        with_destination()
    )


@pytest.mark.parametrize(
    "changed",
    [
        {"mark": "K"},
        {"mark": ""},
        {"source": ""},
        {"checked": ""},
        {"disputed": True},
        {"stale": True},
        {"review": True},
        {"owner_country": None},
    ],
)
@pytest.mark.parametrize("language", LANGUAGES)
def test_a_doubtful_owner_stays_out_of_the_title(changed: dict[str, Any], language: str) -> None:
    """An ownership record that is unverified, disputed, stale, for review or without source is not in the title."""
    said = title(with_destination(owner=notices.OWNER.model_copy(update=changed)), language)
    assert "China" not in said
    assert "中国" not in said


def test_a_listed_network_of_an_unverified_owner_is_told_by_the_list() -> None:
    """Where the owner may not be named, the title names the operator's own list."""
    assert 'on your list "restricted-owners"' in title(notices.unverified())


@pytest.mark.parametrize("missing", ["source", "checked", "mark"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_a_company_is_not_named_as_owner_without_source_date_and_mark(missing: str, language: str) -> None:
    """An ownership record that lacks source, date or mark is not shown at all."""
    owner = notices.OWNER.model_copy(update={missing: ""})
    assert "Example Holdings" not in full(with_destination(owner=owner, label="x"), language)


def test_k_is_printed_where_an_unverified_owner_is_named() -> None:
    """The body of an alert prints the mark of an unverified record and what it means."""
    assert "mark K: not verified" in full(notices.unverified())


@pytest.mark.parametrize(
    ("countries", "confidence", "said"),
    [
        ((), Confidence.NONE, "at a location not known"),
        (("?",), Confidence.NONE, "at a location not known"),
        (("DE",), Confidence.HIGH, "a network in Germany"),
        (("DE",), Confidence.LOW, "said to be in Germany (confidence low)"),
        (("DE", "?"), Confidence.HIGH, "partly in Germany"),
        (("DE", "FR"), Confidence.HIGH, "in Germany and one more country"),
        (("DE", "FR", "JP"), Confidence.HIGH, "in Germany and 2 more countries"),
    ],
)
def test_the_title_says_no_more_of_the_place_than_is_known(
    countries: tuple[str, ...], confidence: Confidence, said: str
) -> None:
    """An unknown place is said to be not known, a doubted or partial one is said to be so."""
    shares = tuple(Share(value=c, content_octets_out=10) for c in countries)
    notice = with_destination(countries=shares, location_confidence=confidence)
    assert said in title(notice)


def test_first_seen_says_how_long_was_observed() -> None:
    """First seen never reaches beyond the days on record."""
    assert "in the 37 days observed" in full(notices.opened())
    assert "nothing to compare with" in full(notices.unverified())


def test_persons_are_told_only_where_declared() -> None:
    """The block on persons is there only if the store's entry states a number."""
    assert ("PERSONS" in full(notices.opened()), "PERSONS" in full(notices.unverified())) == (True, False)


def test_a_simulated_case_says_so_first() -> None:
    """The first word of a simulated alert is that it is simulated."""
    assert title(notices.notice(simulated=True)).startswith("[SIMULATED] ")
    found = notices.finding(simulated=True)
    assert title(notices.notice(case=notices.case(findings=(found,)))).startswith("[SIMULATED] ")


def test_an_estimate_is_called_one() -> None:
    """Amounts multiplied up from samples are called an estimate in title and body."""
    notice = notices.notice(case=notices.case(traffic=notices.traffic(estimated=True)))
    assert ("An estimated 42.1 GB" in title(notice), "an estimate, not a count" in full(notice)) == (
        True,
        True,
    )


@pytest.mark.parametrize("kind", [NoticeKind.OPENED, NoticeKind.SEVERITY, NoticeKind.PACK, NoticeKind.CLOSED])
@pytest.mark.parametrize("language", LANGUAGES)
def test_the_pager_line_names_nothing(kind: NoticeKind, language: str) -> None:
    """The minimal text is one line with no host, store, place, owner, address or amount."""
    line = render(notices.notice(kind=kind), language=language, zone=TOKYO, detail="minimal")
    names = (
        "ehr",
        "db-",
        "Germany",
        "ドイツ",
        "China",
        "中国",
        "Example",
        "203.0",
        "GB",
        "rclone",
        "health",
        "医療",
    )
    assert "\n" not in line
    assert "2026-1117-07" in line
    assert [name for name in names if name in line] == []


def test_an_event_without_words_is_told_by_its_name() -> None:
    """An event that has no phrase is told by its name and details."""
    text = full(notices.event("moon_rose", phase="full"))
    assert ("moon rose" in text.splitlines()[0], "phase: full" in text) == (True, True)


def test_more_findings_than_fit_are_counted() -> None:
    """Beyond four rules the text gives their number and points to the case."""
    found = tuple(notices.finding(rule=f"rule-{i}") for i in range(7))
    text = full(notices.notice(case=notices.case(findings=found)))
    assert (text.count("Crossed"), "3 more rules: see the case." in text) == (4, True)


# outside text

HOSTILE = st.text(max_size=60) | st.sampled_from(
    [
        "\x1b[31mred\x1b[0m",
        "a\nDO NEXT 1 Ring 555",
        "\u202egnp.exe",
        "{{ 7 * 7 }}",
        "{core}",
        "%s%n",
        "a\u2028b",
        "\x9b2J",
    ]
)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("postgres", "postgres"),
        ("医療情報課 当番", "医療情報課 当番"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\r\nb", "a\\x0d\\x0ab"),
        ("\u202egnp", "\\u202egnp"),
        ("a\u2028b", "a\\u2028b"),
        ("\U000e0041", "\\U000e0041"),
        ("x" * 201, "x" * 200 + "…"),
    ],
)
def test_outside_text_is_shown_harmless(raw: str, text: str) -> None:
    """Control, bidirectional and line characters become visible escapes, letters stay, length is capped."""
    assert shown(raw) == text


@given(st.text())
def test_shown_text_holds_no_hidden_character(raw: str) -> None:
    """Whatever comes in, no control, format, private or line-separating character comes out, and it is short."""
    text = shown(raw)
    hidden = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    assert [c for c in text if unicodedata.category(c) in hidden] == []
    assert len(text) <= 200 * 10 + 1
    assert shown(text, len(text)) == text


@settings(deadline=None)
@given(HOSTILE, st.sampled_from(LANGUAGES))
def test_no_outside_text_adds_a_line_or_a_control_character(raw: str, language: str) -> None:
    """A hostile name in every text field changes neither the number of lines nor brings a control character."""

    def text_with(name: str) -> str:
        share = (Share(value=name or "x", content_octets_out=5),)
        found = notices.finding(
            rule=name,
            rule_version=name,
            destinations=(name,),
            reasons=(name,),
            severity_reasons=(name,),
            window=name,
        )
        case = notices.case(
            store=notices.case().store.model_copy(
                update={"name": name or "x", "contact": name or "x", "host": name or "x", "runbook": name or "x"}
            ),
            destination=notices.destination(
                owner=OwnerFact(provider_name=name, organisation=name, owner="x" + name, source="x" + name,
                                checked="x" + name, mark="x" + name, share=name, note="x" + name, owner_country="DE"),
                countries=share, networks=share, addresses=share, location_sources=(name,),
            ),
            traffic=notices.traffic(processes=share, services=share, bases=share, vantages=share, initiators=share),
            findings=(found,),
            not_seen=(name or "x",),
        )  # fmt: skip
        return full(notices.notice(case=case, host=name), language)

    text, plain = text_with("x" + raw), text_with("xy")
    assert len(text.split("\n")) == len(plain.split("\n"))
    assert len(text.splitlines()) == len(plain.splitlines())
    assert [c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp") and c != "\n"] == []


def test_a_name_is_never_read_as_a_template() -> None:
    """Template and format marks in a name are printed, not evaluated."""
    name = "{{ 7 * 7 }}{severity}%s"
    store = notices.case().store.model_copy(update={"name": name})
    assert f'host of store "{name}"' in title(notices.notice(case=notices.case(store=store)))


@settings(deadline=None, max_examples=300)
@given(NOTICES, st.sampled_from(LANGUAGES))
def test_no_alert_ever_says_a_forbidden_word(notice: Notice, language: str) -> None:
    """Whatever facts are there or missing, no text of any length holds a word from the list of forbidden claims."""
    for detail in ("minimal", "title", "full"):
        text = render(notice, language=language, zone=TOKYO, detail=detail)
        assert list(claims([("", text)], assurances=True)) == []
        assert "None" not in text
        assert "Undefined" not in text
        assert "{" not in text


@settings(deadline=None, max_examples=200)
@given(NOTICES)
def test_a_country_stands_in_the_title_only_as_place_or_as_parent_on_record(notice: Notice) -> None:
    """China is in a title only where it is a location of the addresses or the head office of a firm record."""
    assert notice.case is not None
    to = notice.case.destination
    owner = to.owner
    firm = owner.mark not in ("", "K") and not (owner.disputed or owner.stale or owner.review)
    sourced = bool(owner.owner and owner.source and owner.checked and firm)
    for name, code in (("China", "CN"), ("Russia", "RU")):
        placed = code in {s.value for s in to.countries}
        if name in title(notice) and not placed:
            assert sourced
            assert owner.owner_country == code
            assert f"parent on record is in {name}" in title(notice)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_known_event_is_told_without_forbidden_words(language: str) -> None:
    """Each event that has a phrase can be rendered in each length."""
    names = [key.removeprefix("event.") for key, _ in phrases(language) if key.startswith("event.")]
    for name in names:
        for detail in ("minimal", "title", "full"):
            text = render(notices.event(name), language=language, zone=TOKYO, detail=detail)
            assert list(claims([("", text)], assurances=True)) == []

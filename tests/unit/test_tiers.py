"""In which order ways of watching the host are tried, which is taken, and what is said of those that are not."""

from __future__ import annotations

import pytest

from agent import config, tiers
from agent.core.stages import CollectorSettings
from agent.words import LANGUAGES, phrases
from collectors import af_packet, conntrack, ebpf

ROOM: dict[str, type[CollectorSettings]] = {
    "ebpf": ebpf.Settings,
    "af_packet": af_packet.Settings,
    "conntrack": conntrack.Settings,
}


@pytest.fixture
def hindered(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Tier -> why it cannot run; fill it in the test."""
    why: dict[str, str] = {}
    monkeypatch.setattr(config, "default_config_files", lambda: ())
    for name, settings in ROOM.items():
        monkeypatch.setattr(settings, "hindrance", lambda _self, name=name: why.get(name, ""))
        monkeypatch.setattr(settings, "shortcomings", lambda _self, name=name: (f"{name} lacks a little",))
    return why


@pytest.mark.parametrize(
    ("lacking", "taken"),
    [
        ((), "ebpf"),
        (("ebpf",), "af_packet"),
        (("ebpf", "af_packet"), "conntrack"),
        (("af_packet",), "ebpf"),
        (("ebpf", "conntrack"), "af_packet"),
    ],
)
def test_the_first_that_runs_is_taken(hindered: dict[str, str], lacking: tuple[str, ...], taken: str) -> None:
    """Best first; the reason names each better one and what it lacks."""
    hindered.update({name: f"{name} lacks all" for name in lacking})
    loaded, why = tiers.choose(config.load())
    assert list(loaded.stages.collectors) == [taken]
    better = tiers.TIERS[: tiers.TIERS.index(taken)]
    assert why == (
        "; ".join(f"{name} cannot run here: {name} lacks all" for name in better) or "the best there is"
    )


def test_where_none_runs_every_reason_is_told(hindered: dict[str, str]) -> None:
    """Packet capture is taken untried, and says itself what it lacks; the reasons of all stand together."""
    hindered.update({name: f"{name} lacks all" for name in tiers.TIERS})
    loaded, why = tiers.choose(config.load())
    assert list(loaded.stages.collectors) == [tiers.UNTRIED] == ["af_packet"]
    assert why.count("lacks all") == 3


def test_a_collector_that_somebody_set_stays(hindered: dict[str, str]) -> None:
    """Naming a collector ends the choosing, also where a better one would run."""
    loaded, why = tiers.choose(config.load(flags=[("collectors.conntrack.interval", "20")]))
    assert (list(loaded.stages.collectors), why) == (["conntrack"], "as the settings say")


def test_each_tier_stands_with_what_it_lacks_and_misses(hindered: dict[str, str]) -> None:
    """A tier that cannot run has its reason and no shortcomings; every one has what it cannot see, in both languages."""
    hindered["ebpf"] = "no libbpf"
    tried = {tier.name: tier for tier in tiers.survey(config.load())}
    assert tuple(tried)[:3] == tiers.TIERS
    assert (tried["ebpf"].hindrance, tried["ebpf"].shortcomings) == ("no libbpf", ())
    assert (tried["conntrack"].hindrance, tried["conntrack"].shortcomings) == (
        "",
        ("conntrack lacks a little",),
    )
    for language in LANGUAGES:
        say = phrases(language)
        for tier in tried.values():
            assert tier.misses and f"tier.{tier.name}" in say
            assert [key for key in tier.misses if f"not_seen.{key}" not in say] == []

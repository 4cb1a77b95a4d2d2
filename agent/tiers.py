"""Which way of watching this host is the best that runs here. Each is tried, best first; docs/capture.md compares them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from agent import plugins
from agent.config import Loaded
from agent.core.stages import CollectorSettings

TIERS: Final = ("ebpf", "af_packet")
"""Collectors that watch the host, best first. The last is taken untried: it says itself what it lacks."""

AS_SET: Final = "as the settings say"
BEST: Final = "the best there is"
"""Why a tier was taken, beside what hinders better ones."""


@dataclass(frozen=True, slots=True)
class Tier:
    """One way of watching this host."""

    name: str
    hindrance: str
    """Why it cannot run here; empty if it can."""
    shortcomings: tuple[str, ...] = ()
    """What it does without here."""


def survey(loaded: Loaded) -> tuple[Tier, ...]:
    """Every tier as it stands on this host, with the settings that are given for it."""
    return tuple(_tried(name, _settings(loaded, name)) for name in TIERS)


def hindrance(name: str) -> str:
    """Why a tier cannot run here with its defaults; empty if it can."""
    settings = plugins.settings_class("collectors", name)()
    assert isinstance(settings, CollectorSettings)
    return settings.hindrance()


def choose(loaded: Loaded) -> tuple[Loaded, str]:
    """The settings with the best tier as their collector, and a sentence why. Collectors that somebody set stay."""
    if any(origin.split(".")[0] == "collectors" for origin in loaded.origins):
        return loaded, AS_SET
    why: list[str] = []
    for name in TIERS:
        settings = _settings(loaded, name)
        if name != TIERS[-1] and (hindered := settings.hindrance()):
            why.append(f"{name} cannot run here: {hindered}")
            continue
        stages = replace(loaded.stages, collectors={name: settings})
        return replace(loaded, stages=stages), "; ".join(why) or BEST
    raise AssertionError("the last tier is always taken")


def _settings(loaded: Loaded, name: str) -> CollectorSettings:
    given = loaded.stages.collectors.get(name)
    if given is not None:
        return given
    made = plugins.settings_class("collectors", name)()
    assert isinstance(made, CollectorSettings)
    return made


def _tried(name: str, settings: CollectorSettings) -> Tier:
    hindered = settings.hindrance()
    return Tier(name, hindered, () if hindered else settings.shortcomings())

"""Which way of watching this host is the best that runs here. Each is tried, best first; docs/capture.md compares them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from agent import plugins
from agent.config import Loaded, bare_context
from agent.core.stages import CollectorSettings

TIERS: Final = ("ebpf", "af_packet", "conntrack")
"""Collectors that watch the host, best first."""
BESIDE: Final = ("tc",)
"""Collectors that see what the tiers cannot, beside one of them. Never chosen by themselves: what they see is others'."""
UNTRIED: Final = "af_packet"
"""Taken where none can run: it says itself what it lacks."""

AS_SET: Final = "as the settings say"
BEST: Final = "the best there is"
"""Why a tier was taken, beside what hinders better ones."""


@dataclass(frozen=True, slots=True)
class Tier:
    """One way of watching this host."""

    name: str
    hindrance: str
    """Why it cannot run here, and what to change; empty if it can."""
    shortcomings: tuple[str, ...] = ()
    """What it does without here, and what to change."""
    misses: tuple[str, ...] = ()
    """What it cannot see by its nature, as words keys of ``not_seen``."""
    beside: bool = False
    """Whether it stands beside another tier, and runs only where the settings name it."""


def survey(loaded: Loaded) -> tuple[Tier, ...]:
    """Every tier as it stands on this host, best first, with the settings that are given for it."""
    beside = [name for name in BESIDE if name in plugins.names("collectors")]
    return tuple(_tried(loaded, name) for name in (*TIERS, *beside))


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
        if not (hindered := settings.hindrance()):
            return _with(loaded, name, settings), "; ".join(why) or BEST
        why.append(f"{name} cannot run here: {hindered}")
    return _with(loaded, UNTRIED, _settings(loaded, UNTRIED)), "; ".join(why)


def _with(loaded: Loaded, name: str, settings: CollectorSettings) -> Loaded:
    return replace(loaded, stages=replace(loaded.stages, collectors={name: settings}))


def _settings(loaded: Loaded, name: str) -> CollectorSettings:
    given = loaded.stages.collectors.get(name)
    if given is not None:
        return given
    made = plugins.settings_class("collectors", name)()
    assert isinstance(made, CollectorSettings)
    return made


def _tried(loaded: Loaded, name: str) -> Tier:
    settings = _settings(loaded, name)
    hindered = settings.hindrance()
    return Tier(
        name,
        hindered,
        () if hindered else settings.shortcomings(),
        settings.ending().build(bare_context(loaded.settings)).not_seen,
        name in BESIDE,
    )

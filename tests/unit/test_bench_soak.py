"""What the soak calls growth: the floor under the sawtooth of batches, not the teeth."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import pytest

from tests.bench.bench_soak import EVERY_S, FLAT_MIB_PER_HOUR, MOST_MIB, Sample, Soak, floors, held, slope
from tests.bench.hosted import Memory

HALF_HOUR_S = 1800.0


def _soak(mib: Callable[[float], float], *, shift_s: float = 0.0) -> Soak:
    """A run whose looks come a little late, as they do."""
    seeded, seen = random.Random(5), Soak(HALF_HOUR_S, (600.0, 900.0), "none")
    at_s = shift_s
    while at_s < HALF_HOUR_S:
        held_mib = mib(at_s)
        seen.samples.append(Sample(at_s, Memory(held_mib + 40, held_mib + 10, held_mib), None))
        at_s += EVERY_S + seeded.uniform(0, 0.05)
    return seen


def _tooth(at_s: float) -> float:
    """Eight MiB that gather for ten seconds and are free again."""
    return 0.8 * (at_s % 10)


def _grown(seen: Soak) -> float:
    return slope(seen.calm, lambda s: s.memory.anonymous)


def test_teeth_that_grow_are_no_growth() -> None:
    """Batches that become larger in the course of a run lift single looks, and not what is held."""
    seen = _soak(lambda at_s: 80 + _tooth(at_s) * (1 + at_s / HALF_HOUR_S))
    assert abs(_grown(seen)) <= 1


@pytest.mark.parametrize("shift_s", [0.0, 0.7, 1.9])
@pytest.mark.parametrize("per_hour", [0.0, 3.0, 12.0, 24.0])
def test_growth_is_found_under_the_teeth(per_hour: float, shift_s: float) -> None:
    """To a MiB an hour, wherever in the tooth the looks fall."""
    seen = _soak(lambda at_s: 80 + per_hour * at_s / 3600 + _tooth(at_s), shift_s=shift_s)
    assert _grown(seen) == pytest.approx(per_hour, abs=1)


def test_a_step_at_the_outage_is_no_slope_and_a_few_peaks_move_nothing() -> None:
    """Phases are held apart; what stays after the outage stands in a line of its own."""
    seen = _soak(lambda at_s: 80 + (5 if at_s >= 900 else 0) + _tooth(at_s))
    peaks = [replace(s, memory=replace(s.memory, anonymous=300.0)) for s in seen.samples[400::97]]
    seen.samples += peaks
    seen.samples.sort(key=lambda s: s.at_s)
    assert abs(_grown(seen)) <= 1


def test_each_ten_seconds_have_one_floor() -> None:
    """The lowest look, at its time."""
    seen = _soak(lambda at_s: 80 + _tooth(at_s))
    found = floors(seen.samples, lambda s: s.memory.pss)
    assert len(found) == HALF_HOUR_S / 10
    assert [int(at_s // 10) for at_s, _ in found] == list(range(180))
    assert max(mib for _, mib in found) < 90 + 0.8 * (EVERY_S + 0.05)


@pytest.mark.parametrize(
    ("begin_mib", "tooth", "per_hour", "met"),
    [
        (80.0, 1.0, 0.0, (True, True, True)),
        (80.0, 1.0, 20.0, (True, True, False)),
        (119.0, 1.0, 0.0, (False, False, True)),  # too much for good
        (112.0, 3.0, 0.0, (False, True, True)),  # between batches enough, at most looks too much
    ],
)
def test_bars_are_held_to_median_floor_and_growth(
    begin_mib: float, tooth: float, per_hour: float, met: tuple[bool, ...]
) -> None:
    """Each can fail by itself."""
    seen = _soak(lambda at_s: begin_mib + per_hour * at_s / 3600 + tooth * _tooth(at_s))
    bars = held(seen)
    assert tuple(bar.is_met for bar in bars) == met
    assert [bar.bar for bar in bars] == [MOST_MIB, MOST_MIB, FLAT_MIB_PER_HOUR]
    assert bars[0].measured == median(s.memory.pss for s in seen.warm)

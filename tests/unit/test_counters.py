"""Counters that somebody else keeps: what they grew by is handed out once, whatever comes in which order."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from collectors.flowtable.counters import Counters

NAMES = 6


@dataclass
class Kernel:
    """A table as the kernel keeps it: entries by name, word of ends in a queue, and all that was ever counted."""

    entries: dict[int, list[int]] = field(default_factory=dict)
    ended: list[tuple[int, list[int]]] = field(default_factory=list)
    counted: int = 0

    def send(self, name: int, octets: int) -> None:
        """A packet of an entry, which begins with it if it is not there."""
        counts = self.entries.setdefault(name, [0, 0, 0, 0])
        counts[0] += 1
        counts[1] += octets
        self.counted += octets

    def end(self, name: int) -> None:
        """An entry leaves the table; its name may come again at once."""
        if name in self.entries:
            self.ended.append((name, self.entries.pop(name)))


class Reader:
    """Reads it as the collector does: word of ends is taken in before a part of the table that was read earlier."""

    def __init__(self, kernel: Kernel, most: int = 1000) -> None:
        self.kernel, self.counters, self.sum, self.begun = kernel, Counters(most, seed=1), 0, 0

    def hear(self) -> None:
        told, self.kernel.ended = self.kernel.ended, []
        self._take("ended", told)

    def look(self, between: list[tuple[str, int, int]] = [], *, twice: bool = False) -> None:  # noqa: B006
        self.counters.begin()
        names = sorted(self.kernel.entries)
        for part in (names[: len(names) // 2], names[len(names) // 2 :]):
            seen = [(n, list(self.kernel.entries[n])) for n in part if n in self.kernel.entries]
            for step in between:
                act(self.kernel, step)
            self.hear()
            self._take("seen", seen * (2 if twice else 1))
        self.counters.finish()

    def _take(self, how: str, told: list[tuple[int, list[int]]]) -> None:
        ends = np.zeros((5, len(told)), np.uint64)
        ends[0] = [name for name, _ in told]
        nothing = np.zeros(len(told), np.int64)
        keys = self.counters.keys(ends, nothing.astype(np.uint64), nothing - 1)
        counts = np.array([c for _, c in told], np.int64).reshape(-1, 4).T
        growth = getattr(self.counters, how)(keys, counts, nothing)
        assert (growth.by >= 0).all()
        self.sum += int(growth.by[1].sum())
        self.begun += int(growth.fresh.sum())


def act(kernel: Kernel, step: tuple[str, int, int]) -> None:
    what, name, octets = step
    kernel.send(name, octets) if what == "send" else kernel.end(name)


STEPS = st.tuples(st.sampled_from(["send", "send", "end"]), st.integers(0, NAMES), st.integers(1, 1000))


@settings(max_examples=150)
@given(
    st.lists(
        st.one_of(
            STEPS, st.just("hear"), st.tuples(st.just("look"), st.lists(STEPS, max_size=5), st.booleans())
        )
    )
)
def test_everything_is_handed_out_once(course: list[object]) -> None:
    """Packets, ends, names that come again, looks in parts with all of that in between, entries told twice in a look: the sum is exact."""
    kernel = Kernel()
    reader = Reader(kernel)
    reader.look()
    for step in course:
        if step == "hear":
            reader.hear()
        elif isinstance(step, tuple) and step[0] == "look":
            reader.look(step[1], twice=step[2])
        else:
            assert isinstance(step, tuple)
            act(kernel, step)
    for _ in range(4):
        reader.hear()
        reader.look()
    assert reader.sum == kernel.counted
    assert (reader.counters.backwards, reader.counters.gone) == (0, 0)
    assert len(reader.counters) == len(kernel.entries)


def test_an_end_that_is_told_twice_counts_once() -> None:
    """A large entry's end that comes again, as after another program's failed reliable delivery, adds nothing."""
    kernel = Kernel()
    reader = Reader(kernel)
    reader.look()
    for _ in range(100):
        kernel.send(1, 1000)
    kernel.end(1)
    kernel.ended.append((1, [100, 100_000, 0, 0]))
    reader.hear()
    assert (reader.sum, reader.counters.repeated) == (100_000, 1)


def test_counters_that_were_set_to_zero_are_taken_as_new() -> None:
    """A counter that is smaller than before counts whole, and is told."""
    kernel = Kernel()
    reader = Reader(kernel)
    reader.look()
    kernel.send(1, 1000)
    reader.look()
    kernel.entries[1] = [0, 0, 0, 0]
    kernel.send(1, 10)
    reader.look()
    assert (reader.sum, reader.counters.backwards) == (1010, 1)


def test_an_entry_that_vanishes_is_forgotten_after_two_looks_and_told() -> None:
    """Without word of its end an entry is remembered for two looks, then counted as gone."""
    kernel = Kernel()
    reader = Reader(kernel)
    reader.look()
    kernel.send(1, 1000)
    reader.look()
    del kernel.entries[1]
    reader.look()
    assert (len(reader.counters), reader.counters.gone) == (1, 0)
    reader.look()
    assert (len(reader.counters), reader.counters.gone, reader.sum) == (0, 1, 1000)


def test_what_has_no_room_is_counted_when_it_ends() -> None:
    """Entries beyond the bound are told as waiting, hand out nothing at a look, and all of it at their end."""
    kernel = Kernel()
    reader = Reader(kernel, most=2)
    reader.look()
    for name in range(4):
        kernel.send(name, 100)
    reader.look()
    assert (reader.sum, reader.counters.waiting, len(reader.counters)) == (200, 2, 2)
    for name in range(4):
        kernel.end(name)
    reader.hear()
    assert reader.sum == 400

"""Stores that overlap: some row could belong to both, and nothing tells which.

That is so when they may be in one place (a common host name, overlapping addresses, a common pod, or no place named by
either), and

* both name the same port, process, executable, unit or container there, or
* neither names any of these, so that both claim all that leaves the place.

Stores in one place that are told apart by such a name do not overlap. They are found by keys, so that 100,000 stores
take seconds; of many that claim the same, each is told together with the first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any, Final

from agent.core.errors import Fault
from agent.policy.meeting import PlaceKey, Places
from agent.policy.placed import Placed
from agent.policy.recognition import Recognition
from agent.policy.registers import Store

_EQUAL: Final = (("ports", "port"), ("processes", "process"))
_PATTERNS: Final = (("executables", "executable"), ("units", "unit"))
SELECTORS: Final = ("ports", "processes", "executables", "units", "containers")
"""Lines of a recognition that tell stores of one place apart."""


def overlaps(stores: Sequence[Placed[Store]]) -> Iterator[Fault]:
    """A fault for each store that overlaps an earlier one."""
    readable = [s for s in stores if s.value and not s.value.recognise.is_empty()]
    index = _Index(Places.of(s.value.recognise for s in readable if s.value))
    for number, second in enumerate(readable):
        if second.value is None:
            continue
        for earlier in index.claimed(second.value.recognise):
            first = readable[earlier]
            if first.value is None or first.id == second.id:
                continue
            common = common_claim(first.value.recognise, second.value.recognise)
            message = f"stores `{second.id}` and `{first.id}` ({first.where}) both claim {common}"
            advice = "take it out of one, name other hosts or ports, or make them one store"
            yield second.fault(message, advice, ("recognise",))
        index.add(second.value.recognise, number)


def common_claim(a: Recognition, b: Recognition) -> str:
    """What two stores of one place both claim; empty if something tells them apart."""
    if not any(getattr(r, name) for r in (a, b) for name in SELECTORS):
        return "everything that leaves the same place"
    for name, one_of in _EQUAL:
        if both := sorted(set(getattr(a, name)) & set(getattr(b, name))):
            return f"{one_of} {both[0]}"
    for name, one_of in _PATTERNS:
        for one in getattr(a, name):
            for other in getattr(b, name):
                if fnmatchcase(one, other) or fnmatchcase(other, one):
                    return f"{one_of} {max(one, other, key=len)}"
    for one in a.containers:
        for other in b.containers:
            if one.startswith(other) or other.startswith(one):
                return f"container {max(one, other, key=len)}"
    return ""


class _Index:
    """Claims of the stores so far: place and selector -> the first store that has them."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._first: dict[tuple[PlaceKey, str, Any], int] = {}
        self._patterns: dict[tuple[PlaceKey, str], dict[str, int]] = {}
        """Place and kind -> patterns with ``*`` or ``?`` -> the first store that has one."""
        self._plain: dict[tuple[PlaceKey, str], dict[str, int]] = {}

    def add(self, place: Recognition, number: int) -> None:
        claims = list(_claims(place))
        for key in set(self._places.kept(place)):
            for kind, value in claims:
                self._first.setdefault((key, kind, value), number)
            for name, _ in _PATTERNS:
                for text in getattr(place, name):
                    kept = self._patterns if _is_pattern(text) else self._plain
                    kept.setdefault((key, name), {}).setdefault(text, number)
            for text in place.containers:
                # So that a shorter one that comes later finds it.
                for length in range(len(text) + 1):
                    self._first.setdefault((key, "containers within", text[:length]), number)

    def claimed(self, place: Recognition) -> list[int]:
        """Earlier stores that overlap this one, at least the first for each claim; in order."""
        claims = list(_claims(place))
        found: set[int] = set()
        for key in set(self._places.asked(place)):
            for kind, value in claims:
                if (number := self._first.get((key, kind, value))) is not None:
                    found.add(number)
            for name, _ in _PATTERNS:
                found.update(self._like(key, name, getattr(place, name)))
            found.update(self._beginning_alike(key, place))
        return sorted(found)

    def _like(self, key: PlaceKey, name: str, texts: Sequence[str]) -> Iterator[int]:
        patterns = self._patterns.get((key, name), {})
        plain = self._plain.get((key, name), {})
        for text in texts:
            if text in plain:
                yield plain[text]
            yield from (n for p, n in patterns.items() if fnmatchcase(text, p) or fnmatchcase(p, text))
            if _is_pattern(text):
                yield from (n for p, n in plain.items() if fnmatchcase(p, text))

    def _beginning_alike(self, key: PlaceKey, place: Recognition) -> Iterator[int]:
        asked = [("containers within", text) for text in place.containers]
        asked += [("containers", text[:n]) for text in place.containers for n in range(len(text) + 1)]
        for kind, text in asked:
            if (number := self._first.get((key, kind, text))) is not None:
                yield number


def _claims(place: Recognition) -> Iterator[tuple[str, Any]]:
    """What a store claims of its place, as keys that are compared whole."""
    if not any(getattr(place, name) for name in SELECTORS):
        yield "all", None
    for name in ("ports", "processes", "containers"):
        yield from ((name, value) for value in getattr(place, name))


def _is_pattern(text: str) -> bool:
    return any(c in text for c in "*?[")

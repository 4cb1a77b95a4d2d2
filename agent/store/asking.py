"""A question to the archive: which rows are wanted, and what lets Parquet skip whole groups of rows."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import reduce
from operator import and_, or_

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
from numpy.typing import NDArray

from agent.core.address import Network, NetworkSet, span
from agent.core.clock import DAY_NS
from agent.core.flow import BY_NAME, COLUMNS, FlowBatch, Kind

UNKNOWN = "-"
"""As a wanted text: rows in which the column is null."""


@dataclass(frozen=True, slots=True)
class Question:
    """The rows that ended in [since, until) and pass every test. Several values of one test: any of them."""

    since_ns: int | None = None
    until_ns: int | None = None
    texts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Column -> texts; ``*`` and ``?`` stand for any letters (then case does not matter), ``-`` for unknown."""
    numbers: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    networks: Mapping[str, tuple[Network, ...]] = field(default_factory=dict)
    ports: tuple[int, ...] = ()
    """Of either end."""
    least_octets: int = 0
    """Of octets_out and octets_in together."""
    organisations: tuple[str, ...] = ()
    """Parts of remote_as_org, whatever their case; joined by "or" with numbers of remote_asn."""

    def names(self, columns: Collection[str] | None) -> list[str]:
        """The columns to read: those asked for, those tested, and those that are never null.

        Raises ``ValueError`` for a column that is not of the schema.
        """
        if columns is None:
            return [column.name for column in COLUMNS]
        if unknown := set(columns) - BY_NAME.keys():
            raise ValueError(f"no such column: {', '.join(sorted(unknown))}")
        wanted = {*columns, *self.texts, *self.numbers, *self.networks}
        wanted |= {"local_port", "remote_port"} if self.ports else set()
        wanted |= {"remote_asn", "remote_as_org"} if self.organisations else set()
        return [column.name for column in COLUMNS if not column.null or column.name in wanted]

    def holds(self, day: int) -> bool:
        """Whether a row of that day since 1970 can be wanted."""
        after = self.since_ns is None or (day + 1) * DAY_NS > self.since_ns
        return after and (self.until_ns is None or day * DAY_NS < self.until_ns)

    def only(self, batch: FlowBatch) -> FlowBatch:
        """The wanted rows."""
        wanted: NDArray[np.bool_] = np.ones(len(batch), bool)
        for test in self._tests(batch):
            wanted &= test
        return batch if wanted.all() else batch.take(wanted)

    def _tests(self, batch: FlowBatch) -> Iterator[NDArray[np.bool_]]:
        if self.since_ns is not None:
            yield batch["end_ns"] >= self.since_ns
        if self.until_ns is not None:
            yield batch["end_ns"] < self.until_ns
        for name, texts in self.texts.items():
            yield _where(batch, name, texts)
        for name, numbers in self.numbers.items():
            if name != "remote_asn" or not self.organisations:
                yield np.isin(batch[name], numbers)
        for name, networks in self.networks.items():
            yield NetworkSet(networks).contains(batch[name])
        if self.ports:
            yield np.isin(batch["local_port"], self.ports) | np.isin(batch["remote_port"], self.ports)
        if self.least_octets:
            yield batch["octets_out"] + batch["octets_in"] >= self.least_octets
        if self.organisations:
            parts = tuple(f"*{part}*" for part in self.organisations)
            asked = np.isin(batch["remote_asn"], self.numbers.get("remote_asn", ()))
            yield _where(batch, "remote_as_org", parts) | asked

    def filter(self) -> pads.Expression | None:
        """What lets Parquet skip whole groups of rows; what it lets pass is tested again by :meth:`only`."""
        tests = list(self._expressions())
        return reduce(and_, tests) if tests else None

    def _expressions(self) -> Iterable[pads.Expression]:
        when = pa.timestamp("ns", "UTC")
        if self.since_ns is not None:
            yield pads.field("end_ns") >= pa.scalar(self.since_ns, pa.int64()).cast(when)
        if self.until_ns is not None:
            yield pads.field("end_ns") < pa.scalar(self.until_ns, pa.int64()).cast(when)
        for name, texts in self.texts.items():
            if not any(_is_pattern(text) for text in texts):
                column = pads.field(name)
                yield reduce(or_, (column.is_null() if t == UNKNOWN else column == t for t in texts))
        for name, numbers in self.numbers.items():
            if name != "remote_asn" or not self.organisations:
                yield reduce(or_, (_equal(name, n) for n in numbers))
        for name, networks in self.networks.items():
            yield reduce(or_, (_within(name, network) for network in networks))
        if self.ports:
            yield reduce(
                or_, (pads.field(name) == n for name in ("local_port", "remote_port") for n in self.ports)
            )


def _equal(name: str, number: int) -> pads.Expression:
    return pads.field(name).is_null() if number == BY_NAME[name].marker else pads.field(name) == number


def _within(name: str, network: Network) -> pads.Expression:
    first, last = (pa.scalar(n.to_bytes(16, "big"), pa.binary(16)) for n in span(network))
    return (pads.field(name) >= first) & (pads.field(name) <= last)


def _where(batch: FlowBatch, name: str, wanted: tuple[str, ...]) -> NDArray[np.bool_]:
    """Where a text column is one of the wanted texts. Looks at each distinct text once."""
    assert BY_NAME[name].kind is Kind.TEXT
    text = batch.text(name)
    # One more for the code -1 of null, which numpy takes for the last.
    fits = np.zeros(len(text.values) + 1, bool)
    for code, value in enumerate(text.values):
        fits[code] = any(_matches(value, one) for one in wanted)
    fits[-1] = UNKNOWN in wanted
    return fits[text.codes]


def _is_pattern(text: str) -> bool:
    return "*" in text or "?" in text


def _matches(value: str, wanted: str) -> bool:
    if _is_pattern(wanted):
        return fnmatch.fnmatchcase(value.lower(), wanted.lower().replace("[", "[[]"))
    return value == wanted

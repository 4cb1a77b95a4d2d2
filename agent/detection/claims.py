"""Host names that were claimed for the other ends of stores: what DNS answers and TLS clients called an address.

A name is a claim of whoever answered or asked; no rule reads it. It is told beside the addresses of a case.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

import numpy as np

from agent.core.address import text_of
from agent.core.finding import Destination, Named
from agent.core.flow import FlowBatch

ADDRESSES: Final = 16_384
"""Remembered; the longest unused goes first."""
OF_ONE: Final = 4
"""Names of one address; the newest stay."""


class Claims:
    """Bounded memory: address -> its newest names."""

    def __init__(self) -> None:
        self._names: OrderedDict[str, tuple[str, ...]] = OrderedDict()

    def hear(self, batch: FlowBatch) -> None:
        """Take up the names of a batch's rows that belong to a store."""
        names = batch.text("remote_name")
        if not names.values:
            return
        rows = np.flatnonzero((names.codes >= 0) & (batch["store"] >= 0))
        if not len(rows):
            return
        found = np.column_stack([batch["remote_address"][rows], names.codes[rows].astype(np.uint64)])
        for high, low, code in np.unique(found, axis=0).tolist():
            self._remember(text_of(high, low) or "", names.values[code])

    def recall(self, destinations: Iterable[Destination]) -> None:
        """Take up what open cases tell, after a restart."""
        for destination in destinations:
            for named in reversed(destination.names):
                self._remember(named.address, named.name)

    def told(self, destination: Destination) -> Destination:
        """The destination with the names of the addresses that it tells, newest first."""
        found = [
            Named(address=share.value, name=name)
            for share in destination.addresses
            for name in reversed(self._names.get(share.value, ()))
        ]
        return destination.model_copy(update={"names": tuple(found)}) if found else destination

    def _remember(self, address: str, name: str) -> None:
        others = tuple(known for known in self._names.get(address, ()) if known != name)
        self._names[address] = (*others, name)[-OF_ONE:]
        self._names.move_to_end(address)
        while len(self._names) > ADDRESSES:
            self._names.popitem(last=False)

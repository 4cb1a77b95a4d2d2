"""Programs of stores, and when each was first seen to send: what a rule on programs that are new asks.

A late row is seen at another time by another cut of batches, so it makes no program known.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.detection.keys import NONE, Ints, Keys, grown

NEVER_NS = 2**62
_UNBOUNDED = 2**31 - 1


@dataclass
class Programs:
    """As many as the details know, and no more."""

    keys: Keys = field(default_factory=lambda: Keys(3, _UNBOUNDED))
    """(tenant, store, process)."""
    of: Ints = field(default_factory=lambda: np.full(1024, NONE, np.int64))
    """By detail: its program, -1 where that is not known."""
    first_ns: Ints = field(default_factory=lambda: np.full(1024, NEVER_NS, np.int64))
    """By program: end of the first row that was not late."""

    def learn(self, known: int, tenants: Ints, stores: Ints, processes: Ints) -> None:
        """Details from number ``known`` on are new; codes of each, a process under 0 is not known."""
        if not len(processes):
            return
        self.of = grown(self.of, known + len(processes), NONE)
        named = np.flatnonzero(processes >= 0)
        self.of[known + named] = self.keys.ids([tenants[named], stores[named], processes[named]])
        self.first_ns = grown(self.first_ns, self.keys.count, NEVER_NS)

    def see(self, details: Ints, ends: Ints) -> None:
        """Rows that were not late: their details and ends."""
        program = self.of[details]
        known = np.flatnonzero(program >= 0)
        np.minimum.at(self.first_ns, program[known], ends[known])

    def state(self) -> dict[str, NDArray[Any]]:
        """All that the details do not tell."""
        return {"processes": self.keys.columns, "process_ns": self.first_ns[: self.keys.count]}

    def set_state(
        self, arrays: dict[str, NDArray[Any]], tenants: Ints, stores: Ints, processes: Ints
    ) -> None:
        """Take back what :meth:`state` gave, with the codes of every detail."""
        self.keys = Keys.of(arrays.get("processes", np.zeros((3, 0), np.int64)), _UNBOUNDED)
        self.learn(0, tenants, stores, processes)
        # Of an older version, which did not tell when: every program that is there was seen long ago.
        seen = arrays.get("process_ns", np.zeros(self.keys.count, np.int64))
        self.first_ns = grown(seen, 1024, NEVER_NS)

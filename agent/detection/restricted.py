"""What relays ask of policy and register: who is at an end, whether a rule restricts it, which host is a forwarder.

Made anew when another policy or table of owners is in force; answers are kept until then.
"""

from __future__ import annotations

import numpy as np

from agent.core.address import NetworkSet
from agent.detection.balances import Balances, Columns
from agent.detection.cube import PATH, Cube
from agent.detection.keys import Bools, Ints
from agent.policy.recognition import same_host
from agent.policy.registers import Forwarder


class Asks:
    """Answers of one policy and one table of owners."""

    def __init__(self, cube: Cube, held: Balances) -> None:
        self._cube, self._held = cube, held
        self._aims: dict[tuple[int, int, int], bool] = {}
        """By end, tenant, store."""
        self._entities: dict[int, int] = {}
        self._forwarders = [
            (f, NetworkSet(f.recognise.addresses), tuple(h.lower() for h in f.recognise.hosts))
            for f in self._cube.book.policy.forwarders
        ]

    def entity(self, end: int, now_ns: int) -> int:
        """Code of the entity of an end."""
        if end not in self._entities:
            fact = self._cube.fact_of(self._held.ends.columns[:, end].tolist(), now_ns)
            self._entities[end] = self._cube.names.code(
                self._cube.book.entity(fact, self._cube.book.owner(fact))
            )
        return self._entities[end]

    def aimed(self, ends: Ints, tenants: Ints, stores: Ints, now_ns: int) -> Bools:
        """Whether a rule restricts what each store sends to each end."""
        if not len(ends):
            return np.zeros(0, bool)
        keys, inverse = np.unique(np.stack([ends, tenants, stores]), axis=1, return_inverse=True)
        known = [self._aims_at((key[0], key[1], key[2]), now_ns) for key in keys.T.tolist()]
        return np.array(known, bool)[inverse.reshape(-1)]

    def _aims_at(self, key: tuple[int, int, int], now_ns: int) -> bool:
        if key not in self._aims:
            columns = self._held.ends.columns[:, key[0]].copy()
            columns[PATH.index("store")] = key[2]
            fact = self._cube.fact_of(columns.tolist(), now_ns)
            self._aims[key] = bool(self._cube.book.hits(fact, self._cube.book.owner(fact)))
        return self._aims[key]

    def forwards(self, rows: Columns, row: Ints, *, logged: bool = False) -> Bools:
        """Whether the host of each row is a registered forwarder: what passes it is many clients', and only possible.
        ``logged``: only such whose log is read."""
        found = np.zeros(len(row), bool)
        if self._forwarders and len(row):
            both, inverse = np.unique(
                np.stack([rows["from"][row], rows["host"][row]]), axis=1, return_inverse=True
            )
            named = [self.forwarder(node, self._cube.names.text(host)) for node, host in both.T.tolist()]
            found = np.array([f is not None and (bool(f.log) or not logged) for f in named])[
                inverse.reshape(-1)
            ]
        return found

    def forwarder(self, node: int, host: str) -> Forwarder | None:
        """The registered forwarder that this address or host is."""
        address = self._held.address(node)
        for forwarder, networks, hosts in self._forwarders:
            if (networks and address in networks) or any(same_host(h, host.lower()) for h in hosts if host):
                return forwarder
        return None

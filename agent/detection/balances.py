"""The tables of relays: which host holds how much of which store, and what it sent where. Bounded, and saved whole."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agent.core.address import text_of
from agent.detection.cube import PATH, UNBOUNDED
from agent.detection.hours import WEEK, Hours
from agent.detection.keys import NONE, Ints, Keys

LINKS: Final = 16_384
"""Pairs of store and host; as many pairs of host and destination, and of these two."""
ENDS: Final = 65_536
HELD_HOURS: Final = 25
"""The hour that runs and the 24 before it: what is older is no longer held to be sent on."""
Columns = dict[str, NDArray[Any]]


class Balances:
    """Numbers of hosts, links, destinations, and their sums by hour."""

    def __init__(self) -> None:
        self.nodes = Keys(2, UNBOUNDED)
        self.links = Keys(3, LINKS)
        """Tenant, store, node."""
        self.sends = Keys(2, LINKS)
        """Node, entity."""
        self.exits = Keys(2, LINKS)
        """Link, entity."""
        self.ends = Keys(len(PATH), ENDS)
        """What rules may ask of an end; no store."""
        self.left, self.taken, self.sent = Hours(HELD_HOURS), Hours(WEEK), Hours(WEEK)
        self.link = np.zeros((3, 0), np.int64)
        """By link: hop, the link before it, start of the first octet."""
        self.exit = np.zeros((6, 0), np.int64)
        """By exit: matched octets, possible octets, those of them that may still match, first and last time, host."""
        self.home = np.zeros(0, np.int64)
        """By node: the store that sent from there."""

    def address(self, node: int) -> str:
        """The address of a host."""
        high, low = self.nodes.columns[:, node].tolist()
        return text_of(high % 2**64, low % 2**64) or ""

    @property
    def is_nearly_full(self) -> bool:
        """Whether it is time to let go."""
        return max(self.links.count, self.sends.count, self.exits.count) > LINKS * 3 // 4

    def took(self, links: Ints) -> Ints:
        """Octets that came in within a day, by link."""
        return np.asarray(self.taken.last(links)[:, -HELD_HOURS:].sum(axis=1))

    def prune(self) -> int:
        """Let go of hosts that took nothing for a day, and of destinations of no such host. Gives how many balances."""
        held = self.taken.last(np.arange(self.links.count))[:, -HELD_HOURS:].sum(axis=1) > 0
        links = np.flatnonzero(held)
        gone = self.links.count - len(links)
        renamed = np.full(self.links.count + 1, NONE)
        renamed[links] = np.arange(len(links))
        exits = np.flatnonzero(held[self.exits.columns[0]])
        nodes = np.unique(self.links.columns[2, links])
        node_of = np.full(self.nodes.count, NONE)
        node_of[nodes] = np.arange(len(nodes))
        sends = np.flatnonzero(node_of[self.sends.columns[0]] >= 0)
        for hours, ids in ((self.left, links), (self.taken, links), (self.sent, sends)):
            hours.keep(ids)
        self.exit = self.exit[:, exits]
        self.link = self.link[:, links]
        self.link[1] = renamed[self.link[1]]
        link, entity = self.exits.columns[:, exits]
        self.exits = Keys.of(np.stack([renamed[link], entity]), LINKS)
        tenant, store, node = self.links.columns[:, links]
        self.links = Keys.of(np.stack([tenant, store, node_of[node]]), LINKS)
        node, entity = self.sends.columns[:, sends]
        self.sends = Keys.of(np.stack([node_of[node], entity]), LINKS)
        self.home = self.home[nodes]
        self.nodes = Keys.of(self.nodes.columns[:, nodes].copy(), UNBOUNDED)
        return gone

    def state(self) -> tuple[dict[str, Any], Columns]:
        """All of it as plain values and arrays."""
        arrays: Columns = {
            "nodes": self.nodes.columns,
            "links": self.links.columns,
            "sends": self.sends.columns,
            "exits": self.exits.columns,
            "ends": self.ends.columns,
            "link": self.link[:, : self.links.count],
            "exit": self.exit[:, : self.exits.count],
            "home": self.home[: self.nodes.count],
        }
        meta: dict[str, Any] = {}
        counts = {"left": self.links.count, "taken": self.links.count, "sent": self.sends.count}
        for name, count in counts.items():
            meta[name], arrays[name] = getattr(self, name).state(count)
        return meta, arrays

    def set_state(self, meta: dict[str, Any], arrays: Columns) -> None:
        """Take back what :meth:`state` gave."""
        self.nodes = Keys.of(arrays["nodes"], UNBOUNDED)
        self.links, self.sends = Keys.of(arrays["links"], LINKS), Keys.of(arrays["sends"], LINKS)
        self.exits, self.ends = Keys.of(arrays["exits"], LINKS), Keys.of(arrays["ends"], ENDS)
        self.link, self.exit, self.home = arrays["link"], arrays["exit"], arrays["home"]
        for name in ("left", "taken", "sent"):
            getattr(self, name).set_state(meta[name], arrays[name])

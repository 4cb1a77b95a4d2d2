"""Rows of simulated hosts as columns: those of many hosts in one batch, host after host, in the order of handing over.

Shaped as enriched rows of the eBPF collector are: Zipf destinations, sizes over many magnitudes, a dozen processes a host.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agent.core.clock import SECOND_NS
from agent.core.flow import ColumnData, FlowBatch, Text
from agent.simulation.plan import (
    DIFFERENT,
    FIRST_ASN,
    HOSTS_OF_A_STORE,
    RECEIVER_ASN,
    SIMULATED,
    TENANT,
    Incident,
    Plan,
)

STEP_NS: Final = 10 * SECOND_NS
"""Rows are made for so much of each host's time at once."""
_SERVICES: Final = 60
_OF_A_HOST: Final = 12
_COMMON: Final = DIFFERENT // 10
"""The first destinations are everybody's; of the others each host has its own favourites."""
_TCP: Final = 6
_HEADERS: Final = 52
_CONFIDENCES: Final = ("high", "medium", "low")
_ENDS: Final = ("idle", "end")
_PORTS: Final = np.array([443, 443, 443, 443, 80, 22, 5432, 8443], np.int64)


class Traffic:
    """Makes rows of one plan. Deterministic: the same host and step give the same rows, whatever was made before."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        ranks = 1.0 / np.arange(1, DIFFERENT + 1) ** 1.1
        self._zipf = np.cumsum(ranks) / ranks.sum()
        self._processes = (*(f"service-{n:02d}" for n in range(_SERVICES)), "postgres", "pg_dump")
        self._units = tuple(f"{name}.service" for name in self._processes)
        self._paths = tuple(f"/usr/bin/{name}" for name in self._processes)
        self._groups = tuple(f"/system.slice/{name}" for name in self._units)
        self._incidents: dict[int, list[Incident]] = {}
        for incident in plan.incidents:
            self._incidents.setdefault(int(incident.agent_id.rpartition("-")[2]), []).append(incident)

    def rows(self, hosts: Sequence[int], step: int, begin_ns: int) -> tuple[FlowBatch, list[int]]:
        """Rows that ``hosts`` hand over in a step; how many are of each. ``step`` numbers it, also below 0; a host's part
        begins at ``begin_ns`` and its phase. The rows of a host are in the order of handing over.
        """
        plan = self._plan
        which = np.asarray(hosts, np.int64)
        random = np.random.default_rng([plan.asked.seed, 7, step + 2**20, int(which[0]), len(which)])
        mean = plan.asked.rate * STEP_NS / SECOND_NS * plan.rhythm(begin_ns)
        counts = random.poisson(mean * plan.weights[which])
        host = np.repeat(which, counts)
        first = np.repeat(np.cumsum(counts) - counts, counts)
        place = (np.arange(len(host)) - first) / np.repeat(np.maximum(counts, 1), counts)
        handed_ns = begin_ns + plan.phases_ns[host] + (place * STEP_NS).astype(np.int64)
        return self._columns(random, host, handed_ns), counts.tolist()

    def hidden(self, host: int, begin_ns: int, end_ns: int) -> FlowBatch | None:
        """Rows of incidents that a host hands over in that time; None where there are none."""
        parts = [(i, self._of_incident(i, begin_ns, end_ns)) for i in self._incidents.get(host, ())]
        found = [(incident, rows) for incident, rows in parts if len(rows)]
        if not found:
            return None
        number = np.concatenate([np.full(len(rows), i.number) for i, rows in found])
        row = np.concatenate([rows for _, rows in found])
        content = np.concatenate([_shares(i)[rows] for i, rows in found])
        ends = np.concatenate([_ends(i)[rows] for i, rows in found])
        return self._theft(host, number, row, content, ends)

    def _of_incident(self, incident: Incident, begin_ns: int, end_ns: int) -> NDArray[np.int64]:
        ends = _ends(incident)
        return np.flatnonzero((ends >= begin_ns) & (ends < end_ns))

    def _columns(
        self, random: np.random.Generator, host: NDArray[np.int64], handed_ns: NDArray[np.int64]
    ) -> FlowBatch:
        plan, n = self._plan, len(host)
        remote = np.searchsorted(self._zipf, random.random(n))
        remote = np.where(remote < _COMMON, remote, (remote + host * 7_919) % DIFFERENT)
        remote = np.minimum(remote, DIFFERENT - 1)
        of_store = host < plan.store_hosts
        process = (host * 31 + random.integers(0, _OF_A_HOST, n)) % _SERVICES
        process = np.where(of_store & (process % 3 == 0), _SERVICES, process)
        # What stores send abroad is little: answers, updates, telemetry. Else every one of them were an incident.
        content = (10 ** random.normal(3.2, 1.0, n)).astype(np.int64)
        content = np.minimum(np.where(of_store, content // 16, content), 10**9)
        ends = handed_ns - (random.random(n) * plan.asked.jitter_s * SECOND_NS).astype(np.int64)
        lasted = np.minimum(random.exponential(2 * SECOND_NS, n), STEP_NS).astype(np.int64)
        network = plan.network_of[remote]
        return self._batch(
            host, plan.addresses[remote], network, process, content, ends - lasted, ends, random
        )

    def _theft(
        self,
        host: int,
        number: NDArray[np.int64],
        row: NDArray[np.int64],
        content: NDArray[np.int64],
        ends: NDArray[np.int64],
    ) -> FlowBatch:
        n = len(row)
        plan = self._plan
        random = np.random.default_rng([plan.asked.seed, 8, host, int(row[0]), n])
        address = plan.receivers[number * 16 + row % 16]
        hosts, process = np.full(n, host), np.full(n, _SERVICES + 1)
        network = np.full(n, -1)
        batch = self._batch(hosts, address, network, process, content, ends - SECOND_NS // 2, ends, random)
        receivers = tuple(f"Simulated Receiver {i.number}" for i in plan.incidents)
        nobody = Text.full(n, None)
        return batch.with_columns(
            remote_asn=RECEIVER_ASN + number,
            remote_as_org=Text(number.astype(np.int32), receivers),
            remote_owner=nobody,
            remote_owner_country=nobody,
            remote_country=nobody,
            owner_confidence=Text.full(n, "low"),
        )

    def _batch(
        self,
        host: NDArray[np.int64],
        remote: NDArray[np.uint64],
        network: NDArray[np.int64],
        process: NDArray[np.int64],
        content: NDArray[np.int64],
        starts: NDArray[np.int64],
        ends: NDArray[np.int64],
        random: np.random.Generator,
    ) -> FlowBatch:
        n = len(host)
        local = np.zeros((n, 2), np.uint64)
        local[:, 1] = (0xFFFF << 32 | 10 << 24) + host.astype(np.uint64) + 1
        packets = content // 1_400 + 1
        columns: dict[str, ColumnData] = {
            "local_address": local,
            "remote_address": remote,
            "local_port": random.integers(32_768, 61_000, n),
            "remote_port": _PORTS[(network + process) % len(_PORTS)],
            "protocol": np.full(n, _TCP),
            "initiator": Text.full(n, "local"),
            "flows": np.ones(n, np.int64),
            "octets_out": content + _HEADERS * packets,
            "packets_out": packets,
            "octets_in": content // 7 + _HEADERS * packets,
            "packets_in": packets,
            "content_octets_out": content,
            "start_ns": starts,
            "end_ns": ends,
            "tcp_flags": np.full(n, 0x1B),
            "end_reason": Text((content % 3 != 0).astype(np.int32), _ENDS),
            "vantage": Text.full(n, f"ebpf:{SIMULATED}"),
        }
        who, where = self._who(host, process), self._where(remote, network)
        return FlowBatch.build(n, columns | who | where)

    def _who(self, host: NDArray[np.int64], process: NDArray[np.int64]) -> dict[str, ColumnData]:
        """Process and store, as the agent's own enrichers tell them."""
        code, n = process.astype(np.int32), len(host)
        of_store = host < self._plan.store_hosts
        store = np.where(of_store, host // HOSTS_OF_A_STORE, -1)
        return {
            "process": Text(code, self._processes),
            "executable": Text(code, self._paths),
            "pid": 1_000 + process,
            "uid": 1_000 + process % 7,
            "unit": Text(code, self._units),
            "cgroup": Text(code, self._groups),
            "attribution": Text.full(n, "process"),
            "store": Text(store.astype(np.int32), self._plan.stores),
            "basis": Text(np.where(of_store, 0, -1).astype(np.int32), ("same_host",)),
            "tenant": Text.full(n, TENANT),
        }

    def _where(self, remote: NDArray[np.uint64], network: NDArray[np.int64]) -> dict[str, ColumnData]:
        """Facts of the other end by the number of its network; -1 is none."""
        plan = self._plan
        owned = np.where(network % 3 != 2, network, -1)
        return {
            "remote_scope": Text.full(len(network), "external"),
            "remote_country": _coded(network % len(plan.countries), network, plan.countries),
            "remote_asn": np.where(network < 0, -1, FIRST_ASN + network),
            "remote_as_org": Text(network.astype(np.int32), plan.organisations),
            "remote_owner": _coded(network % len(plan.owners), owned, plan.owners),
            "remote_owner_country": _coded(network % 7, owned, plan.countries),
            "location_confidence": Text((remote[:, 1] % np.uint64(2)).astype(np.int32), _CONFIDENCES),
            "owner_confidence": Text((network % 3).astype(np.int32), _CONFIDENCES),
        }


def _coded(codes: NDArray[np.int64], known: NDArray[np.int64], values: tuple[str, ...]) -> Text:
    """Texts where ``known`` is not below 0."""
    return Text(np.where(known < 0, -1, codes).astype(np.int32), values)


def _ends(incident: Incident) -> NDArray[np.int64]:
    lasts_ns = incident.end_ns - incident.begin_ns
    return incident.begin_ns + np.arange(incident.rows) * lasts_ns // incident.rows


def _shares(incident: Incident) -> NDArray[np.int64]:
    share, rest = divmod(incident.content_octets_out, incident.rows)
    return np.full(incident.rows, share) + (np.arange(incident.rows) < rest)

"""One epoch's rows of the maps of ``tc.bpf.c`` as flows: each is one already, of one interface; there is nothing to join."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agent.core.address import NULL_HALF
from agent.core.flow import ColumnData, Text
from collectors.bpf.layout import Bits
from collectors.bpf.merge import WITH_PORTS, Flows
from collectors.flowtable.table import KeyHash
from collectors.host.guests import Guest

BASES: Final = ("interface",)
"""Value of the column ``attribution``."""
_SUMMED: Final = ("octets_out", "octets_in", "packets_out", "packets_in", "content_out")


def flows(keys: NDArray[np.void], values: NDArray[np.void], hasher: KeyHash) -> Flows:
    """A flow for each row, in the order of their identities. ``keys`` and ``values`` as in ``layout``, both (n,)."""
    ported = np.isin(keys["protocol"], WITH_PORTS)
    local_port = np.where(ported, keys["local_port"].astype(np.int64), -1)
    remote_port = np.where(ported, keys["remote_port"].astype(np.int64), -1)
    words = np.zeros((5, len(keys)), np.uint64)
    words[0:2], words[2:4] = keys["local"].T.astype(np.uint64), keys["remote"].T.astype(np.uint64)
    words[4] = ((local_port + 1) << 25 | (remote_port + 1) << 8 | keys["protocol"]).astype(np.uint64)
    ends = hasher(words)
    words[:] = 0
    words[0], words[1] = ends, keys["cookie"]
    identity = hasher(words)
    order = np.argsort(identity, kind="stable")
    identity, keys, values = identity[order], keys[order], values[order]
    n = len(keys)
    return Flows(
        identity=identity,
        local=keys["local"].astype(np.uint64),
        remote=keys["remote"].astype(np.uint64),
        nat=np.full((n, 2), NULL_HALF, np.uint64),
        service=np.full((n, 2), NULL_HALF, np.uint64),
        service_port=np.full(n, -1, np.int32),
        local_port=local_port[order].astype(np.int32),
        remote_port=remote_port[order].astype(np.int32),
        protocol=keys["protocol"].copy(),
        sums={name: values[name].copy() for name in _SUMMED},
        first_ns=values["first_ns"].copy(),
        last_ns=values["last_ns"].copy(),
        flags_out=values["flags_out"].astype(np.int64),
        flags_in=values["flags_in"].astype(np.int64),
        connections=np.ones(n, np.int64),
        listening=np.zeros(n, bool),
        first_out=values["bits"] & Bits.FIRST_OUT != 0,
        owner=values,
    )


def owners(found: Flows, guests: Mapping[int, Guest]) -> dict[str, ColumnData]:
    """vm, process, pid, executable, uid, cgroup, unit, container, pod, pod_uid, attribution: of whoever is behind the interface."""
    indexes, which = np.unique(found.owner["ifindex"], return_inverse=True)
    codes = which.astype(np.int32)
    behind = [guests.get(index, Guest()) for index in indexes.tolist()]
    pids = np.array([g.process.pid if g.process else -1 for g in behind], np.int64)
    out: dict[str, ColumnData] = {
        "vm": _text([g.machine for g in behind], codes),
        "process": _text([g.process.name if g.process else None for g in behind], codes),
        "pid": pids[which],
        "executable": _text([g.process.executable if g.process else None for g in behind], codes),
        "attribution": Text.full(len(found), BASES[0]),
    }
    for name in ("cgroup", "unit", "container", "pod", "pod_uid"):
        out[name] = _text([getattr(g.place, name) for g in behind], codes)
    return out


def named(found: Flows, names: Mapping[int, str], prefix: str = "") -> Text:
    """The name of each flow's interface, behind a prefix; null where it is not known."""
    indexes, which = np.unique(found.owner["ifindex"], return_inverse=True)
    known = [names.get(index) for index in indexes.tolist()]
    return _text([None if name is None else prefix + name for name in known], which.astype(np.int32))


def _text(values: list[str | None], codes: NDArray[np.int32]) -> Text:
    """The text of each row by its code; null where it is none."""
    index: dict[str, int] = {}
    translate = [-1 if not v else index.setdefault(v, len(index)) for v in values]
    return Text(np.array([*translate, -1], np.int32)[codes], tuple(index))

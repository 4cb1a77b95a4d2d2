"""What on this host sends past its network stack, found by looking: in /sys, /proc, a database of Open vSwitch, rtnetlink.

Each thing found is one :class:`Bypass`; its words (what it is, why it is not seen, who sees it) are the phrases
``bypass.<kind>`` of :mod:`agent.words`. What is not found may be there all the same: a guest's own devices, a card that
drops to another mode later, files that this process may not read. So nothing found is no proof of nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agent.core.errors import CaptureError
from collectors.host import bypass_devices, bypass_programs
from collectors.host.ethtool import hw_tc_offload
from collectors.host.interfaces import HostWatch

KINDS: Final = (
    "sr_iov", "dpdk", "ovs_offload", "rdma", "af_xdp", "xdp", "gvisor", "virtual_machines", "kata",
)  # fmt: skip
"""Every kind there is, as keys of ``bypass`` in the words."""


@dataclass(frozen=True, slots=True)
class Bypass:
    """One thing that sends past the network stack."""

    kind: str
    """One of ``KINDS``."""
    blanks: Mapping[str, str | int] = field(default_factory=dict)
    """What fills the blanks of its phrase ``bypass.<kind>.what``."""


def survey(
    root: Path = Path("/"),
    *,
    xdp: Callable[[], Mapping[str, int]] | None = None,
    offloads: Callable[[str], bool] = hw_tc_offload,
) -> tuple[Bypass, ...]:
    """Everything found below ``root``, in the order of ``KINDS``.

    ``xdp`` gives interfaces with the id of the XDP program on them, ``offloads`` whether a card may forward by itself:
    the kernel tells both of this network namespace only by netlink and ioctl, and neither below any root.
    """
    programs = bypass_programs.running(root)
    found = {
        "sr_iov": bypass_devices.sr_iov(root),
        "dpdk": bypass_devices.dpdk(root, programs),
        "ovs_offload": bypass_devices.ovs_offload(root, offloads),
        "rdma": bypass_devices.rdma(root, programs),
        "af_xdp": bypass_devices.af_xdp(root),
        "xdp": bypass_devices.xdp((xdp or xdp_programs)()),
        "gvisor": bypass_programs.gvisor(programs),
        "virtual_machines": bypass_programs.virtual_machines(programs),
        "kata": bypass_programs.kata(programs),
    }
    return tuple(Bypass(kind, found[kind]) for kind in KINDS if found[kind])


def xdp_programs() -> Mapping[str, int]:
    """Interface name -> id of the XDP program on it, of this thread's network namespace; none where it is not told."""
    with contextlib.suppress(CaptureError), HostWatch() as watch:
        return {i.name: i.xdp for i in watch.read().interfaces.values() if i.xdp}
    return {}

"""The collectors that can be measured here, and what each promises."""

from __future__ import annotations

import importlib.util

from tests.capture.stage import Tier
from tests.capture.wire import BOX, FAMILIES

_BOX_NETWORKS = [f"{BOX[family]}/{ {4: 32, 6: 128}[family] }" for family in FAMILIES]

AF_PACKET = Tier(
    "af_packet",
    special={
        "container": {"own_networks": _BOX_NETWORKS},
        "small_table": {"max_flows": 1000},
    },
    inexact={
        "agent_restart_under_load": "nothing is captured between two runs",
    },
)
EBPF = Tier(
    "ebpf",
    inexact={
        "packet_socket": "a packet socket passes no cgroup hook; af_packet and tc see it",
        "vxlan_outside": "the kernel itself sends the outer packets, through no socket of a cgroup; af_packet sees them",
    },
    names=True,
)
TIERS = {tier.name: tier for tier in (AF_PACKET, EBPF)}


def here() -> list[Tier]:
    """Those whose collector exists."""
    return [tier for tier in TIERS.values() if importlib.util.find_spec(f"collectors.{tier.name}")]

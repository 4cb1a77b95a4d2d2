"""The collectors that can be measured here, and what each promises."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

from tests.capture.stage import RUN_GROUP, Tier
from tests.capture.wire import BOX, FAMILIES
from tests.tools.netns import run

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
_PINS = Path(f"/run/sekisho-truth-{os.getpid()}")


@contextlib.contextmanager
def _bpf_files() -> Iterator[None]:
    """A BPF file system of this run's own; what is pinned there goes with it."""
    _PINS.mkdir()
    try:
        run("mount", "-t", "bpf", "bpf", str(_PINS))
        try:
            yield
        finally:
            run("umount", str(_PINS))
    finally:
        _PINS.rmdir()


_OUTSIDE = (
    "the kernel itself sends the outer packets, through no socket of a cgroup; af_packet sees them. The packets inside, "
    "which are the ones that somebody sent, are exact (vxlan_inside)"
)
_OVER = "what had no room in the map is one row, without ends and process"
TIME_WAIT = (
    "the last acknowledgement and FIN of a connection that this host closed first belong to no full socket (TIME_WAIT) "
    "and pass no cgroup hook: at most a bare packet each way, never content, and acknowledgements that come later still, "
    "where packets were sent twice; af_packet sees them"
)
RESETS = (
    "a reset that the kernel sends by IPv6 for a packet that belongs to no connection passes no cgroup hook (one by IPv4 "
    "does): 60 octets each, never content; af_packet sees them"
)

EBPF = Tier(
    "ebpf",
    settings={"pin": False, "pin_dir": str(_PINS / "pins")},
    special={
        "small_table": {"map_flows": 1024, "cgroup": RUN_GROUP},
        "restart": {"pin": True, "keep_on_stop": True},
    },
    around=_bpf_files,
    headers_missing={
        "udp_fragments": "the hooks see a datagram before it is cut, so the headers of its fragments are missing; "
        "af_packet sees them",
    },
    time_wait=frozenset({"closed_by_the_host", "gone_at_once"}),
    unseen_resets=frozenset({6}),
    late_acks=True,
    inexact={
        "packet_socket": "a packet socket passes no cgroup hook; af_packet sees it",
        "vxlan_outside": _OUTSIDE,
        "vxlan_outside_v6": _OUTSIDE,
    },
    names=True,
    nameless={"table_overflow": _OVER, "table_overflow_v6": _OVER},
)
TIERS = {tier.name: tier for tier in (AF_PACKET, EBPF)}


def here() -> list[Tier]:
    """Those whose collector exists."""
    return [tier for tier in TIERS.values() if importlib.util.find_spec(f"collectors.{tier.name}")]


@functools.cache
def hindrance(name: str) -> str:
    """Why a collector cannot run on this machine at all, in its own words; empty where it can, or does not say."""
    tier = TIERS[name]
    settings = importlib.import_module(f"collectors.{name}").Settings.model_validate(tier.settings)
    ask = getattr(settings, "hindrance", None)
    return "" if ask is None else str(ask())

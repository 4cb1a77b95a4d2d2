"""What it means when libbpf is missing or the kernel refuses, in words that say how to mend it."""

from __future__ import annotations

import errno

from agent.core.errors import CaptureError
from collectors.bpf import libbpf


def require_libbpf() -> None:
    """Raise :class:`CaptureError` where libbpf cannot be used."""
    if lacking := libbpf.missing():
        raise CaptureError(
            f"libbpf cannot be used: {lacking}. Install it (Debian, Ubuntu 24.04: libbpf1; Fedora, RHEL 9: libbpf), "
            "version 1.0 or newer"
        )


def plain(error: OSError, *, collector: str, rights: str, kernel: str) -> CaptureError:
    """What a refusal means. ``rights`` and ``kernel``: what the collector needs, in words."""
    if error.errno in (errno.EPERM, errno.EACCES):
        advice = (
            f"run as root (sudo), or give the service {rights} (AmbientCapabilities in its unit); "
            "a user namespace or lockdown may forbid it altogether"
        )
    elif error.errno in (errno.ENOMEM, errno.E2BIG):
        advice = (
            f"the maps have no room: lower {collector}.map_flows, or raise the service's MemoryMax (or "
            "RLIMIT_MEMLOCK)"
        )
    else:
        advice = f"this kernel lacks a part: {kernel} has all of them"
    return CaptureError(f"the kernel did not take the eBPF programs: {error.strerror}; {advice}")

"""What a refusal of libbpf or of the kernel means, and how to mend it."""

from __future__ import annotations

import errno
from pathlib import Path

from agent.core.errors import CaptureError
from collectors.bpf import libbpf


def require_libbpf(named: Path | None, tier: str) -> None:
    """Raises :class:`CaptureError` where libbpf is not there or too old. ``named``: its file; None: the one that is found.
    ``tier``: the collector that needs it.
    """
    libbpf.use(named)
    if not (lacking := libbpf.missing()):
        return
    advice = (
        f"correct or leave out {tier}.libbpf"
        if named
        else "install it (Debian, Ubuntu 24.04: libbpf1; Fedora, RHEL 9: libbpf), version 1.0 or newer; for hosts that "
        f"have none (Ubuntu 22.04, RHEL 8) build the package with `make libbpf wheel`, or name a file ({tier}.libbpf)"
    )
    raise CaptureError(f"libbpf cannot be used: {lacking}. To mend it: {advice}")


def plain(error: OSError, *, tier: str, rights: str, kernel: str) -> CaptureError:
    """What a refusal of the kernel means. ``rights`` and ``kernel``: what the collector needs, in words."""
    if error.errno in (errno.EPERM, errno.EACCES):
        advice = (
            f"run as root (sudo), or give the service {rights} "
            "(AmbientCapabilities in its unit); a user namespace or lockdown may forbid it altogether"
        )
    elif error.errno in (errno.ENOMEM, errno.E2BIG):
        advice = f"the maps have no room: lower {tier}.map_flows, or raise the service's MemoryMax (or RLIMIT_MEMLOCK)"
    else:
        advice = f"this kernel lacks a part: {kernel} has all of them"
    return CaptureError(f"the kernel did not take the eBPF programs: {error.strerror}; {advice}")

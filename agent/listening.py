"""What listens on this host: ports of ``/proc/net/tcp*`` and the processes behind them. Reads only, sends nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from agent.policy.starter import Listening, guess
from collectors.host.processes import process

LISTEN = "0A"
"""State of a listening socket in /proc/net/tcp (include/net/tcp_states.h)."""

_SOCKET = re.compile(r"socket:\[(\d+)\]")


def listening(proc: Path = Path("/proc")) -> list[Listening]:
    """Every TCP port on which something accepts connections, lowest first; loopback too, as stores often hide there.

    Without privilege the processes of other users are not known; their texts stay empty.
    """
    inodes: dict[int, int] = {}
    own = proc / "thread-self" / "net"
    net = own if own.is_dir() else proc / "net"
    for name in ("tcp", "tcp6"):
        inodes.update((inode, port) for port, inode in _sockets(net / name))
    owners = _owners(proc, set(inodes))
    found: dict[int, Listening] = {}
    for inode, port in sorted(inodes.items(), key=lambda pair: pair[1]):
        holder = process(owners[inode], proc) if inode in owners else None
        name = (holder and holder.name) or ""
        if port not in found or (name and not found[port].process):
            executable = (holder and holder.executable) or ""
            unit = (holder and holder.place.unit) or ""
            found[port] = Listening(port, name, executable, unit, guess(port, name, executable))
    return list(found.values())


def _sockets(path: Path) -> Iterator[tuple[int, int]]:
    for line in _text(path).splitlines()[1:]:
        parts = line.split()
        if len(parts) > 9 and parts[3] == LISTEN:
            yield int(parts[1].rsplit(":", 1)[1], 16), int(parts[9])


def _owners(proc: Path, inodes: set[int]) -> dict[int, int]:
    owners: dict[int, int] = {}
    for folder in sorted(proc.glob("[0-9]*"), key=lambda p: int(p.name)):
        try:
            handles = list((folder / "fd").iterdir())
        except OSError:
            continue
        for handle in handles:
            try:
                match = _SOCKET.match(str(handle.readlink()))
            except OSError:
                continue
            if match and int(match[1]) in inodes:
                owners.setdefault(int(match[1]), int(folder.name))
    return owners


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""

"""What listens on this host: ports of ``/proc/net/tcp*`` and the processes behind them. Reads only, sends nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from agent.policy.servers import Listening, guess, guessed
from collectors.host.pods import Pods
from collectors.host.processes import Process, process

LISTEN = "0A"
"""State of a listening socket in /proc/net/tcp (include/net/tcp_states.h)."""

_SOCKET = re.compile(r"socket:\[(\d+)\]")


def listening(proc: Path = Path("/proc"), *, containers: bool = False) -> list[Listening]:
    """Every TCP port on which something accepts connections, lowest first; loopback too, as stores often hide there.

    ``containers``: those in the network namespaces of other processes as well. Without privilege the processes of other
    users are not known; their texts stay empty. Nothing is sent.
    """
    own = proc / "thread-self" / "net"
    net = own if own.is_dir() else proc / "net"
    ours = dict(_listeners(net))
    inodes = dict(ours)
    if containers:
        for elsewhere in _other_namespaces(proc):
            inodes.update(_listeners(elsewhere))
    owners = _owners(proc, set(inodes))
    pods = Pods()
    found: dict[tuple[int, str], Listening] = {}
    for inode, port in sorted(inodes.items(), key=lambda pair: pair[1]):
        fact = _told(port, process(owners[inode], proc) if inode in owners else None, pods)
        key = (port, fact.container or fact.pod or ("" if inode in ours else str(owners.get(inode, ""))))
        if key not in found or (fact.process and not found[key].process):
            found[key] = fact
    return list(found.values()) + _kernel_servers(proc, {fact.port for fact in found.values()})


def _told(port: int, holder: Process | None, pods: Pods) -> Listening:
    if holder is None:
        return Listening(port, guess=guess(port), by="port" if guess(port) else "")
    name, executable = holder.name or "", holder.executable or ""
    place = pods.named(holder.place, 0)
    unit = place.unit or ""
    kind, by = guessed(port, name, executable, unit)
    return Listening(port, name, executable, unit, kind, place.container or "", place.pod or "", by)


def _listeners(net: Path) -> Iterator[tuple[int, int]]:
    for name in ("tcp", "tcp6"):
        yield from ((inode, port) for port, inode in _sockets(net / name))


def _other_namespaces(proc: Path) -> Iterator[Path]:
    """``/proc/PID/net`` of one process in each network namespace but our own (namespaces(7))."""
    seen = {_link(proc / "thread-self" / "ns" / "net") or _link(proc / "self" / "ns" / "net")}
    for folder in sorted(proc.glob("[0-9]*"), key=lambda p: int(p.name)):
        space = _link(folder / "ns" / "net")
        if space and space not in seen:
            seen.add(space)
            yield folder / "net"


def _link(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return ""


def _kernel_servers(proc: Path, known: set[int]) -> list[Listening]:
    """NFS of the kernel, whose sockets no process holds: lines such as ``tcp 2049`` (nfsd(7))."""
    found = []
    for line in _text(proc / "fs" / "nfsd" / "portlist").splitlines():
        kind, _, port = line.partition(" ")
        if kind == "tcp" and port.isdigit() and int(port) not in known:
            known.add(int(port))
            found.append(Listening(int(port), "nfsd", guess="NFS file server", by="process"))
    return found


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

"""Servers of :mod:`tests.capture.senders`: the ways in which services share out connections among processes.

Each listens where it is told, serves ``count`` connections (reads a request, answers ``octets`` octets, closes), and says
the processes that did.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

Said = dict[str, Any]


def _listening(given: dict[str, Any]) -> socket.socket:
    family = socket.AF_INET6 if ":" in given["at"] else socket.AF_INET
    return socket.create_server((given["at"], given["port"]), family=family, backlog=1000)


def _serve(link: socket.socket, octets: int) -> None:
    while link.recv(1 << 16):
        pass
    link.sendall(bytes(octets))
    link.close()


def accept_then_fork(given: dict[str, Any]) -> Iterator[Said]:
    """A child for each connection, as PostgreSQL does."""
    server = _listening(given)
    yield {}
    pids = []
    for _ in range(given["count"]):
        link, _who = server.accept()
        if pid := os.fork():
            link.close()
            pids.append(pid)
            continue
        _serve(link, given["octets"])
        os._exit(0)
    for pid in pids:
        os.waitpid(pid, 0)
    yield {"sent": given["count"] * given["octets"], "pids": pids}


def prefork(given: dict[str, Any]) -> Iterator[Said]:
    """Workers that accept on the listening socket of their parent, as nginx and gunicorn do."""
    server = _listening(given)
    pids = []
    each = given["count"] // 2
    for _ in range(2):
        if pid := os.fork():
            pids.append(pid)
            continue
        for _ in range(each):
            _serve(server.accept()[0], given["octets"])
        os._exit(0)
    yield {}
    for pid in pids:
        os.waitpid(pid, 0)
    yield {"sent": 2 * each * given["octets"], "pids": pids}


def threaded(given: dict[str, Any]) -> Iterator[Said]:
    """A thread for each connection."""
    server = _listening(given)
    yield {}
    threads = []
    for _ in range(given["count"]):
        link, _who = server.accept()
        threads.append(threading.Thread(target=_serve, args=(link, given["octets"])))
        threads[-1].start()
    for thread in threads:
        thread.join()
    yield {"sent": given["count"] * given["octets"]}


def hangs_up(given: dict[str, Any]) -> Iterator[Said]:
    """Answers, and closes before its client does."""
    server = _listening(given)
    yield {}
    for _ in range(given["count"]):
        link, _who = server.accept()
        link.recv(100)
        link.sendall(bytes(given["octets"]))
        link.close()
    yield {"sent": given["count"] * given["octets"]}


def socket_activated(given: dict[str, Any]) -> Iterator[Said]:
    """The listening socket comes from another process, as systemd hands it over (sd_listen_fds(3), fd 3)."""
    server = _listening(given)
    os.dup2(server.fileno(), 3)
    os.set_inheritable(3, True)
    count, octets = str(given["count"]), str(given["octets"])
    here = {"LISTEN_FDS": "1"}
    pid = os.posix_spawn(
        sys.executable, [sys.executable, "-E", "-s", "-S", __file__, count, octets], os.environ | here
    )
    yield {"pids": [pid]}
    os.waitpid(pid, 0)
    yield {"sent": given["count"] * given["octets"]}


def udp_echo(given: dict[str, Any]) -> Iterator[Said]:
    """Answers ``octets`` octets to each of ``count`` datagrams."""
    family = socket.AF_INET6 if ":" in given["at"] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as link:
        link.bind((given["at"], given["port"]))
        yield {}
        for _ in range(given["count"]):
            _data, who = link.recvfrom(2000)
            link.sendto(bytes(given["octets"]), who)
    yield {"sent": given["count"] * given["octets"]}


if __name__ == "__main__":
    assert os.environ["LISTEN_FDS"] == "1"
    passed = socket.socket(fileno=3)
    for _ in range(int(sys.argv[1])):
        _serve(passed.accept()[0], int(sys.argv[2]))

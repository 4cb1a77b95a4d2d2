"""Which process sent what: real programs in network namespaces, against their own word for who they are."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.tools.netns import HOST4, HOST6, PEER4, PEER6, Pair, Task, wait_for
from tests.tools.watching_sockets import NOBODY, control_group, program, watching

pytestmark = pytest.mark.root

CLIENT = """
import socket, sys
link = socket.create_connection((sys.argv[1], int(sys.argv[2])))
link.sendall(bytes(5000))
print("sent", flush=True)
sys.stdin.read()
"""
SERVER = """
import socket, sys, threading
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
server = socket.create_server((sys.argv[1], int(sys.argv[2])), family=family, dualstack_ipv6=sys.argv[1] == "::")
links = []
def serve():
    while True:
        link, _ = server.accept()
        links.append(link)
        link.sendall(link.recv(100))
        if len(sys.argv) > 3: link.close()
threading.Thread(target=serve, daemon=True).start()
print("listens", flush=True)
sys.stdin.read()
"""
UDP = """
import socket, sys
here = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
here.bind((sys.argv[1], int(sys.argv[2])))
here.sendto(b"x" * 100, (sys.argv[3], 9))
print("sent", flush=True)
sys.stdin.read()
"""
CONTAINER = "ab" * 32
WHO = ("process", "pid", "executable", "uid", "unit", "container", "pod")


def who(pid: int, uid: int = 0, **place: str) -> dict[str, Any]:
    """The columns of a program of these tests."""
    executable = Path(sys.executable).resolve()
    whole = {"process": Path(sys.executable).name[:15], "pid": pid, "executable": str(executable), "uid": uid}
    return {**dict.fromkeys(WHO), **whole, **place}


def held() -> tuple[int, int]:
    """File handles and threads of this process."""
    own = Path("/proc/self")
    return len(list((own / "fd").iterdir())), len(list((own / "task").iterdir()))


def of(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in WHO}


@pytest.mark.parametrize("target", [PEER4, PEER6])
def test_a_client_of_another_user_in_a_service(
    two: Pair, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    """A connection opened by a service of another user knows its process, user, control group and unit."""
    with (
        control_group("/sekisho-test.slice/sender@1.service") as group,
        program(two.peer, SERVER, target, "6543"),
        watching(two.host, monkeypatch) as watched,
        program(two.host, CLIENT, target, "6543", uid=NOBODY, group=group) as client,
    ):
        watched.wait_for_sample()
        (row,) = (row for row in watched.rows() if row["remote_port"] == 6543)
        assert of(row) == who(client.pid, NOBODY, unit="sender@1.service")
        assert row["cgroup"] == "/sekisho-test.slice/sender@1.service"


@pytest.mark.parametrize(
    ("address", "target"),
    [(HOST4, HOST4), (HOST6, HOST6), ("::", HOST6), ("::", HOST4), ("0.0.0.0", HOST4)],
)
def test_a_server_on_a_port_of_its_own(
    two: Pair, monkeypatch: pytest.MonkeyPatch, address: str, target: str
) -> None:
    """A connection that a server accepted is its container's, whatever the port and the address it is bound to."""
    path = f"/kubepods.slice/kubepods-pod01234567_89ab_cdef_0123_456789abcdef.slice/cri-containerd-{CONTAINER}.scope"
    with (
        control_group(path) as group,
        program(two.host, SERVER, address, "6543", group=group) as server,
        watching(two.host, monkeypatch) as watched,
        program(two.peer, CLIENT, target, "6543"),
    ):
        watched.wait_for_sample()
        (row,) = (row for row in watched.rows() if row["local_port"] == 6543)
        place = {"container": CONTAINER, "pod": "01234567-89ab-cdef-0123-456789abcdef"}
        assert of(row) == who(server.pid, **place)
        assert row["cgroup"] == path


def test_short_connections_belong_to_whoever_listens(two: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections that are over before any sample are the listening process's; what a brief client opened is null."""
    with (
        program(two.host, SERVER, "::", "6543", "close") as server,
        watching(two.host, monkeypatch) as watched,
    ):

        def ask() -> None:
            for _ in range(20):
                with socket.create_connection((HOST4, 6543)) as link:
                    link.sendall(b"x")
                    link.recv(10)

        two.peer.call(ask)
        rows = [row for row in watched.rows() if row["local_port"] == 6543]
        assert len(rows) == 20
        assert [of(row) for row in rows] == [who(server.pid)] * 20


@pytest.mark.parametrize(("address", "target"), [(HOST4, PEER4), ("0.0.0.0", PEER4), ("::", PEER6)])
def test_an_unconnected_datagram_socket(
    two: Pair, monkeypatch: pytest.MonkeyPatch, address: str, target: str
) -> None:
    """Datagrams of a socket that is connected to nobody are known by its port."""
    with (
        watching(two.host, monkeypatch) as watched,
        program(two.host, UDP, address, "5353", target, uid=NOBODY) as sender,
    ):
        watched.wait_for_sample()
        (row,) = (row for row in watched.rows() if row["protocol"] == 17)
        assert of(row) == who(sender.pid, NOBODY)


def test_without_processes_the_columns_are_null(two: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """With processes off nothing is sampled and no row has a process."""
    with (
        program(two.peer, SERVER, PEER4, "6543"),
        watching(two.host, monkeypatch, processes=False) as watched,
    ):
        with program(two.host, CLIENT, PEER4, "6543"):
            pass
        rows = watched.rows()
        assert [of(row) for row in rows] == [dict.fromkeys(WHO)] * len(rows) != []
        assert watched.owners == []


def test_threads_and_handles_are_given_back(two: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the capture neither a thread nor a file handle of it is left."""
    before = held()
    for names in (False, True):
        with watching(two.host, monkeypatch, names=names) as watched:
            watched.rows()
    # A thread that was joined may take the kernel a moment to go.
    wait_for(lambda: held() == before, f"{before} handles and threads")


def test_names_from_answers_and_hellos(two: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection after a DNS answer has the name that was asked for; one with a server name has that one."""
    from tests.tools.hello_messages import client_hello, dns_answer

    sent: list[int] = []

    def resolver() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here:
            here.bind((PEER4, 53))
            _query, asker = here.recvfrom(512)
            here.sendto(dns_answer("Db.Example.org", [PEER4, PEER6], ttl=60), asker)

    def client() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here:
            here.settimeout(10)
            for _ in range(50):  # the resolver may not be bound yet
                here.sendto(b"x", (PEER4, 53))
                try:
                    here.settimeout(0.2)
                    here.recv(512)
                    break
                except (TimeoutError, ConnectionRefusedError):
                    continue
        for target in (PEER4, PEER6):
            with socket.create_connection((target, 6543)) as link:
                link.sendall(b"x")
                link.recv(10)
            with socket.create_connection((target, 6543)) as link:
                link.sendall(client_hello("web.example.net"))
                link.recv(10)
                sent.append(link.getsockname()[1])

    with (
        program(two.peer, SERVER, "::", "6543", "close"),
        watching(two.host, monkeypatch, names=True) as watched,
    ):
        answering = Task(two.peer, resolver)
        two.host.call(client)
        answering.result()
        rows = [row for row in watched.rows() if row["remote_port"] == 6543]
    found = {(row["remote_address"], row["local_port"] in sent): row["remote_name"] for row in rows}
    assert found == {
        (PEER4, False): "db.example.org",
        (PEER4, True): "web.example.net",
        (PEER6, False): "db.example.org",
        (PEER6, True): "web.example.net",
    }

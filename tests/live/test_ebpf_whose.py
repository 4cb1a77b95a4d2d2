"""Whose a flow is, as eBPF capture tells it: parents, containers, pods, sockets that change hands, processes by the thousand."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from collectors.bpf import libbpf, owning, programs
from collectors.bpf.epochs import Epochs
from collectors.bpf.layout import Bits, Role
from collectors.host.cgroups import mounted
from collectors.host.pods import Pods
from tests.tools import hosting
from tests.tools.bpf_capture import capturing
from tests.tools.hosting import Group
from tests.tools.netns import HOST4, PEER4, Pair, wait_for

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(bool(libbpf.missing()), reason=f"needs libbpf: {libbpf.missing()}"),
    pytest.mark.skipif(mounted() is None, reason="needs control groups of version 2 mounted"),
]

UID = "01234567-89ab-cdef-0123-456789abcdef"
CONTAINER = "ab" * 32


@pytest.fixture
def here(two: Pair) -> Iterator[Group]:
    with hosting.group(two.host) as made:
        yield made


def test_the_parent_is_named(two: Pair, here: Group) -> None:
    """A process that is alive when its row is read has its parent's id and name."""
    code = """
import subprocess
child = subprocess.Popen([sys.executable, "-c", '''
import socket, sys; socket.socket(2, 2).sendto(b"x", (sys.argv[1], 9)); print("sent", flush=True); sys.stdin.readline()
''', sys.argv[1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
assert child.stdout.readline() == "sent\\n"
print(child.pid, flush=True); sys.stdin.readline(); child.communicate("\\n")
"""
    with capturing(here) as capture:
        parent = here.start(code, PEER4)
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        wait_for(lambda: capture.packets() == 1, "the row")
        name = Path(f"/proc/{parent.pid}/comm").read_text().strip()
        parent.communicate("\n", timeout=20)
        rows = capture.rows()
    assert [(r["pid"], r["parent_pid"], r["parent"]) for r in rows] == [(child, parent.pid, name)]


def test_a_pod_has_the_name_that_the_kubelet_gave_its_logs(
    two: Pair, here: Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below kubepods: container id and pod uid by the path, namespace and name by the kubelet's folder."""
    (tmp_path / "pods" / f"shop_db-0_{UID}").mkdir(parents=True)
    monkeypatch.setattr(owning, "Pods", lambda: Pods(tmp_path))
    below = here.folder
    folders = ["kubepods", f"pod{UID}", CONTAINER]
    with capturing(here) as capture:
        for name in folders:
            below /= name
            below.mkdir()
        pod = Group(below, two.host)
        pod.run('socket.socket(2, 2).sendto(b"x", (sys.argv[1], 9))', PEER4)
        rows = capture.rows()
        wait_for(lambda: not (below / "cgroup.procs").read_text(), "the pod to be empty")
        while below != here.folder:
            below.rmdir()
            below = below.parent
    assert [(r["pod"], r["pod_uid"], r["container"], r["cgroup"]) for r in rows] == [
        ("shop/db-0", UID, CONTAINER, f"{here.path}/{'/'.join(folders)}")
    ]


@pytest.mark.skipif(
    not Path("/sys/fs/cgroup/systemd").is_dir(), reason="needs control groups of version 1 beside 2"
)
def test_on_hosts_with_version_1_the_container_is_the_process_s(two: Pair, tmp_path: Path) -> None:
    """Where the runtime uses version 1 alone, the socket's group is the root; unit and container come from the process."""
    mine = "192.0.2.203"
    two.host.ip("addr", "add", f"{mine}/24", "dev", "h0")
    old = Path("/sys/fs/cgroup/systemd") / f"sekisho-test-{os.getpid()}"
    folder = old / f"docker-{CONTAINER}.scope"
    folder.mkdir(parents=True)
    root = mounted()
    assert root is not None
    code = """
open(sys.argv[2] + "/cgroup.procs", "w").write(str(os.getpid()))
s = socket.socket(2, 2); s.bind((sys.argv[3], 0)); s.sendto(b"x", (sys.argv[1], 9)); print("sent", flush=True)
sys.stdin.readline()
"""
    whole = Group(root, two.host)
    try:
        with capturing(whole, cgroup=None) as capture:
            running = whole.start(code, PEER4, folder, mine)
            assert running.stdout is not None
            assert running.stdout.readline() == "sent\n"
            wait_for(
                lambda: any(
                    (b["local_port"] >= 0).any() and mine in {r["local_address"] for r in b.rows()}
                    for b in capture.batches
                ),
                "the row",
            )
            running.communicate("\n", timeout=20)
            rows = [r for r in capture.rows() if r["local_address"] == mine]
    finally:
        wait_for(lambda: not (folder / "cgroup.procs").read_text(), "the container to end")
        folder.rmdir()
        old.rmdir()
    assert {(r["pid"], r["container"], r["attribution"]) for r in rows} == {
        (running.pid, CONTAINER, "process")
    }


PASSING = """
mine, other = socket.socketpair()
if os.fork() == 0:
    import subprocess
    mine.close()
    fds = socket.recv_fds(other, 10, 1)[1]
    s = socket.socket(fileno=fds[0])
    KIND
    os._exit(0)
s = socket.socket(2, 2)
socket.send_fds(mine, [b"x"], [s.fileno()])
os.wait()
print(os.getpid())
"""


@pytest.mark.parametrize(
    ("use", "is_maker"),
    [("s.sendto(b'x', (sys.argv[1], 9))", False), ("s.connect((sys.argv[1], 9)); s.send(b'x')", False)],
)
def test_a_socket_that_was_handed_over_is_its_user_s(
    two: Pair, here: Group, use: str, is_maker: bool
) -> None:
    """One process makes a socket and hands it to another one: who connects or sends is named."""
    with capturing(here) as capture:
        maker, _ = here.run(PASSING.replace("KIND", use), PEER4)
        two.settle()
        rows = capture.rows()
    assert len(rows) == 1
    assert (rows[0]["pid"] == maker) is is_maker
    assert rows[0]["attribution"] == "process"


BUSY = """
s = socket.socket(2, 2); s.connect((sys.argv[1], 9))
print("open", flush=True)
import select
while not select.select([sys.stdin], [], [], 0)[0]:
    try: s.send(b"x")
    except ConnectionRefusedError: pass
"""


def test_a_busy_socket_that_is_older_than_the_agent_is_named_from_the_first_packet(
    two: Pair, here: Group
) -> None:
    """A socket that sends while the programs are attached: no packet is counted before its holder is known."""
    busy = here.start(BUSY, PEER4)
    assert busy.stdout is not None
    assert busy.stdout.readline() == "open\n"
    with capturing(here) as capture:
        wait_for(lambda: capture.packets() > 100, "packets")
        rows = capture.rows()
    busy.communicate("\n", timeout=20)
    assert {(row["pid"], row["attribution"]) for row in rows} == {(busy.pid, "holder")}


BOMB = """
import socket, sys
for _ in range(int(sys.argv[2])):
    if os.fork() == 0:
        with socket.socket(2, 2) as s: s.sendto(bytes(4), (sys.argv[1], 9)); s.sendto(bytes(4), (sys.argv[1], 9))
        os._exit(0)
    os.wait()
"""


def test_processes_by_the_thousand_are_each_named_and_counted(two: Pair, here: Group) -> None:
    """Two thousand processes that each live for a moment: as many ids, and every packet."""
    with capturing(here) as capture:
        maker, _ = here.run("import os" + BOMB, PEER4, 2000)
        two.settle()
        rows = capture.rows()
    assert sum(row["packets_out"] for row in rows) == 4000
    assert len({row["pid"] for row in rows}) == 2000
    assert maker not in {row["pid"] for row in rows}
    assert {row["attribution"] for row in rows} == {"process"}


def test_a_hundred_thousand_flows_at_once_are_exact(two: Pair, here: Group) -> None:
    """100,000 flows in one reading: every packet is in a row of its own flow, none in the overflow."""
    code = """
s = [socket.socket(2, 2) for _ in range(4)]
for n in range(100_000): s[n % 4].sendto(bytes(20), (sys.argv[1], 1024 + n // 4))
"""
    with capturing(here, map_flows=262_144, interval=60) as capture:
        here.run(code, PEER4)
        two.settle()
        rows = capture.rows(protocols=(17, 255))
    assert two.counts()["in", "ip", 17] == (100_000, 4_800_000)
    assert sum(row["packets_out"] for row in rows) == 100_000
    assert sum(row["flows"] for row in rows) == 100_000
    assert sum(row["octets_out"] for row in rows) == 4_800_000
    assert 255 not in {row["protocol"] for row in rows}


def test_a_unit_that_ends_before_the_reading_keeps_its_control_group(two: Pair, here: Group) -> None:
    """A group that is made, used and removed within one interval is named by the looks between: with unit and path."""
    below = here.folder / "brief.service"
    with capturing(here, interval=60) as capture:
        below.mkdir()
        Group(below, two.host).run('socket.socket(2, 2).sendto(b"x", (sys.argv[1], 9))', PEER4)
        # Each empty batch was handed out after a look.
        looked = len(capture.batches)
        wait_for(lambda: len(capture.batches) > looked + 2, "two more looks", 60)
        wait_for(lambda: not (below / "cgroup.procs").read_text(), "the unit to be empty")
        below.rmdir()
        rows = capture.rows()
    assert [(r["unit"], r["cgroup"], r["packets_out"]) for r in rows] == [
        ("brief.service", f"{here.path}/brief.service", 1)
    ]


@pytest.mark.parametrize("instead_of_connect", [False, True], ids=["connect hooks", "without them"])
def test_who_opened_a_connection_is_known_without_its_first_packet(
    here: Group, instead_of_connect: bool
) -> None:
    """Each end's socket says whether it was opened or accepted, whichever hooks are used."""
    hooks = (*programs.ALWAYS, *(programs.INSTEAD if instead_of_connect else programs.POLITE))
    code = """
with socket.create_server((sys.argv[1], 0)) as server, socket.create_connection(server.getsockname()) as link:
    accepted = server.accept()[0]; accepted.sendall(b"x"); link.recv(1); accepted.close()
    print(server.getsockname()[1])
"""
    loaded = programs.Programs.load(programs.Wish(here.folder, 2048, hooks), None)
    try:
        _, port = here.run(code, HOST4)
        drained = Epochs(loaded).swap()
    finally:
        loaded.close()
    sent = drained.values["content_out"] > 0
    connected = drained.values["bits"] & Bits.CONNECTED != 0
    roles = [
        set(drained.values["role"][connected & (drained.keys[name] == port)].tolist())
        for name in ("local_port", "remote_port")
    ]
    assert roles == [{Role.ACCEPTED}, {Role.INITIATED}]
    assert drained.keys["local_port"][sent].tolist() == [port]

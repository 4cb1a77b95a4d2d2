"""Whose a row is: control groups' paths, holders of sockets in a made-up /proc, and rows matched by their ends."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.core import address
from agent.core.clock import SECOND_NS, DataClock
from collectors.host.cgroups import Groups, Place, path_of, place_of
from collectors.host.owners import REMEMBERED_NS, Owners
from collectors.host.processes import Holders, Process, process
from collectors.host.sockets import LISTEN, TCP, UDP, SocketDiag, Sockets
from tests.tools.rows import batch_of

ID = "0123456789abcdef" * 4
POD = "01234567-89ab-cdef-0123-456789abcdef"
POD_ = POD.replace("-", "_")


@pytest.mark.parametrize(
    ("path", "unit", "container", "pod"),
    [
        ("/", None, None, None),
        ("/system.slice/postgresql.service", "postgresql.service", None, None),
        ("/system.slice/system-postgresql.slice/postgresql@15-main.service", "postgresql@15-main.service", None, None),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/x.service", "user@1000.service", None, None),
        ("/user.slice/user-1000.slice/session-3.scope", "session-3.scope", None, None),
        (f"/system.slice/docker-{ID}.scope", None, ID, None),
        (f"/docker/{ID}", None, ID, None),
        (f"/machine.slice/libpod-{ID}.scope/container", None, ID, None),
        (f"/machine.slice/libpod-conmon-{ID}.scope", None, None, None),
        (f"/kubepods/burstable/pod{POD}/{ID}", None, ID, POD),
        (f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{POD_}.slice/cri-containerd-{ID}.scope", None, ID, POD),
        (f"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{POD_}.slice/crio-{ID}.scope", None, ID, POD),
        (f"/kubepods.slice/kubepods-pod{POD_}.slice/crio-conmon-{ID}.scope", None, None, POD),
        (f"/system.slice/containerd.service/kubepods-burstable-pod{POD_}.slice:cri-containerd:{ID}", "containerd.service", ID, POD),
        ("/lxc.payload.web1/system.slice/nginx.service", "nginx.service", "web1", None),
    ],
)  # fmt: skip
def test_a_control_group_says_where_a_process_belongs(
    path: str, unit: str | None, container: str | None, pod: str | None
) -> None:
    """Unit, container and pod come out of the paths of systemd, Docker, Podman, CRI-O, containerd and LXC."""
    assert place_of(path) == Place(path, unit, container, pod, pod)


@pytest.mark.parametrize(
    ("table", "path"),
    [
        ("0::/system.slice/a.service\n", "/system.slice/a.service"),
        ("5:memory:/docker/x\n1:name=systemd:/system.slice/b.service\n0::/\n", "/system.slice/b.service"),
        ("5:memory:/docker/x\n1:name=systemd:/\n0::/\n", "/docker/x"),
        ("0::/\n", "/"),
        ("0::/a:b\n", "/a:b"),
        ("", None),
    ],
)
def test_the_telling_path_of_a_process_is_chosen(table: str, path: str | None) -> None:
    """Version 2's path counts, then systemd's, then any that is not the root."""
    assert path_of(table) == path


def test_ids_of_control_groups_are_their_folders_inodes(tmp_path: Path) -> None:
    """An unknown id makes the folders be listed anew, for 1 % of a core at most."""
    groups = Groups(tmp_path)
    (tmp_path / "a.slice" / "b.service").mkdir(parents=True)
    inode = (tmp_path / "a.slice" / "b.service").stat().st_ino
    assert groups.path(inode, 0) == "/a.slice/b.service"
    (tmp_path / "late").mkdir()
    late = (tmp_path / "late").stat().st_ino
    assert [groups.path(late, at * SECOND_NS) for at in (0, 9)] == [None, "/late"]
    assert Groups(None).path(1, 0) is None


def made_process(proc: Path, pid: int, name: bytes, inodes: list[int], group: str = "/") -> None:
    folder = proc / str(pid)
    (folder / "fd").mkdir(parents=True)
    (folder / "comm").write_bytes(name + b"\n")
    (folder / "cgroup").write_text(f"0::{group}\n")
    (folder / "exe").symlink_to(f"/usr/bin/{pid} (deleted)")
    (folder / "cmdline").write_bytes(b"--password=secret")
    (folder / "environ").write_bytes(b"TOKEN=secret")
    for handle, inode in enumerate(inodes):
        (folder / "fd" / str(handle)).symlink_to(f"socket:[{inode}]")
    (folder / "fd" / "99").symlink_to("/dev/null")


def test_holders_are_found_by_inode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each wanted socket's holder is found; the lowest process of several; neither command line nor environment is read."""
    made_process(tmp_path, 10, b"postgres", [1, 2], "/system.slice/pg.service")
    made_process(tmp_path, 11, b"postgres", [2, 3])
    (tmp_path / "self").mkdir()
    opened: list[bytes] = []
    real = open

    def spy(path: Any, *rest: Any, **more: Any) -> Any:
        opened.append(os.fsencode(path))
        return real(path, *rest, **more)

    monkeypatch.setattr("builtins.open", spy)
    holders = Holders(tmp_path, clock=lambda: 0)
    holders.want([1, 2, 3, 4])
    found = holders.look(1)
    ten = Process(10, "postgres", "/usr/bin/10", place_of("/system.slice/pg.service"))
    eleven = Process(11, "postgres", "/usr/bin/11", Place("/"))
    assert found == {1: ten, 2: ten, 3: eleven}
    assert {path.rpartition(b"/")[2] for path in opened} <= {b"comm", b"cgroup", b"stat"}
    # The one that nobody holds is looked for in a second round, and then let be.
    assert (holders.waiting, holders.look(1), holders.waiting) == (1, {}, 0)


def test_a_look_ends_with_its_budget_and_goes_on_later(tmp_path: Path) -> None:
    """What one look cannot reach is found by the next ones."""
    for pid in range(1, 21):
        made_process(tmp_path, pid, b"x", [pid + 100])
    ticks = iter(range(10**6))
    holders = Holders(tmp_path, clock=lambda: next(ticks))
    holders.want([120])
    looks = 1
    while not (found := holders.look(6)):
        looks += 1
    assert (looks > 1, found[120].pid) == (True, 20)


def test_a_hostile_process_name_is_text(tmp_path: Path) -> None:
    """A name that is no UTF-8 is text with marks in place of what is not; it can be written to Arrow."""
    made_process(tmp_path, 7, b"\xff\x1b[31m\n", [])
    assert process(7, tmp_path).name == "\ufffd\x1b[31m\n"
    assert process(8, tmp_path) == Process(8)


class Told(SocketDiag):
    """A kernel that tells what it is told to tell."""

    def __init__(self, *rows: dict[str, Any]) -> None:
        self.rows = rows

    def read(self) -> Sockets:
        plain = {"protocol": TCP, "state": 1, "remote": "0.0.0.0", "remote_port": 0, "uid": 7, "cgroup": -1}
        rows = [{**plain, **row} for row in self.rows]

        def column(name: str, kind: Any) -> Any:
            return np.array([row[name] for row in rows], kind)

        return Sockets(
            protocol=column("protocol", np.uint8),
            local=address.parse(row["local"] for row in rows),
            remote=address.parse(row["remote"] for row in rows),
            local_port=column("local_port", np.int32),
            remote_port=column("remote_port", np.int32),
            state=column("state", np.uint8),
            inode=column("inode", np.int64),
            uid=column("uid", np.int64),
            cgroup=column("cgroup", np.int64),
        )


LISTENS = {"local": "0.0.0.0", "local_port": 6543, "state": LISTEN, "inode": 1}
ACCEPTED = {
    "local": "192.0.2.1",
    "local_port": 6543,
    "remote": "203.0.113.7",
    "remote_port": 40001,
    "inode": 2,
}
DATAGRAMS = {"protocol": UDP, "state": 7, "local": "::", "local_port": 5353, "inode": 3}


def owners(proc: Path, clock: DataClock, *rows: dict[str, Any]) -> Owners:
    made_process(proc, 10, b"postmaster", [1, 3])
    made_process(proc, 11, b"backend", [2])
    (proc / "groups").mkdir()
    return Owners(clock, diag=Told(*rows), holders=Holders(proc), groups=Groups(proc / "groups"))


def names(made: Owners, *rows: dict[str, Any]) -> list[str | None]:
    return made.fill(batch_of(rows)).text("process").decode()


def test_a_row_is_its_sockets_else_the_listeners(tmp_path: Path) -> None:
    """The connected socket comes before the listening one, which takes no connection that was opened from here."""
    made = owners(tmp_path, DataClock(), LISTENS, ACCEPTED, DATAGRAMS)
    made.sample()
    here = {"local_port": 6543, "remote_address": "203.0.113.7"}
    assert names(
        made,
        {**here, "remote_port": 40001, "initiator": "remote"},
        {**here, "remote_port": 40002, "initiator": "remote"},
        {**here, "remote_port": 40003, "initiator": None},
        {**here, "remote_port": 40004, "initiator": "local"},
        {**here, "remote_port": 40001, "protocol": 17},
        {"local_port": 5353, "protocol": 17, "initiator": "local"},
        {"local_port": None, "remote_port": None, "protocol": 1},
    ) == ["backend", "postmaster", "postmaster", None, None, "postmaster", None]


def test_a_socket_is_remembered_for_a_while(tmp_path: Path) -> None:
    """A socket that is gone is known for three minutes, for its row comes late; then it is forgotten."""
    clock = DataClock()
    made = owners(tmp_path, clock, ACCEPTED)
    row = {"local_port": 6543, "remote_address": "203.0.113.7", "remote_port": 40001, "initiator": "remote"}
    made.sample()
    made._diag.rows = ({**LISTENS, "local_port": 1},)  # type: ignore[attr-defined]
    seen = []
    for later in (1, REMEMBERED_NS, REMEMBERED_NS + 1):
        clock.set(later)
        made.sample()
        seen += names(made, row)
    assert seen == ["backend", "backend", None]


def test_without_a_process_user_and_control_group_are_told(tmp_path: Path) -> None:
    """Where nobody's handles may be seen, the kernel's word gives the user, and the control group its unit."""
    made = owners(tmp_path, DataClock())
    (tmp_path / "groups" / "a.service").mkdir()
    group = (tmp_path / "groups" / "a.service").stat().st_ino
    made._diag.rows = ({**ACCEPTED, "inode": 77, "cgroup": group},)  # type: ignore[attr-defined]
    made.sample()
    row = {"local_port": 6543, "remote_address": "203.0.113.7", "remote_port": 40001, "initiator": "remote"}
    (told,) = made.fill(batch_of([row])).rows()
    assert {n: told[n] for n in ("process", "pid", "uid", "cgroup", "unit", "container")} == {
        "process": None,
        "pid": None,
        "uid": 7,
        "cgroup": "/a.service",
        "unit": "a.service",
        "container": None,
    }

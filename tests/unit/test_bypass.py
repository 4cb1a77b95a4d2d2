"""What sends past the network stack is found by looking, in a made-up /sys and /proc."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.cli import check
from agent.words import LANGUAGES, phrases, screen_phrases
from collectors.host import bypass
from collectors.host.bypass import KINDS, Bypass


class Root:
    """A root folder that a test fills."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.xdp: dict[str, int] = {}
        self.offloads: set[str] = set()

    def file(self, path: str, text: str) -> None:
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def link(self, path: str, to: str) -> None:
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(to)

    def card(self, pci: str, name: str = "", *, functions: int = 0, away: int = 0) -> None:
        """A network card, with SR-IOV functions of which some are away."""
        device = f"sys/bus/pci/devices/{pci}"
        self.file(f"{device}/class", "0x020000\n")
        self.file(f"{device}/sriov_numvfs", f"{functions}\n")
        if name:
            (self.folder / device / "net" / name).mkdir(parents=True)
            self.link(f"sys/class/net/{name}/device", str(self.folder / device))
        for number in range(functions):
            function = f"sys/bus/pci/devices/{pci}-f{number}"
            self.file(f"{function}/class", "0x020000\n")
            self.link(f"{function}/physfn", str(self.folder / device))
            if number >= away:
                (self.folder / function / "net" / f"{name}v{number}").mkdir(parents=True)
            self.link(f"{device}/virtfn{number}", str(self.folder / function))

    def process(self, pid: int, executable: str, *held: str) -> None:
        """A process that holds device files."""
        name = executable.rsplit("/", 1)[-1]
        self.file(f"proc/{pid}/comm", name[:15] + "\n")
        self.link(f"proc/{pid}/exe", executable)
        (self.folder / f"proc/{pid}/fd").mkdir()
        for number, device in enumerate(("/dev/null", "socket:[1]", *held)):
            self.link(f"proc/{pid}/fd/{number}", device)

    def found(self) -> tuple[Bypass, ...]:
        return bypass.survey(self.folder, xdp=lambda: self.xdp, offloads=self.offloads.__contains__)


@pytest.fixture
def root(tmp_path: Path) -> Root:
    """A host with a plain card and plain programs."""
    made = Root(tmp_path)
    made.card("0000:00:03.0", "eth0")
    made.process(1, "/usr/lib/systemd/systemd")
    made.process(200, "/usr/sbin/nginx")
    made.file("proc/net/protocols", "protocol  size sockets  memory\nUDP  1  2  3\nXDP  1088  0  -1\n")
    return made


def _sr_iov(root: Root) -> None:
    root.card("0000:01:00.0", "eth1", functions=3, away=2)


def _dpdk(root: Root) -> None:
    root.file("sys/bus/pci/drivers/vfio-pci/0000:02:00.0/class", "0x020000\n")
    root.file("sys/bus/pci/drivers/vfio-pci/0000:03:00.0/class", "0x030000\n")  # a display
    root.file("sys/bus/pci/drivers/vfio-pci/bind", "")
    root.process(300, "/usr/bin/vpp", "/dev/vfio/12", "/dev/hugepages/rtemap_0")
    root.file("run/dpdk/rte/config", "")
    root.file("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "512\n")
    root.file("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "256\n")


def _ovs(root: Root) -> None:
    root.file(
        "etc/openvswitch/conf.db",
        'OVSDB JSON 1\n{"Open_vSwitch":{"x":{"other_config":["map",[["hw-offload","false"]]]}}}\n'
        '{"Open_vSwitch":{"x":{"other_config":["map",[["hw-offload","true"]]]}}}\n',
    )
    root.offloads.add("eth0")


def _rdma(root: Root) -> None:
    root.file("sys/class/infiniband/mlx5_0/ports/1/state", "4: ACTIVE\n")
    root.process(400, "/opt/store/bin/stored", "/dev/infiniband/uverbs0")


def _af_xdp(root: Root) -> None:
    root.file("proc/net/protocols", "protocol  size sockets  memory\nXDP  1088  4  -1\n")


def _xdp(root: Root) -> None:
    root.xdp["eth0"] = 42


def _gvisor(root: Root) -> None:
    root.process(500, "/usr/local/bin/runsc")
    root.process(501, "/usr/local/bin/runsc")


def _machines(root: Root) -> None:
    root.process(600, "/usr/bin/qemu-system-x86_64", "/dev/vhost-net", "/dev/vhost-net")
    root.process(601, "/usr/bin/cloud-hypervisor (deleted)", "/dev/vfio/7")


def _kata(root: Root) -> None:
    root.process(700, "/usr/local/bin/containerd-shim-kata-v2")


CASES: dict[str, tuple[Callable[[Root], None], dict[str, str | int]]] = {
    "sr_iov": (_sr_iov, {"cards": "eth1", "n": 3, "away": 2}),
    "dpdk": (_dpdk, {"what": "0000:02:00.0 (vfio-pci), vpp (pid 300), /run/dpdk/rte", "huge": 512}),
    "ovs_offload": (_ovs, {"cards": "eth0"}),
    "rdma": (_rdma, {"devices": "mlx5_0", "programs": "stored (pid 400)"}),
    "af_xdp": (_af_xdp, {"n": 4}),
    "xdp": (_xdp, {"interfaces": "eth0 (program 42)"}),
    "gvisor": (_gvisor, {"n": 2, "programs": "runsc (pid 500), runsc (pid 501)"}),
    "virtual_machines": (
        _machines,
        {
            "n": 2,
            "programs": "qemu-system-x86_64 (pid 600), cloud-hypervisor (pid 601)",
            "vhost": 1,
            "passed": 1,
        },
    ),
    "kata": (_kata, {"n": 1, "programs": "containerd-shim-kata-v2 (pid 700)"}),
}


def test_a_plain_host_has_none(root: Root) -> None:
    """Cards without functions, programs without devices of that kind, no XDP socket: nothing is found."""
    assert root.found() == ()


@pytest.mark.parametrize("kind", CASES)
def test_each_kind_is_found_alone(root: Root, kind: str) -> None:
    """What is put in place is found with its names and numbers, and nothing else is."""
    put, blanks = CASES[kind]
    put(root)
    assert root.found() == (Bypass(kind, blanks),)


def test_all_of_them_are_found_together_in_order(root: Root) -> None:
    """Every kind at once."""
    for put, _ in CASES.values():
        put(root)
    assert tuple(one.kind for one in root.found()) == KINDS == tuple(CASES)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_has_words(kind: str, language: str) -> None:
    """What, why and who sees it are worded, with every blank filled."""
    say = phrases(language)
    what = say(f"bypass.{kind}.what", **CASES[kind][1])
    assert all(str(value) in what for value in CASES[kind][1].values())
    assert say(f"bypass.{kind}.why") and say(f"bypass.{kind}.seen")


def test_check_says_what_why_and_who_sees_it(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    """`sekisho check` makes one entry of each thing found, worded in the language of the settings."""
    _rdma(root)
    found = root.found()
    monkeypatch.setattr(bypass, "survey", lambda: found)
    assert check._found(screen_phrases("en")) == [
        {
            "kind": "rdma",
            "what": "RDMA devices mlx5_0; used by stored (pid 400)",
            "why": "RDMA reads and writes memory over the network past the sockets",
            "seen_by": "the device's port counters (/sys/class/infiniband/*/ports/*/counters), or the switch",
        }
    ]
    assert (
        check._found(screen_phrases("ja"))[0]["what"]
        == "RDMA デバイス mlx5_0、使用中のプログラム：stored (pid 400)"
    )


def test_offload_that_was_switched_off_again_is_not_found(root: Root) -> None:
    """Open vSwitch's database is a log: the last word counts."""
    _ovs(root)
    with (root.folder / "etc/openvswitch/conf.db").open("a") as file:
        file.write('{"Open_vSwitch":{"x":{"other_config":["map",[["hw-offload","false"]]]}}}\n')
    assert root.found() == ()


def test_an_empty_root_and_an_odd_one_raise_nothing(tmp_path: Path) -> None:
    """No /proc and no /sys, or files with nonsense in them: nothing is found, nothing fails."""
    assert Root(tmp_path / "none").found() == ()
    odd = Root(tmp_path / "odd")
    odd.file("sys/bus/pci/devices/0000:00:01.0/sriov_numvfs", "many\n")
    odd.file("proc/net/protocols", "\0XDP\nXDP 1\nXDP 1 x\n")
    odd.file("proc/9/comm", "")
    (odd.folder / "etc/openvswitch/conf.db").mkdir(parents=True)
    odd.file("sys/kernel/mm/hugepages/hugepages-xkB/nr_hugepages", "-1")
    assert odd.found() == ()


def test_a_virtual_machine_s_card_is_not_taken_for_dpdk(root: Root) -> None:
    """A program that runs a virtual machine and holds a vfio device is named as that, not as a packet processor."""
    root.process(601, "/usr/bin/qemu-system-x86_64", "/dev/vfio/7")
    assert [one.kind for one in root.found()] == ["virtual_machines"]


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="root sees every process")
def test_command_lines_are_not_read(root: Root) -> None:
    """A process whose command line cannot be read at all is found all the same: it is never opened."""
    root.process(500, "/usr/local/bin/runsc")
    (root.folder / "proc/500/cmdline").mkdir()
    (root.folder / "proc/500/environ").mkdir()
    assert [one.kind for one in root.found()] == ["gvisor"]

"""The collector of forwarded traffic: what it must be told first, which interfaces it takes, and who is behind them."""

from __future__ import annotations

import os
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.core.accounts import Accounts
from agent.core.errors import ConfigError
from agent.core.flow import Text
from agent.core.stages import Context, Scoped
from agent.deciding import newest
from agent.policy.model import Policy
from collectors.bpf import forwarded
from collectors.bpf.layout import KEY, VALUE
from collectors.flowtable.table import KeyHash
from collectors.host.cgroups import Place
from collectors.host.guests import Guests
from collectors.host.interfaces import Host, Interface
from collectors.tc import Settings
from enrichers.asset import Asset
from tests.tools.rows import batch_of

WHOLE: dict[str, Any] = {
    "interfaces": ["vnet*"],
    "legal_basis": "consent in the hosting contract, section 7",
    "approved_by": "A. Example, data protection officer",
    "approved_on": date(2026, 4, 1),
}


class Fixed:
    """A clock on 1 May 2026."""

    def now_ns(self) -> int:
        return 1_777_593_600 * 10**9

    def monotonic_ns(self) -> int:
        return 0


CONTEXT = Context(Accounts(), Path("/nonexistent"), clock=Fixed())


@pytest.mark.parametrize("missing", WHOLE)
def test_it_is_off_until_scope_basis_and_approval_are_set(missing: str) -> None:
    """Without any one of the four it is not built: one error names what is missing, and why it is asked for."""
    settings = Settings.model_validate({k: v for k, v in WHOLE.items() if k != missing})
    with pytest.raises(ConfigError) as refused:
        settings.build(CONTEXT)
    (fault,) = refused.value.faults
    assert fault.message.endswith(f"missing: {missing}")
    for law in ("Telecommunications Business Act, art. 4", "Directive 2002/58/EC, art. 5"):
        assert law in fault.message
    assert "docs/privacy.md" in fault.advice
    assert settings.hindrance().startswith(fault.message)


def test_all_that_is_missing_is_one_error() -> None:
    """Settings that say nothing are answered with all four names at once; blanks say nothing."""
    for given in ({}, {"interfaces": [], "legal_basis": "  ", "approved_by": "\n"}):
        with pytest.raises(ConfigError, match="missing: interfaces, legal_basis, approved_by, approved_on"):
            Settings.model_validate(given).build(CONTEXT)


def test_an_approval_of_another_day_is_none() -> None:
    """What will be allowed tomorrow is not allowed today."""
    settings = Settings.model_validate(WHOLE | {"approved_on": "2026-05-02"})
    with pytest.raises(ConfigError, match="2026-05-02, which has not come yet"):
        settings.build(CONTEXT)
    Settings.model_validate(WHOLE | {"approved_on": "2026-05-01"}).build(CONTEXT)


def test_the_scope_is_kept_as_it_was_approved() -> None:
    """Its own words stand in what every batch of the run carries."""
    collector = Settings.model_validate(WHOLE).build(CONTEXT)
    assert isinstance(collector, Scoped)
    assert collector.scope() == {
        "tc_scope/guests": '{"approved_by": "A. Example, data protection officer", "approved_on": "2026-04-01", '
        '"interfaces": ["vnet*"], "legal_basis": "consent in the hosting contract, section 7", "own_sockets": "leave"}'
    }


HOST = Host(
    {
        i.index: i
        for i in (
            Interface(1, "lo", True, True),
            Interface(2, "eth0", True, False, master=4),
            Interface(3, "vnet0", True, False, kind="tun", master=4),
            Interface(4, "br0", True, False, kind="bridge"),
            Interface(5, "cali1", True, False, kind="veth", master=4, netns=0),
            Interface(6, "tap9", True, False, kind="tun"),
        )
    }
)


@pytest.mark.parametrize(
    ("given", "taken", "refused"),
    [
        ({"interfaces": ["vnet*"]}, ["vnet0"], []),
        ({"interfaces": ["br0"]}, ["vnet0"], ["cali1"]),
        ({"interfaces": ["br0"], "own_sockets": "count"}, ["vnet0", "cali1"], []),
        ({"interfaces": ["*"], "own_sockets": "count"}, ["vnet0", "cali1", "tap9"], []),
        ({"interfaces": ["eth0", "cali1"]}, [], ["eth0", "cali1"]),
        ({"interfaces": ["absent"]}, [], []),
    ],
)
def test_which_interfaces_are_watched(given: dict[str, Any], taken: list[str], refused: list[str]) -> None:
    """Taps that the scope names, or at a bridge that it names; veths only where asked for; never what leads elsewhere."""
    chosen = list(Settings.model_validate(WHOLE | given).chosen(HOST))
    assert [i.name for i, why in chosen if not why] == taken
    assert [i.name for i, why in chosen if why] == refused


DOMAIN = """<domstatus state='running' pid='77'><domain type='kvm' id='3'><name>{name}</name><devices>
<interface type='bridge'><source bridge='br0'/><target dev='{tap}'/></interface></devices></domain></domstatus>"""


def holding(proc: Path, pid: int, tap: str, cgroup: str) -> None:
    """A process that holds a tap, as /proc shows it."""
    for folder in ("fd", "fdinfo", "ns"):
        (proc / str(pid) / folder).mkdir(parents=True)
    (proc / str(pid) / "fd" / "9").symlink_to("/dev/net/tun")
    (proc / str(pid) / "fdinfo" / "9").write_text(f"pos:\t0\nflags:\t02\niff:\t{tap}\n")
    (proc / str(pid) / "ns" / "net").symlink_to("net:[1]")
    (proc / str(pid) / "comm").write_text("qemu-system-x86\n")
    (proc / str(pid) / "cgroup").write_text(f"0::{cgroup}\n")


def test_a_tap_is_the_machine_that_libvirt_says(tmp_path: Path) -> None:
    """Name from libvirt's status file; process, unit and control group from whoever holds the tap; a broken file is let be."""
    proc, libvirt = tmp_path / "proc", tmp_path / "qemu"
    libvirt.mkdir()
    (libvirt / "db.xml").write_text(DOMAIN.format(name="db-01", tap="vnet0"))
    (libvirt / "broken.xml").write_text("<domstatus><domain>")
    unit = "machine-qemu\\x2d3\\x2ddb.scope"
    holding(proc, 77, "vnet0", f"/machine.slice/{unit}")
    holding(proc, 78, "tap9", "/")
    found = Guests(proc, libvirt).of([HOST.interfaces[3], HOST.interfaces[6]])
    assert (found[3].machine, found[3].place.unit) == ("db-01", unit)
    assert found[3].process is not None
    assert (found[3].process.pid, found[3].process.name) == (77, "qemu-system-x86")
    assert (found[6].machine, found[6].process and found[6].process.pid) == (None, 78)


def test_the_command_line_of_a_machine_is_never_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process whose command line cannot be read without failing is named all the same."""
    holding(tmp_path / "proc", 77, "vnet0", "/")
    for secret in ("cmdline", "environ"):
        os.mkfifo(tmp_path / "proc" / "77" / secret)  # whoever opens it waits for ever
    assert Guests(tmp_path / "proc", tmp_path).of([HOST.interfaces[3]])[3].process is not None


def _entries(*ports: int) -> tuple[Any, Any]:
    keys, values = np.zeros(len(ports), KEY), np.zeros(len(ports), VALUE)
    keys["cookie"] = values["ifindex"] = 3
    keys["local_port"], keys["remote_port"], keys["protocol"] = ports, 443, 6
    values["octets_out"] = ports
    return keys, values


def test_rows_of_one_interface_stay_apart_and_keep_their_amounts() -> None:
    """Each entry of the map is one flow, in the order of identities that are the same in every epoch."""
    hasher = KeyHash(7)
    first = forwarded.flows(*_entries(1000, 2000, 3000), hasher)
    again = forwarded.flows(*_entries(3000, 1000), hasher)
    assert sorted(zip(first.local_port.tolist(), first.sums["octets_out"].tolist(), strict=True)) == [
        (1000, 1000),
        (2000, 2000),
        (3000, 3000),
    ]
    assert (np.diff(first.identity.astype(object)) > 0).all()
    of_first = dict(zip(first.local_port.tolist(), first.identity.tolist(), strict=True))
    assert dict(zip(again.local_port.tolist(), again.identity.tolist(), strict=True)) == {
        port: of_first[port] for port in (1000, 3000)
    }
    assert forwarded.named(first, {3: "vnet0"}, "tc:").decode() == ["tc:vnet0"] * 3
    owners = forwarded.owners(first, {})
    assert isinstance(owners["vm"], Text)
    assert owners["vm"].decode() == [None] * 3


def test_positions_of_several_collectors_stand_side_by_side() -> None:
    """Each collector's newest one is kept, whoever was last; what a file's reader says stays one line."""
    kept = newest("", ["ebpf aa 1"])
    kept = newest(kept, ["tc/guests bb 7"])
    kept = newest(kept, ["ebpf aa 2"])
    assert kept == "ebpf aa 2\ntc/guests bb 7"
    kept = newest(kept, ["a file.pcap:10", "a\nfile.pcap:20"])
    assert kept == "ebpf aa 2\ntc/guests bb 7\na file.pcap:20"


def test_a_machine_s_traffic_is_not_its_host_s_store() -> None:
    """A store on the host takes the host's own rows, and a machine's only by its address."""
    policy = Policy.model_validate(
        {
            "version": "1",
            "tenant": "t",
            "stores": [
                {
                    "id": "records",
                    "categories": ["personal_health"],
                    "recognise": {"hosts": ["hv-01"], "addresses": ["198.51.100.9"]},
                },
            ],
        }
    )
    rows = [
        {"attribution": "process"},
        {"attribution": "interface", "local_address": "198.51.100.2"},
        {"attribution": "interface", "local_address": "198.51.100.9"},
        {"attribution": "interface", "pod": "0f0e0d0c-1111-2222-3333-444455556666"},
    ]
    richer = Asset(policy, "hv-01").enrich(batch_of(rows))
    assert richer.text("store").decode() == ["records", None, "records", "records"]


def test_what_containers_of_a_pod_agree_on_is_the_pod() -> None:
    """Two containers of one pod have one uid and no container in common."""
    from collectors.host.guests import _agreed

    a, b = (Place(cgroup=f"/kubepods/podx/{c}", container=c, pod="x") for c in "ab")
    assert _agreed([a, b, Place()]) == Place(pod="x")
    assert _agreed([a, a]) == a

"""Time without counting, and rows beside interfaces: the arithmetic, with made-up counters."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agent.core.accounts import Accounts, Reconciled, Unobserved
from agent.core.clock import HOUR_NS, SECOND_NS
from collectors.bpf.gaps import Diary, Note
from collectors.bpf.reconcile import Counters, Reckoning, Rows
from collectors.host.interfaces import Host, Interface, Traffic

THEN = Counters({2: (10, 20, 1000, 2000)}, 10, 20, 0)
NOTE = Note("maps", 100 * SECOND_NS, 50 * SECOND_NS, "boot", THEN, counted_out=300, counted_in=0)


@pytest.mark.parametrize(
    ("now", "boot", "gap"),
    [
        (Counters({2: (15, 29, 1500, 3000)}, 0, 0, 0), "boot", Unobserved(10.0, 700, 500)),
        (Counters({2: (10, 20, 1000, 2100)}, 0, 0, 0), "boot", Unobserved(10.0, 0, 0)),
        (Counters({2: (1, 1, 70, 80)}, 0, 0, 0), "boot", Unobserved(10.0, 0, 70)),
        (Counters({3: (9, 9, 900, 900)}, 0, 0, 0), "boot", Unobserved(10.0, None, None)),
        (THEN, "another", Unobserved(20.0, None, None)),
    ],
    ids=["counted since", "never below 0", "made anew", "another interface", "machine started anew"],
)
def test_a_gap_is_bounded_by_the_interfaces(now: Counters, boot: str, gap: Unobserved) -> None:
    """From the note on: the time, and what the interfaces passed less what was counted; after a reboot, or for an interface that is gone, no bound."""
    assert NOTE.gap(now, 120 * SECOND_NS, 60 * SECOND_NS, boot) == gap


def test_gaps_add_up_and_an_unbounded_one_stays_so() -> None:
    """Seconds and bounds are summed in the account; once nothing bounds one, nothing bounds the sum."""
    accounts = Accounts()
    for gap in (Unobserved(1.5, 10, 20), Unobserved(2.0, 1, None)):
        accounts.unobserve("not_counting", gap)
    account = accounts.read()
    assert account.unobserved == {"not_counting": Unobserved(3.5, 11, None)}
    assert account.as_dict()["unobserved"] == {
        "not_counting": {"seconds": 3.5, "octets_out_at_most": 11, "octets_in_at_most": None}
    }


def test_a_note_outlives_its_writer_until_it_is_forgotten(tmp_path: Path) -> None:
    """What one writes the next reads, whole; after an orderly end there is none."""
    path = tmp_path / "ebpf.json"
    first = Diary(path)
    first.write(replace(NOTE, instance="older"))
    first.write(NOTE)
    assert Diary(path).last() == NOTE
    first.forget()
    assert (Diary(path).last(), list(tmp_path.iterdir())) == (None, [])


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"instance": 1}', '{"counters": 3}'])
def test_a_torn_note_is_no_note(tmp_path: Path, text: str) -> None:
    """A file that is no note is told, and nothing is made of it."""
    path = tmp_path / "ebpf.json"
    path.write_text(text)
    assert Diary(path).last() is None


def test_a_note_that_cannot_be_written_is_kept_in_memory(tmp_path: Path) -> None:
    """Without a place for the file, this run at least knows."""
    diary = Diary(tmp_path / "none" / "ebpf.json")
    diary.write(NOTE)
    assert diary.last() == NOTE


def test_an_hour_is_compared() -> None:
    """Octets of the interfaces less link headers, ARP and rows are what is not explained; each hour stands for itself."""
    reckoning = Reckoning(THEN, 0, 0)
    reckoning.add(Rows(own_out=5000, own_in=100))
    reckoning.add(Rows(own_out=600, others_out=1000, others_packets_out=10))
    assert [reckoning.due(at) for at in (HOUR_NS - 1, HOUR_NS)] == [False, True]
    now = Counters({2: (12, 120, 1100, 12_000)}, 12, 118, 5)
    told = reckoning.close(now, HOUR_NS, HOUR_NS)
    assert told == Reconciled(3600.0, 10_000, 5600 + 500, 2 * 46, 100, 100, 0)
    assert (told.unexplained_out, told.unexplained_in) == (10_000 - 6100 - 92, 0)
    assert told.unexplained_share_out == pytest.approx(0.3808)
    assert reckoning.close(now, 2 * HOUR_NS, 2 * HOUR_NS) == Reconciled(3600.0)
    assert Reconciled(3600.0).unexplained_share_out is None


def test_the_share_is_exported_with_the_account() -> None:
    """Comparisons of a run are summed, and stand in the account that every batch and view carries."""
    accounts = Accounts()
    assert accounts.read().as_dict()["reconciled"] is None
    accounts.reconcile(Reconciled(1.0, 100, 75))
    accounts.reconcile(Reconciled(1.0, 100, 75))
    table = accounts.read().as_dict()["reconciled"]
    assert isinstance(table, dict)
    assert (table["interfaces_out"], table["unexplained_out"], table["unexplained_share_out"]) == (
        200,
        50,
        0.25,
    )


def test_link_headers_and_loopback_are_taken_off(tmp_path: Path) -> None:
    """Counters hold frames: 14 octets of each go; what passed ``lo`` is no packet that left."""
    (tmp_path / "snmp").write_text("Ip: InReceives OutRequests ForwDatagrams\nIp: 100 50 7\n")
    (tmp_path / "snmp6").write_text("Ip6InReceives   10\nIp6OutRequests  5\nIp6OutForwDatagrams 1\n")
    host = Host(
        {
            1: Interface(1, "lo", True, True, traffic=Traffic(9, 9, 900, 900)),
            2: Interface(2, "eth0", True, False, traffic=Traffic(10, 20, 1000, 2000)),
            3: Interface(3, "docker0", True, False, "bridge", traffic=Traffic(5, 5, 500, 500)),
            4: Interface(4, "tun0", True, False, "tun", link_header=0),
        }
    )
    assert Counters.read(host, tmp_path) == Counters({2: (10, 20, 860, 1720)}, 110 - 9, 55 + 8 - 9, 8)


def test_rows_leave_by_what_lies_on_an_uplink() -> None:
    """Bonds, bridges and VLANs over hardware lead out; bridges of containers and tunnels do not."""
    host = Host(
        {
            i.index: i
            for i in (
                Interface(1, "lo", True, True),
                Interface(2, "eth0", True, False, master=5),
                Interface(3, "eth1", True, False),
                Interface(4, "eth1.7", True, False, "vlan", parent=3, vlan=7),
                Interface(5, "bond0", True, False, "bond"),
                Interface(6, "docker0", True, False, "bridge"),
                Interface(7, "veth1", True, False, "veth", master=6, parent=2),
                Interface(8, "wg0", True, False, "wireguard"),
            )
        }
    )
    assert ([i.name for i in host.uplinks()], sorted(host.outward())) == (["eth0", "eth1"], [2, 3, 4, 5])

"""What the conntrack tier says where it lacks something, which rights are enough, and what a run survives."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from agent.core.accounts import Accounts
from agent.core.errors import CaptureError
from agent.core.stages import Context
from collectors.conntrack import Settings
from collectors.host import ctnetlink
from tests.tools import netns
from tests.tools.netns import PEER4, Pair
from tests.tools.program import command, environment
from tests.tools.tracking import TRACK, datagrams, reading, track

pytestmark = pytest.mark.root
NOBODY = 65534
needs_setpriv = pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv (util-linux)")


def as_nobody(namespace: netns.Namespace, caps: str, script: str) -> str:
    """What Python code prints that runs in a namespace as another user with those capabilities alone."""
    given = "-all" + "".join(f",+{cap}" for cap in (*caps.split(), "dac_read_search"))
    line = [
        "nsenter", f"--net=/run/netns/{namespace.name}", "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}",
        "--clear-groups", f"--inh-caps={given}", f"--ambient-caps={given}", f"--bounding-set={given}",
        sys.executable, "-c", script,
    ]  # fmt: skip
    done = subprocess.run(line, capture_output=True, text=True, check=False, env=os.environ, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


HINDRANCE = "from collectors.conntrack import Settings; print(Settings().hindrance() or 'none')"
CHOOSE = (
    "from agent import config, tiers\nconfig.default_config_files = lambda: ()\n"
    "loaded, why = tiers.choose(config.load())\nprint(*loaded.stages.collectors)\nprint(why)"
)


@needs_setpriv
def test_one_capability_is_enough(two: Pair) -> None:
    """Another user with CAP_NET_ADMIN alone may read the table, and it is then the tier that is taken, with the others' reasons."""
    track(two.host)
    assert as_nobody(two.host, "net_admin", HINDRANCE) == "none"
    tier, why = as_nobody(two.host, "net_admin", CHOOSE).splitlines()
    assert tier == "conntrack"
    assert "CAP_BPF" in why and "CAP_NET_RAW" in why


@needs_setpriv
def test_without_it_one_sentence_says_which(two: Pair) -> None:
    """Without any capability the one that is missing is named."""
    assert "CAP_NET_ADMIN" in as_nobody(two.host, "", HINDRANCE)


def test_counting_that_is_switched_off_is_said_with_the_command(two: Pair) -> None:
    """nf_conntrack_acct=0: the sentence holds the command that mends it; a run refuses with the same; nothing is changed."""
    track(two.host, counted=False)
    said = two.host.call(Settings().hindrance)
    assert "sudo sysctl -w net.netfilter.nf_conntrack_acct=1" in said
    collector = Settings().build(Context(accounts=Accounts(), state_dir=Path("/nonexistent")))
    with pytest.raises(CaptureError, match="nf_conntrack_acct=1"):
        two.host.call(lambda: list(collector.collect(threading.Event())))
    assert two.host.run("cat", "/proc/sys/net/netfilter/nf_conntrack_acct") == "0\n"


def test_a_host_that_tracks_nothing_is_said_with_a_rule(two: Pair) -> None:
    """Without a rule that asks for it nothing is tracked: said with a rule that does, which then mends it."""
    two.host.run("sysctl", "-qw", "net.netfilter.nf_conntrack_acct=1")
    said = two.host.call(Settings().hindrance)
    assert "ct state" in said
    rule = said.split("nft '")[1].rstrip("'")
    two.host.run("nft", rule)
    assert two.host.call(Settings().hindrance) == ""


def test_a_kernel_without_it_is_said_with_the_module(two: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel has no such netlink family, or no ctnetlink behind it, the module to load is named."""

    def none(*_: object) -> socket.socket:
        raise OSError(errno.EPROTONOSUPPORT, "Protocol not supported")

    with monkeypatch.context() as patch:
        patch.setattr(ctnetlink.socket, "socket", none)
        assert "modprobe nf_conntrack_netlink" in Settings().hindrance()
    # A subsystem that this kernel does not have (nfnetlink's numbers go up to 14) answers as a missing module does.
    monkeypatch.setattr(ctnetlink, "_GET", 15 << 8 | 1)

    def ask() -> None:
        with ctnetlink.Table() as table:
            list(table.read())

    with pytest.raises(CaptureError, match="modprobe nf_conntrack_netlink"):
        two.host.call(ask)


def test_what_is_switched_off_beside_it_is_a_shortcoming(two: Pair) -> None:
    """No events, no time stamps, connections older than the counting: a sentence each with the command; none where all is on."""
    track(two.host, counted=False)
    two.host.call(lambda: datagrams(PEER4, 7000, [1]))
    two.host.run("sysctl", "-qw", "net.netfilter.nf_conntrack_acct=1", "net.netfilter.nf_conntrack_events=0")
    said = two.host.call(Settings().shortcomings)
    assert [text.partition(" ")[0] for text in said] == [
        "net.netfilter.nf_conntrack_events",
        "net.netfilter.nf_conntrack_timestamp",
        "1",
    ]
    two.host.run(
        "sysctl", "-qw", "net.netfilter.nf_conntrack_timestamp=1", "net.netfilter.nf_conntrack_events=1"
    )
    two.host.run("conntrack", "-F")
    assert two.host.call(Settings().shortcomings) == ()


def test_a_family_that_is_not_tracked_is_a_shortcoming(two: Pair) -> None:
    """A firewall with rules for IPv4 alone leaves IPv6 uncounted: said with the kind of rule that mends it."""
    two.host.run(
        "sysctl", "-qw", "net.netfilter.nf_conntrack_acct=1", "net.netfilter.nf_conntrack_timestamp=1"
    )
    two.host.run("nft", TRACK.replace("inet", "ip"))
    assert two.host.call(Settings().hindrance) == ""
    assert [text.partition(" ")[0] for text in two.host.call(Settings().shortcomings)] == ["IPv6"]


def test_connections_without_counters_are_told_and_not_guessed(
    two: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    """An entry older than the counting has no row; the log says how many there are."""
    track(two.host, counted=False)
    two.host.call(lambda: datagrams(PEER4, 7000, [100], source_port=9100))
    two.host.run("sysctl", "-qw", "net.netfilter.nf_conntrack_acct=1")
    with reading(two.host) as running:
        two.host.call(lambda: datagrams(PEER4, 7000, [100], source_port=9100))
        two.host.call(lambda: datagrams(PEER4, 7001, [100]))
        running.until_sent(7001, 128)
        rows = running.rows()
    assert {row["remote_port"] for row in rows if row["protocol"] == 17} == {7001}
    assert "connections_uncounted" in capsys.readouterr().out


def test_check_tells_of_the_tier_and_of_what_it_misses(two: Pair, tmp_path: Path) -> None:
    """`sekisho check` names the tier as able to run, what it does not see, and what would make it better."""
    track(two.host)
    done = subprocess.run(
        ["ip", "netns", "exec", two.host.name, *command("check")],
        cwd=tmp_path,
        env=environment(tmp_path) | {"SEKISHO_STATE_DIR": str(tmp_path / "state")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    lines = done.stdout.splitlines()
    tier = [line for line in lines if "tier conntrack: " in line]
    assert tier[0].strip().startswith("ok  tier conntrack: can run here: ")
    assert any("sysctl -w net.netfilter.nf_conntrack_timestamp=1" in line for line in tier)
    assert "what connection tracking leaves out" in tier[-1]
    assert (
        "What capture on this host cannot see" in lines and "What was found here that sends past it" in lines
    )

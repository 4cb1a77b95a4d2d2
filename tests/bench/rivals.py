"""What is measured beside each other: this program's live collectors, and other programs that count flows or packets.

Each captures on ``h0`` of a namespace, pinned to a core, in a control group of its own, and says at the end what it
counted. A program that is not installed is left out and named.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agent.core.address import parse
from tests.bench.charged import Charged
from tests.capture.agent import Agent
from tests.capture.stage import Tier
from tests.capture.tiers import here, hindrance
from tests.tools.netns import HOST4, Namespace, run, wait_for

BUFFER_KIB = 16 * 1024
_INTERVAL_S = 10
FIRST = ("nice", "-n", "-20")
"""Load and collectors go before everything else on the machine, so that its other work hardly touches the figures."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What it counted, both ways; octets None where it does not say."""

    packets: int
    octets: int | None = None


class Rival(Protocol):
    """Something that captures."""

    ends_to_say: bool
    """Whether it says what it counted only when it ends, so that its end is part of its work."""

    def settle(self) -> None:
        """Wait until it has said what it counted, where it does so by itself."""

    def stop(self) -> Seen:
        """End it, once it has said all it knows; what it counted."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a collector works."""

    host: Namespace
    folder: Path
    core: int
    charged: Charged
    """The group that pays for the collector."""
    load: Charged
    """The group of the load: what is to be watched, where a collector can choose."""

    def line(self, *words: str) -> list[str]:
        """A command pinned, first in line and paid for, in the watched namespace."""
        inside = ("nsenter", f"--net=/run/netns/{self.host.name}", "taskset", "-c", str(self.core), *FIRST)
        return self.charged.line(*inside, *words)


Starter = Callable[[Place], contextlib.AbstractContextManager[Rival]]


class _Ours:
    def __init__(self, agent: Agent, tier: Tier) -> None:
        self._agent = agent
        self.ends_to_say = tier.name != "ebpf"

    def settle(self) -> None:
        # eBPF reads its maps on full multiples of its interval.
        if not self.ends_to_say:
            time.sleep(_INTERVAL_S - time.time() % _INTERVAL_S + 1)

    def stop(self) -> Seen:
        rows = self._agent.stop().rows
        # A collector that sees every namespace has rows of the other end too.
        local = (rows["local_address"] == parse([HOST4])).all(axis=1)
        return Seen(
            int(rows["packets_out"][local].sum() + rows["packets_in"][local].sum()),
            int(rows["octets_out"][local].sum() + rows["octets_in"][local].sum()),
        )


def _ours(tier: Tier) -> Starter:
    @contextlib.contextmanager
    def start(place: Place) -> Iterator[Rival]:
        before = place.charged.line("taskset", "-c", str(place.core), *FIRST)
        settings = tier.settings
        if tier.name == "ebpf":
            # Other people's traffic on this machine is not the load.
            settings = settings | {"cgroup": str(place.load.folder)}
        with tier.around(), contextlib.closing(Agent(place.folder, before=before)) as agent:
            agent.start(place.host, tier.name, settings)
            yield _Ours(agent, tier)

    return start


class _Program:
    """Another program; ``tell`` reads what it counted once it has been asked to end."""

    ends_to_say = True

    def __init__(
        self,
        place: Place,
        line: list[str],
        tell: Callable[[str], Seen],
        *,
        environment: dict[str, str] | None = None,
        says_ready: str = "",
    ) -> None:
        self._tell = tell
        self._output = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed in close()
        self._process = subprocess.Popen(
            place.line(*line),
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | (environment or {}),
        )
        self.pid = self._process.pid

        def ready() -> bool:
            if says_ready:
                return says_ready in self._said()
            return len(place.host.run("cat", "/proc/net/packet").splitlines()) > 1

        wait_for(lambda: self._process.poll() is not None or ready(), f"{line[0]} to capture")
        if self._process.poll() is not None:
            raise RuntimeError(f"{line[0]} ended: {self._said()}")

    def settle(self) -> None:
        """It says all at its end."""

    def stop(self) -> Seen:
        self._process.send_signal(signal.SIGINT)
        self._process.wait(20)
        # Some write what they know in children that outlive them.
        wait_for(lambda: not self._group_lives(), "its children to end")
        return self._tell(self._said())

    def close(self) -> None:
        if self._group_lives():
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self._output.close()

    def _group_lives(self) -> bool:
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def _said(self) -> str:
        # By its own place in the file: the program writes where the shared one stands.
        return os.pread(self._output.fileno(), os.fstat(self._output.fileno()).st_size, 0).decode()


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    if found is None:
        raise RuntimeError(f"no {pattern} in {text}")
    return int(found[1])


@contextlib.contextmanager
def _tcpdump(place: Place) -> Iterator[Rival]:
    line = ["tcpdump", "-i", "h0", "-n", "-s", "96", "-B", str(BUFFER_KIB), "-w", "/dev/null", "-Z", "root"]
    made = _Program(place, line, lambda said: Seen(_number(r"(\d+) packets? captured", said)))
    with contextlib.closing(made):
        yield made


@contextlib.contextmanager
def _softflowd(place: Place) -> Iterator[Rival]:
    control = place.folder / "softflowd.ctl"
    control.unlink(missing_ok=True)

    class Softflowd(_Program):
        def stop(self) -> Seen:
            said = run("softflowctl", "-c", str(control), "statistics")
            seen = Seen(_number(r"Packets processed:\s*(\d+)", said))
            super().stop()
            return seen

    # Its records go to a port of the loopback that nobody reads.
    line = ["softflowd", "-i", "h0", "-6", "-n", "127.0.0.1:2055", "-d", "-m", "200000"]
    line += ["-B", str(BUFFER_KIB * 1024), "-c", str(control), "-p", str(place.folder / "softflowd.pid")]
    with contextlib.closing(Softflowd(place, line, lambda _said: Seen(0))) as made:
        yield made


@contextlib.contextmanager
def _pmacctd(place: Place) -> Iterator[Rival]:
    output = place.folder / "pmacctd.json"
    output.unlink(missing_ok=True)
    settings = place.folder / "pmacctd.conf"
    settings.write_text(
        "daemonize: false\npcap_interface: h0\naggregate: src_host,dst_host,src_port,dst_port,proto\n"
        f"plugins: print\nprint_output: json\nprint_output_file: {output}\nprint_output_file_append: true\n"
        "print_refresh_time: 300\nplugin_pipe_size: 16777216\nplugin_buffer_size: 65536\n"
        "print_cache_entries: 32771\nsnaplen: 96\n"
    )

    def tell(_said: str) -> Seen:
        rows = [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []
        return Seen(sum(row["packets"] for row in rows), sum(row["bytes"] for row in rows))

    with contextlib.closing(_Program(place, ["pmacctd", "-f", str(settings)], tell)) as made:
        yield made


_NETOBSERV = "netobserv-ebpf-agent"
_NETOBSERV_TIMEOUT_S = 1
_WRITE = {
    "pipeline": [{"name": "writer", "follows": "preset-ingester"}],
    "parameters": [{"name": "writer", "write": {"type": "stdout", "stdout": {"format": "json"}}}],
}


@contextlib.contextmanager
def _netobserv(place: Place) -> Iterator[Rival]:
    """Another flow agent in eBPF (tcx on the interface, no processes), its flows as lines of JSON, its map as large as ours."""

    class Netobserv(_Program):
        ends_to_say = False

        def settle(self) -> None:
            # It writes out what it has when its timeout comes, and forgets the rest when it is told to end.
            time.sleep(2 * _NETOBSERV_TIMEOUT_S + 0.5)

    environment = {
        "EXPORT": "direct-flp",
        "FLP_CONFIG": json.dumps(_WRITE),
        "INTERFACES": "h0",
        "CACHE_MAX_FLOWS": "131072",
        "CACHE_ACTIVE_TIMEOUT": f"{_NETOBSERV_TIMEOUT_S}s",
        "AGENT_IP": HOST4,
    }
    # It looks for interfaces in every namespace that it finds there. Of an old kernel it asks only the hooks that count
    # packets; the others, which it would load and not use, are refused by kernels without kprobes.
    hidden = ["unshare", "-m", "setarch", os.uname().machine, "--uname-2.6"]
    hidden += ["sh", "-c", 'mount -t tmpfs tmpfs /run/netns; exec "$@"', "sh"]
    made = Netobserv(
        place,
        [*hidden, _NETOBSERV],
        _of_netobserv,
        environment=environment,
        says_ready="successfully started",
    )
    with contextlib.closing(made):
        yield made


def _of_netobserv(said: str) -> Seen:
    rows = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    flows = [row for row in rows if "Packets" in row]
    return Seen(sum(row["Packets"] for row in flows), sum(row["Bytes"] for row in flows))


_OTHERS: dict[str, Starter] = {
    "softflowd": _softflowd,
    "pmacctd": _pmacctd,
    "tcpdump": _tcpdump,
    _NETOBSERV: _netobserv,
}


def rivals() -> tuple[dict[str, Starter], list[str]]:
    """Those that are here by name, and those that are not, each with why."""
    found: dict[str, Starter] = {tier.name: _ours(tier) for tier in here() if not hindrance(tier.name)}
    absent = [
        f"{tier.name} (cannot run here: {hindrance(tier.name)})" for tier in here() if hindrance(tier.name)
    ]
    for name, start in _OTHERS.items():
        if shutil.which(name):
            found[name] = start
        else:
            absent.append(f"{name} (not installed)")
    return found, absent

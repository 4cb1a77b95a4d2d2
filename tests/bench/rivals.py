"""What is measured beside each other: this program's live collectors, and other programs that count flows or packets.

Each captures on ``h0`` of a namespace, pinned to a core, and says at the end what it counted.
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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agent.core.address import parse
from tests.capture.agent import Agent
from tests.capture.stage import Tier
from tests.capture.tiers import here, hindrance
from tests.tools.netns import HOST4, Namespace, run, wait_for

_TICK = os.sysconf("SC_CLK_TCK")
BUFFER_KIB = 16 * 1024


@dataclass(frozen=True, slots=True)
class Used:
    """What a program and its children cost since they began."""

    cpu_s: float
    kernel_share: float
    rss_mib: float
    pss_mib: float


@dataclass(frozen=True, slots=True)
class Seen:
    """What it counted, both ways; octets None where it does not say."""

    packets: int
    octets: int | None = None


class Rival(Protocol):
    """Something that captures."""

    pid: int

    def stop(self) -> Seen:
        """End it; what it counted."""


Starter = Callable[[Namespace, Path, int], contextlib.AbstractContextManager[Rival]]


def used(pid: int) -> Used:
    """CPU by the scheduler's own clock, split by ticks; memory as the kernel sees it now."""
    total = user = system = rss = pss = 0.0
    for each in _family(pid):
        place = Path(f"/proc/{each}")
        with contextlib.suppress(OSError):
            total += (
                sum(int((t / "schedstat").read_text().split()[0]) for t in (place / "task").iterdir()) / 1e9
            )
            fields = (place / "stat").read_text().rsplit(")", 1)[1].split()
            user, system = user + int(fields[11]) / _TICK, system + int(fields[12]) / _TICK
            for line in (place / "smaps_rollup").read_text().splitlines():
                if line.startswith("Rss:"):
                    rss += int(line.split()[1]) / 1024
                if line.startswith("Pss:"):
                    pss += int(line.split()[1]) / 1024
    return Used(total, system / (user + system) if user + system else 0.0, rss, pss)


def _family(pid: int) -> list[int]:
    out = [pid]
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            out += _family(int(child))
    return out


class _Ours:
    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self.pid = agent.pid

    def stop(self) -> Seen:
        watched = self._agent.stop()
        rows = watched.rows
        # A collector that sees every namespace has rows of the other end too.
        local = (rows["local_address"] == parse([HOST4])).all(axis=1)
        return Seen(
            int(rows["packets_out"][local].sum() + rows["packets_in"][local].sum()),
            int(rows["octets_out"][local].sum() + rows["octets_in"][local].sum()),
        )


def _ours(tier: Tier) -> Starter:
    @contextlib.contextmanager
    def start(namespace: Namespace, folder: Path, core: int) -> Iterator[Rival]:
        with tier.around(), contextlib.closing(Agent(folder, core=core)) as agent:
            agent.start(namespace, tier.name, tier.settings)
            yield _Ours(agent)

    return start


class _Program:
    """Another program; ``tell`` reads what it counted once it has been asked to end."""

    def __init__(self, namespace: Namespace, core: int, line: list[str], tell: Callable[[str], Seen]) -> None:
        self._tell = tell
        self._output = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed in close()
        inside = ["nsenter", f"--net=/run/netns/{namespace.name}", "taskset", "-c", str(core), *line]
        self._process = subprocess.Popen(
            inside, stdout=self._output, stderr=subprocess.STDOUT, start_new_session=True
        )
        self.pid = self._process.pid
        wait_for(
            lambda: (
                self._process.poll() is not None
                or len(namespace.run("cat", "/proc/net/packet").splitlines()) > 1
            ),
            f"{line[0]} to capture",
        )
        if self._process.poll() is not None:
            raise RuntimeError(f"{line[0]} ended: {self._said()}")

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
        self._output.seek(0)
        return self._output.read()


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    if found is None:
        raise RuntimeError(f"no {pattern} in {text}")
    return int(found[1])


@contextlib.contextmanager
def _tcpdump(namespace: Namespace, folder: Path, core: int) -> Iterator[Rival]:
    line = ["tcpdump", "-i", "h0", "-n", "-s", "96", "-B", str(BUFFER_KIB), "-w", "/dev/null", "-Z", "root"]
    made = _Program(namespace, core, line, lambda said: Seen(_number(r"(\d+) packets? captured", said)))
    with contextlib.closing(made):
        yield made


@contextlib.contextmanager
def _softflowd(namespace: Namespace, folder: Path, core: int) -> Iterator[Rival]:
    control = folder / "softflowd.ctl"
    control.unlink(missing_ok=True)

    class Softflowd(_Program):
        def stop(self) -> Seen:
            said = run("softflowctl", "-c", str(control), "statistics")
            seen = Seen(_number(r"Packets processed:\s*(\d+)", said))
            super().stop()
            return seen

    # Its records go to a port of the loopback that nobody reads.
    line = [
        "softflowd",
        "-i",
        "h0",
        "-6",
        "-n",
        "127.0.0.1:2055",
        "-d",
        "-m",
        "200000",
        "-B",
        str(BUFFER_KIB * 1024),
    ]
    line += ["-c", str(control), "-p", str(folder / "softflowd.pid")]
    with contextlib.closing(Softflowd(namespace, core, line, lambda _said: Seen(0))) as made:
        yield made


@contextlib.contextmanager
def _pmacctd(namespace: Namespace, folder: Path, core: int) -> Iterator[Rival]:
    output = folder / "pmacctd.json"
    output.unlink(missing_ok=True)
    settings = folder / "pmacctd.conf"
    settings.write_text(
        "daemonize: false\npcap_interface: h0\naggregate: src_host,dst_host,src_port,dst_port,proto\n"
        f"plugins: print\nprint_output: json\nprint_output_file: {output}\nprint_output_file_append: true\n"
        "print_refresh_time: 300\nplugin_pipe_size: 16777216\nplugin_buffer_size: 65536\n"
        "print_cache_entries: 32771\nsnaplen: 96\n"
    )

    def tell(_said: str) -> Seen:
        rows = [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []
        return Seen(sum(row["packets"] for row in rows), sum(row["bytes"] for row in rows))

    made = _Program(namespace, core, ["pmacctd", "-f", str(settings)], tell)
    with contextlib.closing(made):
        yield made


def rivals() -> tuple[dict[str, Starter], list[str]]:
    """Those that are here by name, and the names of those that are not installed."""
    found: dict[str, Starter] = {tier.name: _ours(tier) for tier in here() if not hindrance(tier.name)}
    absent = [f"{tier.name} (cannot run here)" for tier in here() if hindrance(tier.name)]
    for name, start in (("softflowd", _softflowd), ("pmacctd", _pmacctd), ("tcpdump", _tcpdump)):
        if shutil.which(name):
            found[name] = start
        else:
            absent.append(name)
    return found, absent

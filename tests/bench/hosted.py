"""A real `sekisho agent` that watches a control group with eBPF and sends to a real Kafka, and traffic in that group.

The load's near end is in the watched group and in a namespace of its own; its far end answers for whole documentation
networks behind one link. Rows of IPv6 are of a store, rows of IPv4 are not.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from kafka import KafkaConsumer, TopicPartition

from agent.core.kafka import Connection, quiet
from agent.core.message import HEADER_KEY
from tests.bench import marked
from tests.bench.charged import Charged
from tests.capture import load
from tests.capture.leftovers import sweep
from tests.capture.tiers import EBPF, hindrance
from tests.tools import topics
from tests.tools.netns import HOST6, PEER4, PEER6, Pair, wait_for
from tests.tools.places import ROOT

PORT: Final = 5001
V4: Final = "198.51.100"
V6: Final = "2001:db8:5"
"""Networks behind the far end: ``V4.1`` to ``V4.254``, ``V6:1::1`` and so on."""
_START_S: Final = 120.0
_STOP_S: Final = 90.0
POLICY: Final = f"""version: 1
tenant: example
stores:
  - id: patients
    categories: [personal_health]
    recognise: {{addresses: ["{HOST6}"]}}
"""


def left_out() -> bool:
    """Whether live eBPF cannot be measured here; says why. Else what runs of earlier ones left is removed."""
    if os.geteuid():
        print("left out: it needs root, for it makes network namespaces")
        return True
    if why := hindrance("ebpf"):
        print(f"left out: no eBPF here ({why})")
        return True
    marked.end_in_order()
    sweep()
    return False


def routes(two: Pair) -> None:
    """Let the far end answer for the networks."""
    two.peer.ip("route", "add", "local", f"{V4}.0/24", "dev", "lo")
    two.peer.ip("-6", "route", "add", "local", f"{V6}::/48", "dev", "lo")
    two.host.ip("route", "add", f"{V4}.0/24", "via", PEER4)
    two.host.ip("-6", "route", "add", f"{V6}::/48", "via", PEER6, "src", HOST6)


def databases(state: Path) -> str:
    """Lay the installed databases where the program looks, installing them once; what came of it."""
    cache = ROOT / ".cache"
    line = (sys.executable, "-m", "agent.cli", "--state-dir", str(cache), "db", "install", "--if-missing")
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode or not (cache / "databases").is_dir():
        return "none, for they could not be installed"
    (state / "databases").symlink_to(cache / "databases")
    return "country and network"


@dataclass(frozen=True, slots=True)
class Memory:
    """What a group's processes hold now, in MiB (/proc/PID/smaps_rollup)."""

    rss: float
    pss: float
    anonymous: float
    """Proportional, without the pages of files: what can grow."""


def memory(group: Charged) -> Memory:
    """Of all processes of a group."""
    found = {"Rss": 0, "Pss": 0, "Pss_Anon": 0}
    for pid in group.pids():
        with contextlib.suppress(OSError):
            for name, kib in re.findall(
                r"^(\w+): +(\d+) kB$", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M
            ):
                if name in found:
                    found[name] += int(kib)
    return Memory(*(kib / 1024 for kib in found.values()))


@dataclass(slots=True)
class Hosted:
    """The agent's process, once it captures."""

    process: subprocess.Popen[bytes]
    group: Charged
    log: Path

    def stop(self) -> None:
        """Ask it to end; wait. Raises ``RuntimeError`` where it does not end in order."""
        for pid in self.group.pids():
            os.kill(pid, signal.SIGTERM)
        if self.process.wait(_STOP_S):
            raise RuntimeError(
                f"the agent ended with {self.process.returncode}: {self.log.read_text()[-3000:]}"
            )


@contextlib.contextmanager
def agent(
    folder: Path, kafka: Connection, watched: Charged, *, policy: Path, **more: Any
) -> Iterator[Hosted]:
    """`sekisho agent` with its own folder and control group, from when it captures; stopped at the end. ``more``: further
    settings."""
    state = folder / "state"
    state.mkdir(parents=True, exist_ok=True)
    collectors = {"ebpf": {"cgroup": str(watched.folder), "pin_dir": str(EBPF.settings["pin_dir"])}}
    settings = {
        "host": "db-01",
        "state_dir": str(state),
        "policy": [str(policy)],
        "collectors": collectors,
        "kafka": kafka.model_dump(mode="json", exclude_defaults=True),
        **more,
    }
    (folder / "sekisho.yaml").write_text(json.dumps(settings))
    log = folder / "log"
    with EBPF.around(), contextlib.closing(Charged("agent")) as group, log.open("wb") as out:
        line = group.line(sys.executable, "-m", "agent.cli", "-c", str(folder / "sekisho.yaml"), "agent")
        process = subprocess.Popen(line, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        try:
            wait_for(
                lambda: process.poll() is not None or "capture_started" in log.read_text(),
                "the agent",
                _START_S,
            )
            if process.poll() is not None:
                raise RuntimeError(f"the agent ended: {log.read_text()[-3000:]}")
            yield Hosted(process, group, log)
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(_STOP_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


@contextlib.contextmanager
def churn(
    two: Pair, folder: Path, near: Charged, far: Charged, per_second: int, seconds: float
) -> Iterator[None]:
    """Short connections at a steady rate, half of them of the store, to sixteen receivers; ended at the end."""
    program = str(load.built(folder))
    ends = [f"{V4}.{n + 1}" for n in range(8)] + [f"{V6}:{n + 1}::1" for n in range(8)]
    rate = str(max(1, per_second // len(ends)))
    running: list[subprocess.Popen[bytes]] = []

    def start(group: Charged, space: str, *words: str) -> None:
        line = group.line("nsenter", f"--net=/run/netns/{space}", program, *words)
        running.append(subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL))

    try:
        start(far, two.peer.name, "churn-serve", "::", str(PORT), str(int(seconds) + 600))
        assert running[0].stdout is not None
        running[0].stdout.readline()
        for end in ends:
            start(near, two.host.name, "churn", end, str(PORT), str(int(seconds) + 600), rate)
        yield
    finally:
        for process in reversed(running):
            process.terminate()
            process.communicate()


@dataclass(frozen=True, slots=True)
class Recounted:
    """What stands in the topic of flows: each batch once."""

    batches: int
    twice: int
    rows: int
    store_rows: int
    sums: Mapping[str, int]


def recount(kafka: Connection) -> Recounted:
    """Read the topic (one partition) from its first record on with plain kafka-python and pyarrow."""
    quiet()
    names = ("flows", "octets_out", "octets_in")
    seen: set[tuple[str, str, int, int]] = set()
    sums, rows, of_store, records = dict.fromkeys(names, 0), 0, 0, 0
    consumer = KafkaConsumer(
        bootstrap_servers=list(kafka.servers), enable_auto_commit=False, max_partition_fetch_bytes=2**25
    )
    try:
        part = TopicPartition(kafka.topics.flows, 0)
        consumer.assign([part])
        consumer.seek_to_beginning(part)
        end = consumer.end_offsets([part])[part]
        while consumer.position(part) < end:
            for record in (r for found in consumer.poll(timeout_ms=1000).values() for r in found):
                records += 1
                about = json.loads(dict(record.headers)[HEADER_KEY])
                batch = (about["agent_id"], about["run_id"], about["lane"], about["sequence"])
                if batch in seen:
                    continue
                seen.add(batch)
                table = pa.ipc.open_stream(record.value).read_all()
                rows += table.num_rows
                of_store += table.num_rows if about["lane"] == 1 else 0
                for name in names:
                    sums[name] += int(table.column(name).to_numpy().sum())
    finally:
        consumer.close()
    return Recounted(len(seen), records - len(seen), rows, of_store, sums)


def beats(kafka: Connection) -> Sequence[dict[str, Any]]:
    """Every heartbeat that agents sent."""
    found = topics.read(list(kafka.servers), kafka.topics.agents)
    return [json.loads(record.value) for record in found if record.value]

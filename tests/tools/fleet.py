"""Agents without hosts: rows sealed and signed as real agents do it, sent to a real broker by a plain producer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import NewTopic

from agent.core.clock import SECOND_NS
from agent.core.flow import BatchHeader, FlowBatch
from agent.core.message import HEADER_KEY, SIGNATURE_KEY, Message, seal
from agent.sending.identity import Identity
from tests.tools.places import ROOT
from tests.tools.rows import batch_of

FLOWS, DEAD = "sekisho.flows.v1", "sekisho.dead.v1"
DEADLINE_S = 60.0
POLICY = """version: 1
tenant: example
stores:
  - id: patients
    categories: [personal_health]
    recognise: {hosts: [db-0, db-1, db-2, db-3]}
"""


def now_ns() -> int:
    """The time by which brokers and agents go."""
    return time.time_ns()


@dataclass
class FakeAgent:
    """One agent's run."""

    id: str
    key: Identity = field(default_factory=lambda: Identity(Ed25519PrivateKey.generate()))
    run: str = "0123456789abcdef" * 2
    sequence: int = 0

    def message(
        self, rows: Sequence[Mapping[str, Any]], *, low_water: int | None = None, **more: Any
    ) -> Message:
        """The next batch, sealed; ``sequence`` and ``lane`` may be given."""
        sequence = more.pop("sequence", self.sequence)
        self.sequence = max(self.sequence, sequence + 1)
        header = BatchHeader(
            agent_id=self.id, run_id=self.run, lane=more.pop("lane", 1), sequence=sequence, host=self.id
        )
        batch = self.batch(rows).with_header(
            **{k: getattr(header, k) for k in ("agent_id", "run_id", "lane", "sequence", "host")}
        )
        low = sequence if low_water is None else low_water
        return seal(batch, self.key.sign, low_water=low, key=more.pop("key", self.key.public), **more)

    def batch(self, rows: Sequence[Mapping[str, Any]]) -> FlowBatch:
        """Enriched rows of a store."""
        base = {
            "store": "patients", "tenant": "example", "basis": "same_host", "remote_scope": "external",
            "remote_asn": 64500, "remote_as_org": "Example Networks", "initiator": "local", "process": "rclone",
            "vantage": "ebpf:cgroup",
        }  # fmt: skip
        return batch_of([{**base, **row} for row in rows])


def theft(begin_ns: int, octets: int, rows: int, asn: int = 64500) -> list[dict[str, Any]]:
    """Rows that follow each other by a second and send ``octets`` each."""
    ends = [begin_ns + i * SECOND_NS for i in range(rows)]
    return [
        {
            "octets_out": octets + 1000, "content_octets_out": octets, "remote_asn": asn,
            "start_ns": end - SECOND_NS // 2, "end_ns": end,
        }
        for end in ends
    ]  # fmt: skip


def make_topics(bootstrap: list[str], partitions: int = 2, names: Iterable[str] = (FLOWS, DEAD)) -> None:
    """Topics as `sekisho kafka topics create` makes them."""
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    settings = {"message.timestamp.type": "LogAppendTime"}
    admin.create_topics([NewTopic(name, partitions, 1, topic_configs=settings) for name in names])
    admin.close()


def empty_topics(bootstrap: list[str], partitions: int = 2) -> None:
    """The two topics with nothing in them, whatever an earlier test left there."""
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    old = set(admin.list_topics()) & {FLOWS, DEAD}
    if old:
        admin.delete_topics(sorted(old))
        until(lambda: not set(admin.list_topics()) & {FLOWS, DEAD}, "end of the old topics")
    admin.close()
    make_topics(bootstrap, partitions)


class Sender:
    """A plain producer."""

    def __init__(self, bootstrap: list[str]) -> None:
        self.sent = 0
        self._producer = KafkaProducer(
            bootstrap_servers=bootstrap, compression_type="zstd", acks="all", linger_ms=5
        )

    def send(self, agent: str, message: Message) -> None:
        """One message, as agents send it."""
        self.raw(
            message.value, [(HEADER_KEY, message.header), (SIGNATURE_KEY, message.signature)], agent.encode()
        )

    def raw(self, value: bytes, headers: list[tuple[str, bytes]], key: bytes | None = None) -> None:
        """Any bytes."""
        self.sent += 1
        self._producer.send(FLOWS, value=value, key=key, headers=headers)

    def flush(self) -> None:
        """Until the broker has all."""
        self._producer.flush(30)

    def close(self) -> None:
        """Let go."""
        self._producer.close()


def settings_of(folder: Path, bootstrap: list[str], **more: str) -> list[str]:
    """Flags of the program for a detector whose files are in ``folder``."""
    folder.mkdir(exist_ok=True)
    policy = folder / "policy.yaml"
    policy.write_text(POLICY)
    given = {
        "kafka.servers": ",".join(bootstrap),
        "policy": str(policy),
        "enrichers": "{asset: {}}",
        "sinks.jsonl.file": str(folder / "alerts.jsonl"),
        "sinks.jsonl.flows": "false",
        **more,
    }
    return [f"--state-dir={folder / 'state'}", *(f"--set={name}={value}" for name, value in given.items())]


class Program:
    """``sekisho detect`` or another command, as a process of its own.

    ``code`` stands in for the call of the program, such as one that changes something before; ``prefix`` are words
    before the command, such as those that enter a namespace.
    """

    def __init__(
        self,
        flags: list[str],
        log: Path,
        *,
        faults: str = "",
        command: Sequence[str] = ("detect",),
        code: str = "",
        environ: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        self.log = log
        environment = {**os.environ, "SEKISHO_FAULTS": faults, **(environ or {})}
        program = ("-c", code) if code else ("-m", "agent.cli")
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, *program, *flags, *command],
                cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def stop(self) -> int:
        """SIGTERM, and wait; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        """Until it has ended; its exit code."""
        return self.process.wait(DEADLINE_S)

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()


def until(met: Callable[[], bool], what: str, program: Program | None = None) -> None:
    """Wait for a condition. Raises ``AssertionError`` at the deadline, or where the program has ended."""
    end = time.monotonic() + DEADLINE_S
    while not met():
        ended = program is not None and program.process.poll() is not None
        if ended or time.monotonic() > end:
            said = program.log.read_text()[-3000:] if program else ""
            raise AssertionError(f"no {what}; {said}")
        time.sleep(0.1)

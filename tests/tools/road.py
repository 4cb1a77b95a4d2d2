"""The whole road in real processes: `sekisho agent` with traffic that is known, a real Kafka, `sekisho detect`; and a
recount of each that asks neither of the two programs.

The recount of the topic reads it with plain kafka-python and pyarrow from its first record on; what the detector made of
it is read from its tables once it has ended.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import yaml
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.errors import KafkaError
from numpy.typing import NDArray

from agent.core.clock import DataClock, when
from agent.core.errors import StateError
from agent.core.kafka import Connection, quiet
from agent.core.message import HEADER_KEY
from agent.detection.detector import Detector
from agent.policy import load as policies
from agent.policy.model import Policy
from agent.policy.ownership import Ownership
from agent.store.state import State
from tests.tools.fleet import Program
from tests.tools.plan import HOST, POLICY, Plan
from tests.tools.states import Place

DEADLINE_S: Final = 90.0
NONE: Final = {"flows": 0, "octets_out": 0, "octets_in": 0}
PLUGIN: Final = """
import collectors, tests.tools.stages
collectors.__path__.extend(tests.tools.stages.__path__)
from agent.cli import main
"""
"""Makes the collectors of the tests known to the real program."""
MAIN: Final = "main()\n"


@dataclass(frozen=True)
class Facts:
    """What a detector's tables say, less what two runs may differ in."""

    findings: frozenset[tuple[Any, ...]]
    """(rule, store, entity, first and last bucket beside the plan's, content octets, state)."""
    ledger: Mapping[str, int]
    """Entity -> content octets."""
    missing: int
    """Batches that agents said they sent and nobody has."""

    def lacking(self, *entities: str) -> frozenset[tuple[Any, ...]]:
        """The findings without those to some networks."""
        return frozenset(f for f in self.findings if f[2] not in entities)


def facts_of(state: State, plan: Plan, policy: Policy, *, late: bool = False) -> Facts:
    """Read them; what the detector still holds back for the ledger is asked of what it would be after a restart.
    ``late``: there are rows behind the watermark, whose findings wait for the next bucket.
    """
    detector, restored = Detector(policy, Ownership.load()), state.load()
    detector.restore(restored.snapshot, restored.deltas)
    last = detector.finish()
    told = {f.id: f for f in state.cases.findings_of()}
    assert late or {f.id for f in last.findings} <= told.keys(), "a finding that was due was not made"
    findings = frozenset(
        (
            f.rule, f.store, f.entity, f.first_bucket_ns - plan.bucket_ns, f.last_bucket_ns - plan.bucket_ns,
            f.content_octets_out, f.state,
        )
        for f in (told | {f.id: f for f in last.findings}).values()
    )  # fmt: skip
    ledger: Counter[str] = Counter()
    for row in (*state.ledger.rows(), *last.ledger):
        ledger[row.entity] += row.content_octets_out
    missing = sum(len(said.missing) for said in state.inputs.said().values())
    return Facts(findings, dict(ledger), missing)


class Recount:
    """Everything that ever stood in the topic of flows, read beside the detector; each batch counts once."""

    def __init__(self, kafka: Connection) -> None:
        self._kafka, self.topic = kafka, kafka.topics.flows
        self._consumer: Any = None
        self.next_offset = 0
        self.digests: dict[tuple[str, str, int, int], str] = {}
        self.records = 0
        """Messages, with those that came twice."""
        self._rows: list[NDArray[np.int64]] = []

    def look(self, wait_s: float = 0.2) -> int:
        """Read what has come; how many different batches there are by now. Brokers that are away bring nothing."""
        try:
            if self._consumer is None:
                quiet()
                self._consumer = KafkaConsumer(
                    **_options(self._kafka),
                    group_id=None,
                    enable_auto_commit=False,
                    max_partition_fetch_bytes=2**25,
                )
                part = TopicPartition(self.topic, 0)
                self._consumer.assign([part])
                self._consumer.seek(part, self.next_offset)
            for records in self._consumer.poll(timeout_ms=int(wait_s * 1000)).values():
                for record in records:
                    self._take(record)
        except (KafkaError, OSError, ValueError):
            self.close()
            time.sleep(wait_s)
        return len(self.digests)

    def marks(self) -> NDArray[np.int64]:
        """(mark, octets out) of every row, by mark."""
        rows = np.concatenate(self._rows) if self._rows else np.zeros((0, 2), np.int64)
        return rows[np.argsort(rows[:, 0], kind="stable")]

    @property
    def rows(self) -> int:
        """How many."""
        return sum(map(len, self._rows))

    def begin_anew(self) -> None:
        """The topic is another one: its records are read from the first, beside those of the old one."""
        self.close()
        self.next_offset = 0

    def close(self) -> None:
        """Let go of the connection; the next look makes another."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            with contextlib.suppress(KafkaError, OSError):
                consumer.close(autocommit=False, timeout_ms=0)

    def _take(self, record: Any) -> None:
        self.next_offset = record.offset + 1
        self.records += 1
        about = json.loads(dict(record.headers)[HEADER_KEY])
        batch = (about["agent_id"], about["run_id"], about["lane"], about["sequence"])
        known = self.digests.get(batch)
        if known is not None:
            assert known == about["digest"], f"two digests of {batch}"
            return
        self.digests[batch] = about["digest"]
        table = pa.ipc.open_stream(record.value).read_all()
        columns = [table.column(name).to_numpy().astype(np.int64) for name in ("octets_in", "octets_out")]
        self._rows.append(np.stack(columns, axis=1))


@dataclass
class Road:
    """One agent's and one detector's folders. Use as a context manager; what still runs at the end is killed."""

    folder: Path
    kafka: Connection
    plan: Plan
    database: str | None = None
    name: str = "agent"
    recount: Recount = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._programs: list[Program] = []
        self.recount = Recount(self.kafka)
        self.at.mkdir(exist_ok=True)
        self.plan.write(self.at / "plan.json")
        (self.folder / "policy.yaml").write_text(POLICY)
        self.let(0)

    def __enter__(self) -> Road:
        return self

    def __exit__(self, *_: object) -> None:
        for program in self._programs:
            program.__exit__()
        self.recount.close()

    @property
    def at(self) -> Path:
        """The agent's folder."""
        return self.folder / self.name

    @property
    def policy(self) -> Policy:
        """That of both programs."""
        return policies.load((self.folder / "policy.yaml",), today=when(time.time_ns()).date())

    # driving

    def let(self, steps: int) -> None:
        """Have the source bring so many steps."""
        temporary = self.at / ".until"
        temporary.write_text(str(steps))
        temporary.replace(self.at / "until")

    def end(self) -> None:
        """The source has ended; the agent sends what it has, and ends."""
        (self.at / "end").touch()

    @property
    def begun(self) -> int:
        """Steps that a source which keeps nothing has handed out."""
        begun = self.at / "begun"
        return int(begun.read_text()) if begun.exists() else 0

    def agent(
        self,
        *,
        faults: str = "",
        keeping: bool = True,
        rate: float = 0.0,
        code: str = "",
        environ: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
        kafka: Connection | None = None,
        host: str = HOST,
        collectors: Mapping[str, Any] | None = None,
        **spool: Any,
    ) -> Program:
        """Start the agent; ``code`` runs in it before its ``main``."""
        (self.at / "end").unlink(missing_ok=True)
        paced = {"plan": str(self.at / "plan.json"), "keeping": keeping, "steps_per_s": rate}
        settings = {
            "host": host,
            "policy": [str(self.folder / "policy.yaml")],
            "collectors": dict(collectors) if collectors else {"paced": paced},
            "enrichers": {"asset": {}},
            "spool": {"replay_after_s": 0, "replay_octets_per_s": 2**30, **spool},
        }
        return self._start(self.name, settings, kafka, ("agent",), faults, code, environ, prefix)

    def detector(
        self,
        name: str = "detector",
        *,
        faults: str = "",
        code: str = "",
        environ: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
        **more: Any,
    ) -> Program:
        """Start a detector; those of one database take turns."""
        settings: dict[str, Any] = {
            "policy": [str(self.folder / "policy.yaml")],
            "enrichers": {"asset": {}},
            "sinks": {"jsonl": {"file": str(self.folder / name / "alerts.jsonl"), "flows": False}},
            "detect": {**({"database": self.database} if self.database else {}), **more},
        }
        return self._start(name, settings, None, ("detect",), faults, code, environ, prefix)

    def _start(
        self,
        name: str,
        settings: dict[str, Any],
        kafka: Connection | None,
        command: Sequence[str],
        faults: str,
        code: str,
        environ: Mapping[str, str] | None,
        prefix: Sequence[str],
    ) -> Program:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        settings["state_dir"] = str(folder / "state")
        settings["kafka"] = (kafka or self.kafka).model_dump(mode="json", exclude_defaults=True)
        (folder / "sekisho.yaml").write_text(yaml.safe_dump(settings))
        program = Program(
            [f"--config={folder / 'sekisho.yaml'}"], folder / "log", faults=faults, command=command,
            code=PLUGIN + code + MAIN, environ=environ, prefix=prefix,
        )  # fmt: skip
        self._programs.append(program)
        return program

    # waiting

    def until(
        self, met: Callable[[], Any], what: str, *programs: Program, seconds: float = DEADLINE_S
    ) -> None:
        """Wait, reading the topic meanwhile. Fails at the deadline, or where a program has ended."""
        end = time.monotonic() + seconds
        while not met():
            ended = [p for p in programs if p.process.poll() is not None]
            if ended or time.monotonic() > end:
                said = "\n".join(p.log.read_text()[-3000:] for p in programs)
                raise AssertionError(f"no {what} ({self.recount.rows} rows, ended: {ended}); {said}")
            self.recount.look()

    def until_delivered(self, rows: int, *programs: Program, seconds: float = DEADLINE_S) -> None:
        """So many rows are in the topic."""
        self.until(lambda: self.recount.rows >= rows, f"{rows} rows in the topic", *programs, seconds=seconds)

    def until_decided(self, *programs: Program, seconds: float = DEADLINE_S, recounted: bool = True) -> None:
        """The detector has committed every message that is in the topic now, and all of them are recounted; not so where
        messages are in it that nobody is to count."""
        end, topic = self.end_offset(), self.topic_id()
        self.until(lambda: self.taken(topic) >= end, "end of the topic", *programs, seconds=seconds)
        if not recounted:
            return
        self.until(lambda: self.recount.next_offset >= end, "end of the recount", *programs, seconds=seconds)

    def end_offset(self) -> int:
        """Of the topic, as the broker says."""
        consumer = KafkaConsumer(**_options(self.kafka))
        try:
            part = TopicPartition(self.kafka.topics.flows, 0)
            return int(consumer.end_offsets([part])[part])
        finally:
            consumer.close()

    def topic_id(self) -> str:
        """The broker's id of the topic: one that is made again has another."""
        options = {name: value for name, value in _options(self.kafka).items() if name != "metrics_enabled"}
        admin = KafkaAdminClient(**options)
        try:
            (topic,) = admin.describe_topics([self.kafka.topics.flows])
            return str(topic["topic_id"])
        finally:
            admin.close()

    def taken(self, topic_id: str = "") -> int:
        """How far the detector's tables say that it came, in the topic of that id or in any."""
        try:
            with self.state() as state:
                places = state.inputs.offsets()
        except StateError:
            return -1
        ours = [at for (topic, _), at in places.items() if topic == self.kafka.topics.flows]
        return sum(at.next_offset for at in ours if topic_id in ("", at.topic_id))

    # what came of it

    @contextlib.contextmanager
    def state(self, name: str = "detector") -> Iterator[State]:
        """The detector's state, read beside it. Raises :class:`~agent.core.errors.StateError`."""
        where: Path | str = self.database or self.folder / name / "state" / "state.db"
        with Place(where).beside(DataClock(time.time_ns()), read_only=True) as state:
            yield state

    def facts(self, name: str = "detector", *, late: bool = False) -> Facts:
        """What the detector's tables say (:func:`facts_of`)."""
        with self.state(name) as state:
            return facts_of(state, self.plan, self.policy, late=late)

    def alerts(self, name: str = "detector") -> list[dict[str, Any]]:
        """What people were told."""
        path = self.folder / name / "alerts.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def told(self, name: str = "detector") -> Counter[str]:
        """How often people were told that a case was opened, by network."""
        opened = [n for n in self.alerts(name) if n.get("kind") == "opened" and n.get("case")]
        return Counter(str(n["case"]["destination"]["entity"]) for n in opened)

    def events(self, name: str = "detector") -> set[str]:
        """Names of what people were told of sekisho itself."""
        return {n["event"]["name"] for n in self.alerts(name) if n.get("event")}

    def beats(self) -> list[dict[str, Any]]:
        """Every heartbeat that agents sent."""
        from tests.tools import topics

        found = topics.read(self.kafka.servers, self.kafka.topics.agents, **_options(self.kafka))
        return [json.loads(r.value) for r in found if r.value]

    def logged(self, name: str, event: str) -> list[dict[str, Any]]:
        """What a program said of something."""
        lines = (self.folder / name / "log").read_text().splitlines()
        found = [json.loads(line) for line in lines if re.match(r"\{.*\}$", line)]
        return [one for one in found if one.get("event") == event]


def _options(kafka: Connection) -> dict[str, Any]:
    """Of a client that gives up soon."""
    soon = kafka.model_copy(update={"connect_s": 2.0, "request_s": 5.0})
    return {**soon.options("recount"), "metrics_enabled": False}


def ended(road: Road, agent: Program, detector: Program) -> None:
    """The source ends, agent and detector end in order after it, and nothing was lost or doubled (see :func:`whole`)."""
    road.end()
    assert agent.wait() == 0
    road.until_decided(detector)
    assert detector.stop() == 0
    whole(road)


def whole(road: Road) -> None:
    """Every row is in the topic once with its octets, and every account that was told is whole."""
    assert lost(road) == []
    for beat in road.beats():
        assert (beat["account"]["residue"], beat["account"]["sealed residue"]) == (NONE, NONE), beat


def lost(road: Road, marks: int | None = None) -> list[int]:
    """Marks of the rows that are not in the topic. Fails where one is in it twice, or with other octets."""
    marks = road.plan.marks if marks is None else marks
    found = road.recount.marks()
    assert len(np.unique(found[:, 0])) == len(found), "rows are doubled"
    octets = road.plan.octets_out()
    assert (found[:, 1] == octets[found[:, 0] - 1]).all(), "a row has other octets"
    return sorted(set(range(1, marks + 1)) - set(found[:, 0].tolist()))

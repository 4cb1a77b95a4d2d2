"""What a scenario works with, how one is declared, and how one is run."""

from __future__ import annotations

import contextlib
import inspect
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from agent.core.flow import FlowBatch, concat
from tests.capture.actor import Cgroups, Sender
from tests.capture.agent import Agent
from tests.capture.judge import Claim, Verdict, judge
from tests.capture.sink import Sink
from tests.capture.wire import FAMILIES, HOST, PEER, TCP, Counts, Wire, wire
from tests.tools.netns import Namespace, Task, wait_for

PORT = 5001
_RESET_OCTETS = {4: 20 + 20, 6: 40 + 20}
Play = Callable[["Stage", int], Any]
"""What is done for one family. A generator's first part is done before the agent starts."""


class NotThereError(Exception):
    """This machine has not what the scenario needs; the text says what."""


def nothing(_stage: Stage) -> None:
    """Prepare nothing."""


def nothing_more(_stage: Stage, _rows: FlowBatch) -> str:
    """Find nothing wrong."""
    return ""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One way of sending."""

    name: str
    says: str
    play: Play
    protocols: tuple[int, ...] = (TCP,)
    """What is compared; the rest of the traffic is not looked at."""
    families: tuple[int, ...] = FAMILIES
    prepare: Callable[[Stage], None] = nothing
    """Sets up what both families need, before the agent starts. May raise :class:`NotThereError`."""
    wants: str = ""
    """Name of the tier's special settings for it."""
    content_is_sent: bool = False
    """Take the content from the sender's system calls, where the wire does not show it (fragments)."""
    also: Callable[[Stage, FlowBatch], str] = nothing_more
    """Looks at all rows; what is wrong with them beyond amounts and processes, in words."""


SCENARIOS: dict[str, Scenario] = {}


def scenario(says: str, **rest: Any) -> Callable[[Play], Play]:
    """Declare the function below as a scenario of its name."""

    def declare(play: Play) -> Play:
        SCENARIOS[play.__name__] = Scenario(play.__name__, says, play, **rest)
        return play

    return declare


RUN_GROUP = "the cgroup of this run"
"""In a tier's settings: stands for the folder of the cgroup that all senders of a run are in."""


@dataclass(frozen=True, slots=True)
class Tier:
    """A collector and what it promises."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    special: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What a scenario ``wants`` -> further settings."""
    inexact: dict[str, str] = field(default_factory=dict)
    """Scenario -> why its amounts cannot be exact; what is counted there is told, and must not exceed the truth."""
    headers_missing: dict[str, str] = field(default_factory=dict)
    """Scenario -> why some headers are not seen; the content must be exact all the same, and no amount exceed the truth."""
    time_wait: frozenset[str] = frozenset()
    """Scenarios in which the host closes first: of each connection a bare packet each way may be missing, and no more."""
    unseen_resets: frozenset[int] = frozenset()
    """Families in which resets that belong to no connection may be missing: as many as the peer counted, and no more."""
    late_acks: bool = False
    """Whether acknowledgements may be missing that reach a connection which this host has closed already, and its answers:
    of TCP alone, at most one in fifty packets in and one in a thousand out, never content."""
    around: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext
    """Makes what a run needs, and removes what it left behind on purpose."""
    names: bool = False
    """Whether every row must carry the right process (or its listener); else it may also say nothing."""
    nameless: dict[str, str] = field(default_factory=dict)
    """Scenario -> why rows may say nothing there all the same."""

    def kept(self, outcome: Outcome) -> str:
        """What promise an outcome breaks, in words; empty where it breaks none."""
        name = outcome.scenario
        said = (
            {"right", "listener"}
            if self.names and name not in self.nameless
            else {"right", "listener", "unknown"}
        )
        if outcome.fault:
            return outcome.fault
        for family, verdict in outcome.verdicts.items():
            error = verdict.error
            missing = verdict.resets if family in self.unseen_resets else 0
            if not any(
                self._is_allowed(name, family, each, verdict.true)
                for each in _with_resets(error, family, missing)
            ):
                return f"IPv{family}: {error} off {verdict.true}, lost {outcome.lost_frames}"
            if not verdict.octets_by.keys() <= said:
                return f"IPv{family}: processes {verdict.octets_by} {verdict.wrong[:3]}"
        return ""

    def _is_allowed(self, name: str, family: int, error: Counts, true: Counts) -> bool:
        """Whether amounts of a scenario may be off by that."""
        if max(error.as_tuple()) > 0:
            return False
        if name in self.inexact:
            return True
        if name in self.time_wait:
            return _bare(error, family)
        if name in self.headers_missing:
            return error.content_octets_out == 0
        if self.late_acks and name in SCENARIOS and SCENARIOS[name].protocols == (TCP,):
            return _late(error, true, family)
        return error == Counts()


def _with_resets(error: Counts, family: int, most: int) -> Iterator[Counts]:
    """What is off apart from none, one, … or all of the resets, which are headers without options."""
    for missing in range(most + 1):
        yield error - Counts(-missing * _RESET_OCTETS[family], -missing)


def _bare(error: Counts, family: int) -> bool:
    """Whether all that is missing is acknowledgements and FINs: headers with timestamps (RFC 7323) and nothing else."""
    header = {4: 20, 6: 40}[family] + 32
    return (
        error.content_octets_out == 0
        and error.octets_out == header * error.packets_out
        and error.octets_in == header * error.packets_in
    )


def _late(error: Counts, true: Counts, family: int) -> bool:
    """Whether all that is missing is a few acknowledgements that came after the end, and their answers: headers with
    options and nothing else.
    """
    least, most = {4: 20, 6: 40}[family] + 20, {4: 20, 6: 40}[family] + 60
    missing = Counts() - error
    return (
        missing.content_octets_out == 0
        and missing.packets_out * 1000 <= max(true.packets_out, 1000)
        and missing.packets_in * 50 <= max(true.packets_in, 50)
        and missing.packets_out * least <= missing.octets_out <= missing.packets_out * most
        and missing.packets_in * least <= missing.octets_in <= missing.packets_in * most
    )


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a scenario went under one tier."""

    scenario: str
    tier: str
    absent: str = ""
    """What this machine lacks for it; then there are no verdicts."""
    verdicts: dict[int, Verdict] = field(default_factory=dict)
    """By family."""
    sent: dict[int, int] = field(default_factory=dict)
    """What the senders' system calls took, by family."""
    lost_frames: dict[str, int] = field(default_factory=dict)
    rows: int = 0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    fault: str = ""
    """What the scenario's own look at the rows found."""


class Stage:
    """The namespaces, the agent, and everybody who sends."""

    def __init__(self, made: Wire, agent: Agent, cgroups: Cgroups, folder: Path, *, full: bool) -> None:
        self.wire, self.cgroups, self.folder, self.full = made, cgroups, folder, full
        self.agent = agent
        self.claims: dict[int, list[Claim]] = {family: [] for family in FAMILIES}
        self.sent: dict[int, int] = dict.fromkeys(FAMILIES, 0)
        self.resets: dict[int, int] = dict.fromkeys(FAMILIES, 0)
        """Resets of no connection that left while the agent watched, by family."""
        self.notes: list[str] = []
        self.exit = contextlib.ExitStack()
        self._parts: list[FlowBatch] = []
        self._lost: dict[str, int] = {}
        self._start: tuple[str, dict[str, Any]] = ("", {})

    def size(self, short: int, full: int) -> int:
        """How much to send: the suite's amount or the bench's."""
        return full if self.full else short

    def sender(self, job: str, family: int, *, namespace: Namespace | None = None, group: str = "client", uid: int = 0, **given: Any) -> Sender:  # fmt: skip
        """Start a job on the host (or in another namespace) towards the peer."""
        given = {"to": PEER[family], "at": HOST[family], "port": PORT, **given}
        made = Sender(job, namespace or self.wire.host, self.cgroups, group=group, uid=uid, **given)
        self.exit.callback(made.close)
        return made

    def send(self, job: str, family: int, *, claim: bool = True, **given: Any) -> dict[str, Any]:
        """Run a job to its end, note what it sent, and claim its rows for it; what it said."""
        made = self.sender(job, family, **given)
        if claim:
            self.claim(family, made, remote_port=given.get("port", PORT))
        said = made.step()
        self.sent[family] += said["sent"]
        made.go()
        made.close()
        return said

    def claim(self, family: int, by: Sender, **ports: int | None) -> None:
        """Say that rows with these ports are this sender's."""
        self.claims[family].append(Claim((by.actor,), **ports))

    def sink(self, family: int, *, port: int = PORT, answer: int = 0, at: str | None = None, half: bool = False) -> None:  # fmt: skip
        """A TCP server in the peer that reads all, answers and closes; ``half``: closes its side first."""
        sink = Sink(at or PEER[family], port, answer, half)
        self.exit.callback(sink.close)
        self.exit.callback(Task(self.wire.peer, sink.serve).result)
        self.exit.callback(sink.stop)
        wait_for(sink.ready.is_set, "the sink")

    def drain(self, family: int, *ports: int, at: str | None = None) -> None:
        """UDP sockets in the peer that nobody reads, so that no ICMP errors come back."""

        def make() -> None:
            for port in ports or (PORT,):
                made = socket.socket(socket.AF_INET6 if family == 6 else socket.AF_INET, socket.SOCK_DGRAM)
                self.exit.callback(made.close)
                made.bind((at or PEER[family], port))

        self.wire.peer.call(make)

    def ask(self, family: int, count: int, *, port: int = PORT, udp: bool = False) -> None:
        """Clients in the peer, one after another: a request, then all of the answer."""

        def work() -> None:
            kind = socket.SOCK_DGRAM if udp else socket.SOCK_STREAM
            for _ in range(count):
                with socket.socket(socket.AF_INET6 if family == 6 else socket.AF_INET, kind) as link:
                    link.settimeout(20)
                    link.connect((HOST[family], port))
                    link.send(b"please")
                    if udp:
                        link.recv(2000)
                        continue
                    link.shutdown(socket.SHUT_WR)
                    while link.recv(1 << 16):
                        pass

        self.wire.peer.call(work)

    def linger(self, family: int, port: int) -> None:
        """A client in the peer that ends its side only when the host has closed and waits for just that."""

        def waits() -> bool:
            return f":{port} " in self.wire.host.run("ss", "-tanH", "state", "fin-wait-2")

        def work() -> None:
            with socket.create_connection((HOST[family], port)) as link:
                link.send(b"please")
                while link.recv(1 << 16):
                    pass
                wait_for(waits, "the host to have closed")

        self.wire.peer.call(work)

    def watch(self, collector: str, settings: dict[str, Any]) -> None:
        """Start the agent."""
        self._start = (collector, settings)
        self.agent.start(self.wire.host, collector, settings)

    def restart(self) -> None:
        """Stop the agent in order and start it again."""
        self.take()
        self.agent.start(self.wire.host, *self._start)

    def take(self) -> None:
        """Stop the agent; keep its rows."""
        watched = self.agent.stop()
        self._parts.append(watched.rows)
        for reason, frames in watched.lost_frames.items():
            self._lost[reason] = self._lost.get(reason, 0) + frames

    def settle(self) -> None:
        """Wait until the peer counts no more."""
        seen = [self.wire.read()]

        def still() -> bool:
            time.sleep(0.04)
            seen.append(self.wire.read())
            return len(seen) > 3 and seen[-1] == seen[-2] == seen[-3]

        wait_for(still, "traffic to end")

    def rows(self) -> FlowBatch:
        """All rows that were taken."""
        return concat(self._parts)

    @property
    def lost(self) -> dict[str, int]:
        """Frames the collector says it lost."""
        return self._lost


def run(what: Scenario, tier: Tier, agent: Agent, folder: Path, *, full: bool = False) -> Outcome:
    """Play a scenario for its families under a tier; all that it made is gone afterwards."""
    begin = time.monotonic()
    cgroups = Cgroups()
    try:
        with tier.around(), wire() as made:
            stage = Stage(made, agent, cgroups, folder, full=full)
            # Senders go first, then their namespaces.
            with stage.exit:
                try:
                    true = _play(what, tier, stage)
                except NotThereError as absent:
                    return Outcome(what.name, tier.name, absent=str(absent))
            rows = stage.rows()
            fault = what.also(stage, rows)
            verdicts = {
                family: replace(
                    judge(
                        rows,
                        true[family],
                        made.local[family] | made.behind[family],
                        what.protocols,
                        stage.claims[family],
                    ),
                    resets=stage.resets[family] if TCP in what.protocols else 0,
                )
                for family in what.families
            }
            return Outcome(
                scenario=what.name,
                tier=tier.name,
                verdicts=verdicts,
                sent=stage.sent,
                lost_frames=stage.lost,
                rows=len(rows),
                seconds=time.monotonic() - begin,
                notes=tuple(stage.notes),
                fault=fault,
            )
    finally:
        cgroups.remove()


def _play(what: Scenario, tier: Tier, stage: Stage) -> dict[int, Counts]:
    what.prepare(stage)
    plays = []
    if inspect.isgeneratorfunction(what.play):
        plays = [what.play(stage, family) for family in what.families]
        for play in plays:
            next(play)
    if plays or what.prepare is not nothing:
        stage.settle()
    before = {family: stage.wire.truth(family, what.protocols) for family in what.families}
    resets = {family: stage.wire.resets(family) for family in what.families}
    settings = tier.settings | tier.special.get(what.wants, {})
    settings = {k: stage.cgroups.root() if v == RUN_GROUP else v for k, v in settings.items()}
    stage.watch(tier.name, settings)
    try:
        if plays:
            for play in plays:
                for _ in play:
                    raise AssertionError(f"{what.name} yields twice")
        else:
            for family in what.families:
                what.play(stage, family)
        stage.settle()
    finally:
        stage.take()
    true = {family: stage.wire.truth(family, what.protocols) - before[family] for family in what.families}
    stage.resets |= {family: stage.wire.resets(family) - resets[family] for family in what.families}
    if what.content_is_sent:
        return {family: replace(true[family], content_octets_out=stage.sent[family]) for family in true}
    return true

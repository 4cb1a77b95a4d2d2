"""The road of the roles that copy: each batch once, with its commit; what fails is tried again whole."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from agent import config
from agent.core.clock import DataClock
from agent.core.errors import ConfigError, StateError
from agent.core.flow import FlowBatch
from agent.core.message import HEADER_KEY, SIGNATURE_KEY, Message
from agent.receiving.archiving import ArchiveRuntime, RepublishRuntime
from agent.receiving.checking import Checker
from agent.receiving.copying import Copying
from agent.store.inputs import Offset, Pin
from agent.store.state import State
from collectors.kafka import Place, Reader, Record
from tests.tools.fleet import FakeAgent
from tests.tools.notices import START_NS

TOPIC = "flows"
MADE_AGAIN = 9
"""A record of this partition is the first of a topic that was deleted and made again."""


class FakeReader:
    """Hands out records, then asks the run to stop."""

    topic = TOPIC

    def __init__(self, turns: Sequence[Sequence[Record]], stop: threading.Event) -> None:
        self._turns, self._stop = list(turns), stop
        self.at: dict[tuple[str, int], Place] = {}
        self.topic_id = "id-1"

    def poll(self, most: int, wait_s: float) -> list[Record]:
        """The next turn; an empty answer ends each."""
        if not wait_s:
            return []
        if not self._turns:
            self._stop.set()
            return []
        found = list(self._turns.pop(0))
        for record in found:
            if record.partition == MADE_AGAIN:
                self.topic_id = "id-2"
                self.at.clear()
            self.at[TOPIC, record.partition] = Place(self.topic_id, record.offset + 1)
        return found

    def places(self) -> dict[tuple[str, int], Place]:
        """Where to go on after all that was handed out."""
        return dict(self.at)

    def lag(self) -> int | None:
        """None waits."""
        return 0

    def close(self) -> None:
        """Nothing is open."""


@dataclass
class FakeTaker:
    """Keeps rows in a list; fails as often as it is told."""

    failures: int = 0
    on_failure: Callable[[], None] = lambda: None
    taken: list[list[tuple[str, int, int]]] = field(default_factory=list)
    kept: list[tuple[str, int, int]] = field(default_factory=list)
    undone: int = 0
    _open: list[tuple[str, int, int]] = field(default_factory=list)

    def take(self, batches: Sequence[FlowBatch]) -> str:
        self._open += [(b.header.agent_id, b.header.sequence, len(b)) for b in batches]
        self.taken.append(list(self._open))
        if self.failures:
            self.failures -= 1
            self.on_failure()
            raise OSError(28, "No space left on device")
        return f"place {len(self.taken)}"

    def undo(self) -> None:
        self.undone += 1
        self._open.clear()

    def settled(self) -> None:
        self.kept += self._open
        self._open.clear()

    def between(self) -> None:
        assert not self._open

    def close(self) -> None:
        pass


def _record(offset: int, message: Message, partition: int = 0) -> Record:
    headers = {HEADER_KEY: message.header, SIGNATURE_KEY: message.signature}
    return Record(partition, offset, START_NS, b"", headers, message.value)


@dataclass
class Run:
    """One run over some turns."""

    state: State
    taker: FakeTaker = field(default_factory=FakeTaker)
    stop: threading.Event = field(default_factory=threading.Event)

    def over(self, *turns: Sequence[Record], checker: Checker | None = None, **more: Any) -> Copying:
        """Copy these turns, then stop."""
        reader = cast(Reader, FakeReader(turns, self.stop))
        clock = DataClock(START_NS)
        made = Copying(
            reader, checker or Checker({}), self.state, self.taker, clock, 20_000, stop=self.stop, **more
        )
        made.run()
        return made


@pytest.fixture
def run(tmp_path: Path) -> Any:
    with State.open(tmp_path / "copy.db", clock=DataClock(START_NS)) as state:
        yield Run(state)


def test_each_batch_is_taken_once_and_committed_with_its_offsets(run: Run) -> None:
    """Within a turn and between two, the same batch counts once; offsets move past duplicates and refused messages."""
    one, two = FakeAgent("db-1"), FakeAgent("db-2")
    a, b, c = one.message([{}, {}]), two.message([{}]), one.message([{}])
    foreign = Record(0, 3, START_NS, b"", {}, b"hello")
    made = run.over([_record(0, a), _record(1, a), _record(2, b), foreign], [_record(4, c), _record(5, b)])
    assert run.taker.kept == [("db-1", 0, 2), ("db-2", 0, 1), ("db-1", 1, 1)]
    counts = made.counts
    assert (counts.messages, counts.rows, counts.duplicates, counts.commits) == (6, 4, 2, 2)
    assert dict(counts.refused) == {"foreign": 1}
    assert run.state.inputs.offsets() == {(TOPIC, 0): Offset("id-1", 6)}
    assert run.state.load().position == "place 2"
    assert run.state.inputs.pins().keys() == {"db-1", "db-2"}


def test_a_topic_made_again_in_a_turn_begins_anew(run: Run) -> None:
    """Offsets of the old topic are not told as the new one's: a restart would pass by what the new one holds there."""
    agent = FakeAgent("db-1")
    old, new = agent.message([{}]), agent.message([{}])
    run.over([_record(100, old), _record(0, new, partition=MADE_AGAIN)])
    assert run.state.inputs.offsets() == {(TOPIC, MADE_AGAIN): Offset("id-2", 1)}
    assert run.taker.kept == [("db-1", 0, 1), ("db-1", 1, 1)]


def test_a_taker_that_fails_gets_the_same_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full volume holds up the turn: it is taken back and tried again unchanged, then committed once."""
    monkeypatch.setattr("agent.receiving.copying.RETRY_S", (0.0,))
    run.taker.failures = 3
    message = FakeAgent("db-1").message([{}])
    made = run.over([_record(0, message)])
    assert run.taker.taken == [[("db-1", 0, 1)]] * 4
    assert (run.taker.undone, run.taker.kept, made.trouble) == (3, [("db-1", 0, 1)], "")


def test_a_stop_while_nothing_is_taken_commits_nothing(run: Run) -> None:
    """Whoever stops a role that cannot write finds its offsets where they were."""
    run.taker.failures, run.taker.on_failure = 1, run.stop.set
    run.over([_record(0, FakeAgent("db-1").message([{}]))])
    assert (run.taker.kept, run.state.inputs.offsets(), run.taker.undone) == ([], {}, 1)


def test_a_key_that_was_enrolled_since_is_looked_up(run: Run) -> None:
    """With enrolled identities, a message of an agent that is new here is taken once the detector knows its key."""
    agent = FakeAgent("db-1")
    asked: list[int] = []

    def keys() -> Mapping[str, Pin]:
        asked.append(1)
        return {"db-1": Pin(agent.key.public, "enrolled")}

    stranger = FakeAgent("db-9").message([{}])
    made = run.over(
        [_record(0, agent.message([{}])), _record(1, stranger)], checker=Checker({}, "enrolled"), keys=keys
    )
    assert (run.taker.kept, asked) == ([("db-1", 0, 1)], [1])
    assert dict(made.counts.refused) == {"unknown_key": 1}


def _loaded(folder: Path, state: str, **more: str) -> config.Loaded:
    given = {"kafka.servers": "127.0.0.1:9", "archiver.directory": str(folder / "archive"), **more}
    flags = [("state_dir", str(folder / state)), *given.items()]
    return config.load(environ={"SEKISHO_CONFIG": str(_empty(folder))}, flags=flags)


def _empty(folder: Path) -> Path:
    path = folder / "empty.yaml"
    path.write_text("{}\n")
    return path


def test_two_archivers_on_one_folder_are_refused(tmp_path: Path) -> None:
    """Whatever their state folders are called, the second one is told who has the archive."""
    with ExitStack() as stack:
        stack.enter_context(ArchiveRuntime(_loaded(tmp_path, "one")))
        with pytest.raises(StateError, match="archive is written by another one"):
            stack.enter_context(ArchiveRuntime(_loaded(tmp_path, "two")))
    with ArchiveRuntime(_loaded(tmp_path, "two")):
        pass


def test_nothing_to_republish_is_told(tmp_path: Path) -> None:
    """Without a topic to write the role says which settings it expects."""
    with (
        pytest.raises(ConfigError, match=r"republish: \{ocsf: true\}"),
        RepublishRuntime(_loaded(tmp_path, "s")),
    ):
        pass
    with RepublishRuntime(_loaded(tmp_path, "s", **{"republish.ocsf": "true"})):
        pass

"""``sekisho archive`` and ``sekisho republish``: roles of their own that copy what agents sent, beside the detector.

Each has a state of its own with its offsets and sequences, so that neither holds up an alert nor the other. The archiver's
lies in the archive's folder: whoever opens it second is refused, whatever its ``state_dir``.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from agent import logs
from agent.config import Loaded, Settings
from agent.core.clock import Clock, SteadyClock, SystemClock
from agent.core.errors import ConfigError, Fault, StateError
from agent.core.flow import FlowBatch
from agent.core.kafka import Connection
from agent.core.process import settled
from agent.receiving.checking import Checker
from agent.receiving.copying import Copying, Taker
from agent.service import Attendant
from agent.signals import Signals
from agent.store.inputs import Pin
from agent.store.postgres import a_holder, open_postgres
from agent.store.state import BUSY_TIMEOUT_S, State
from collectors.kafka import Place, Reader
from sinks.days import Days
from sinks.republished import Republished

ARCHIVER_STATE: Final = "archiver.db"
REPUBLISHER_STATE: Final = "republisher.db"


@dataclass
class Filed:
    """The archive as a taker."""

    days: Days

    def take(self, batches: Sequence[FlowBatch]) -> str:
        """See :class:`agent.receiving.copying.Taker`."""
        self.days.add(batches)
        return json.dumps(self.days.sizes(), sort_keys=True)

    def undo(self) -> None:
        """See :class:`agent.receiving.copying.Taker`."""
        self.days.undo()

    def settled(self) -> None:
        """See :class:`agent.receiving.copying.Taker`."""
        self.days.settled()

    def between(self) -> None:
        """See :class:`agent.receiving.copying.Taker`."""
        self.days.finish_due()

    def close(self) -> None:
        """See :class:`agent.receiving.copying.Taker`."""
        self.days.close()


@dataclass
class CopyRuntime:
    """One run of a role that copies: ``with ArchiveRuntime(loaded) as run: run.go()``. Raises :class:`SekishoError`."""

    loaded: Loaded
    clock: Clock = field(default_factory=SystemClock)
    attendant: Attendant = field(default_factory=Attendant)
    stop: threading.Event = field(default_factory=threading.Event)
    _stack: ExitStack = field(default_factory=ExitStack)

    role = ""

    @property
    def settings(self) -> Settings:
        """The settings of this run."""
        return self.loaded.settings

    def __enter__(self) -> Self:
        try:
            self._set_up()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stack.close()

    def go(self) -> None:
        """Copy until a signal."""
        settled()
        with Signals(self.stop, threading.Event()):
            self.attendant.begins(frozenset(), {}, self.stop)
            logs.get(self.role).info("run_started", state=self.state.name)
            self.copying.run()
        self.end()

    def end(self) -> None:
        """The run has ended in order."""

    @property
    def counters(self) -> dict[str, int]:
        """Figures of this run."""
        counts = self.copying.counts
        return {
            "messages": counts.messages,
            "rows": counts.rows,
            "octets": counts.octets,
            "duplicates": counts.duplicates,
            "commits": counts.commits,
            "lag": counts.lag,
            **{f"refused[{reason}]": n for reason, n in sorted(counts.refused.items())},
        }

    @property
    def own_figures(self) -> Mapping[str, int]:
        """Metrics that this role alone has: name in the table of :mod:`agent.metrics`, and figure."""
        raise NotImplementedError

    def _set_up(self) -> None:
        self.clock = SteadyClock(self.clock)
        connection = _connection(self.settings)
        path = self._state_file()
        try:
            self.state = State.open(path, clock=self.clock)
        except StateError as error:
            if "in use" in str(error):
                raise StateError(f"{path.parent} is written by another one: {error}") from error
            raise
        self._stack.callback(self.state.close)
        self.taker = self._make_taker(connection, self.state.load().position)
        self._stack.callback(self.taker.close)
        topic = connection.topics.flows
        known = {place: at for place, at in self.state.inputs.offsets().items() if place[0] == topic}
        reader = Reader(connection, topic, f"sekisho-{self.role}-{self.settings.host}")
        reader.begin({place: Place(at.topic_id, at.next_offset) for place, at in known.items()})
        self.copying = Copying(
            reader,
            Checker(self.state.inputs.pins(), self.settings.detect.identities),
            self.state,
            self.taker,
            self.clock,
            self._gather_rows(),
            keys=detectors_keys(self.settings, self.clock),
            attendant=self.attendant,
            stop=self.stop,
        )

    def _state_file(self) -> Path:
        raise NotImplementedError

    def _gather_rows(self) -> int:
        raise NotImplementedError

    def _make_taker(self, connection: Connection, position: str) -> Taker:
        raise NotImplementedError


@dataclass
class ArchiveRuntime(CopyRuntime):
    """One run of the archiver."""

    role = "archive"

    @property
    def directory(self) -> Path:
        """The archive's folder."""
        return self.settings.archiver.directory or self.settings.state_dir / "archive"

    def end(self) -> None:
        """Finish every journal."""
        if not self.days.uncommitted:
            self.days.finish_due(all_of_them=True)

    @property
    def own_figures(self) -> Mapping[str, int]:
        """See :class:`CopyRuntime`."""
        return {"archive_files": self.days.files, "archive_missing_octets": self.days.missing_octets}

    def _state_file(self) -> Path:
        return self.directory / ARCHIVER_STATE

    def _gather_rows(self) -> int:
        return self.settings.archiver.gather_rows

    def _make_taker(self, connection: Connection, position: str) -> Taker:
        del connection
        self.days = Days(self.settings.archiver, self.directory, self.clock)
        try:
            self.days.begin(json.loads(position) if position else {})
        except OSError as error:
            raise StateError(f"archive {self.directory}: {error}") from error
        return Filed(self.days)


@dataclass
class RepublishRuntime(CopyRuntime):
    """One run of the role that writes flows as JSON, one by one, to topics of their own."""

    role = "republish"

    @property
    def own_figures(self) -> Mapping[str, int]:
        """See :class:`CopyRuntime`."""
        return {"republish_records": self.republished.sent}

    def _state_file(self) -> Path:
        return self.settings.state_dir / REPUBLISHER_STATE

    def _gather_rows(self) -> int:
        return self.settings.republish.gather_rows

    def _make_taker(self, connection: Connection, position: str) -> Taker:
        del position
        wanted = self.settings.republish
        if not (wanted.ocsf or wanted.json_lines):
            raise ConfigError(
                Fault(
                    "settings",
                    0,
                    "there is nothing to republish: expected `republish: {ocsf: true}`, `{json_lines: true}` or both",
                )
            )
        self.republished = Republished(
            connection,
            f"sekisho-republish-{self.settings.host}",
            ocsf=wanted.ocsf,
            json_lines=wanted.json_lines,
            community_id=wanted.community_id,
        )
        return self.republished


def _connection(settings: Settings) -> Connection:
    if settings.kafka is None:
        raise ConfigError(
            Fault("settings", 0, "this role reads from Kafka: expected `kafka: {servers: [HOST:PORT]}`")
        )
    return settings.kafka


def detectors_keys(settings: Settings, clock: Clock) -> Callable[[], Mapping[str, Pin]]:
    """Asks the detector's state which keys it trusts; none where it has no state here yet."""

    def keys() -> Mapping[str, Pin]:
        url, path = settings.detect.database, settings.state_dir / "state.db"
        if url is not None:
            database = open_postgres(
                url, holder=a_holder(), create=False, now_ns=clock.now_ns(), busy_timeout_s=BUSY_TIMEOUT_S
            )
            with State.beside(database, clock=clock) as state:
                return state.inputs.pins()
        if not path.is_file():
            return {}
        with State.open(path, clock=clock, read_only=True) as state:
            return state.inputs.pins()

    return keys

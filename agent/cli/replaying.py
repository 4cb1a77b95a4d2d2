"""One replay from flags to exit code: what ``sekisho replay`` does."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import click
from pydantic import ValidationError

from agent import config
from agent.cli import EXIT_ERROR, EXIT_FINDINGS, EXIT_INTERRUPTED
from agent.cli.bars import Bar
from agent.cli.common import Options, console, echo, echo_json, size, table, tell, words
from agent.cli.top import destination
from agent.core.decision import Decision
from agent.core.errors import StateError
from agent.core.finding import Case, Severity
from agent.core.stages import Collector, Context, Sink, SinkSettings
from agent.policy import load as policy_files
from agent.policy.faults import faults_of
from agent.runtime import Runtime
from agent.words import Phrases, shown
from agent.words.units import Number
from collectors.captures.folders import choose
from collectors.pcap import Settings as PcapSettings
from sinks.archive import Settings as ArchiveSettings

_CUT: Final = "2"
"""Another one where the same rows would go into other batches: a replay that was cut off under the old one cannot go on."""


@dataclass
class Replay:
    """One replay from flags to exit code."""

    options: Options
    files: tuple[Path, ...]
    policies: tuple[Path, ...]
    overrides: tuple[Path, ...]
    local: tuple[str, ...]
    host: str | None
    state: Path | None
    fail_on: str | None
    as_json: bool
    quiet: bool
    send: bool = False
    tunnels: str | None = None
    names: bool = False
    cases: dict[str, Case] = field(default_factory=dict)
    _left_out: dict[Path, str] = field(default_factory=dict)

    def run(self) -> int:
        """Replay, print, and say how it went as an exit code."""
        loaded = self._settings()
        with ExitStack() as stack:
            if self.state is not None:
                self.state.mkdir(parents=True, exist_ok=True)
            with Bar(lambda: words(loaded.settings.language)("starting"), show=not self.quiet):
                run = stack.enter_context(self._runtime(loaded))
            self._refuse_another_view(run)
            for case in run.state.cases.list_cases():
                self.cases[case.id] = case
            started = time.monotonic()
            self._go(run)
            code = self._report(run, time.monotonic() - started)
        for said in run.unwritten:
            echo(f"sekisho: {said}", err=True)
        return code or (EXIT_ERROR if run.unwritten else 0)

    def _settings(self) -> config.Loaded:
        more: list[tuple[str, Any]] = []
        if self.policies:
            more.append(("policy", [str(p) for p in self.policies]))
        if self.overrides:
            more.append(("overrides", [str(p) for p in self.overrides]))
        if self.host:
            more.append(("host", self.host))
        return self._with_sinks(self.options.load(*more))

    def _with_sinks(self, loaded: config.Loaded) -> config.Loaded:
        """Old traffic pages nobody unless asked, and the archive of `sekisho up` is not ours to write to: one in the
        folder of ``--state``, or none."""
        asked = loaded.stages.sinks.items() if self.send else ()
        sinks: dict[str, SinkSettings] = {n: s for n, s in asked if not isinstance(s, ArchiveSettings)}
        if self.state is not None and loaded.settings.archive:
            sinks["archive"] = ArchiveSettings(directory=self.state / "archive")
        return replace(loaded, stages=replace(loaded.stages, sinks=sinks))

    def _runtime(self, loaded: config.Loaded) -> Runtime:
        sinks: dict[str, Sink] = {}
        if not self.as_json and not self.quiet:
            # What draws is loaded where something is drawn: it is a tenth of the start.
            from agent.cli.screen import colour
            from sinks.stdout import Settings as StdoutSettings

            context = config.bare_context(loaded.settings)
            sinks["stdout"] = StdoutSettings(language=loaded.settings.language, colour=colour()).build(
                context
            )
        settings = self._collector(loaded)
        run = Runtime(
            loaded,
            state_path=self.state / "state.db" if self.state is not None else None,
            keeps=self.state is not None,
            run_id=self._run_id(loaded, settings),
            replay=True,
            comes_again=self.state is not None,
            extra_sinks=sinks,
            on_decision=self._hear,
        )
        run.build_collectors = lambda context: self._built(settings, context)
        return run

    def _built(self, settings: PcapSettings, context: Context) -> dict[str, Collector]:
        collector = settings.build(context)
        self._left_out = collector.left_out
        return {collector.name: collector}

    def _collector(self, loaded: config.Loaded) -> PcapSettings:
        """How the files are read: as ``collectors: pcap`` of the settings says, but for what the command line says."""
        kept = loaded.stages.collectors.get("pcap")
        asked: dict[str, Any] = kept.model_dump() if isinstance(kept, PcapSettings) else {}
        asked |= {"files": self.files}
        if self.local:
            asked["local"] = self.local
        if self.tunnels:
            asked["tunnels"] = self.tunnels
        if self.names:
            asked["names"] = True
        try:
            return PcapSettings.model_validate(asked)
        except ValidationError as error:
            faults = faults_of(error, None, PcapSettings)
            said = (f.message.partition("]: ")[2] + (f" ({f.advice})" if f.advice else "") for f in faults)
            raise click.UsageError(f"--local: {'; '.join(said)}") from None

    def _run_id(self, loaded: config.Loaded, settings: PcapSettings) -> str:
        """Equal for equal input seen in the same way, so that a replay that was cut off goes on where it stopped.

        ``replay-<input>-<view>``: the view is what decides which row goes into which batch.
        """
        parts = (_CUT, *map(str, settings.local), loaded.settings.host)
        view = hashlib.sha256("\0".join(parts).encode())
        view.update(settings.model_dump_json(exclude={"files", "local"}, exclude_defaults=True).encode())
        for path in (*loaded.settings.policy, *loaded.settings.overrides):
            with contextlib.suppress(OSError):  # reading the policy says it better
                for file in policy_files.files_of(path):
                    view.update(file.read_bytes())
        return f"replay-{_digest_of(choose(self.files).files)}-{view.hexdigest()[:12]}"

    def _refuse_another_view(self, run: Runtime) -> None:
        """Raises :class:`StateError` where the same input was counted under another policy: it would count twice."""
        told = run.run_id.rsplit("-", 1)[0] + "-"
        if any(other.startswith(told) and other != run.run_id for _, other, _ in run.state.streams()):
            raise StateError(
                f"{self.state}: holds a replay of the same files under another policy, host, --local, --tunnels or --names, "
                "or by another version of sekisho; name another folder with --state"
            )

    def _hear(self, decision: Decision) -> None:
        for case in decision.cases:
            self.cases[case.id] = case

    def _go(self, run: Runtime) -> None:
        collector = next(iter(run.collectors.values()))
        done = threading.Event()
        with Bar(lambda: self._say(run)("replay.reading"), octets=True, show=not self.quiet) as bar:

            def follow() -> None:
                while not done.wait(0.2):
                    if progress := collector.progress():
                        bar.step(*progress)

            follower = threading.Thread(target=follow, name="progress", daemon=True)
            follower.start()
            try:
                run.go()
            finally:
                done.set()
                follower.join()

    def _report(self, run: Runtime, took_s: float) -> int:
        failures = {name: str(error) for name, error in run.pipeline.failures.items()}
        if self.as_json:
            echo_json(self._document(run, failures), indent=2)
        else:
            self._summary(run, took_s)
        for said in "\n".join(failures.values()).splitlines():
            echo(f"sekisho: {said}", err=True)
        if failures:
            return EXIT_ERROR
        if run.stop.is_set():
            return EXIT_INTERRUPTED
        if self.fail_on and any(
            case.severity >= Severity[self.fail_on.upper()] for case in self.cases.values()
        ):
            return EXIT_FINDINGS
        return 0

    def _document(self, run: Runtime, failures: Mapping[str, str]) -> dict[str, Any]:
        reading = run.view.read(top=1000)
        return {
            "account": run.accounts.read().as_dict(),
            "cases": [case.model_dump(mode="json") for case in self.cases.values()],
            "destinations": [destination(line) for line in reading.destinations],
            "policy": run.policy.version,
            "complete": not run.stop.is_set(),
            "faults": failures,
            "left_out": {str(path): reason for path, reason in self._left_out.items()},
        }

    def _summary(self, run: Runtime, took_s: float) -> None:
        from agent.cli.live import cells_of_end, columns_of_end
        from agent.cli.screen import Column

        out, say, reading = console(), self._say(run), run.view.read(top=15)
        is_named = any(line.names for line in reading.destinations)
        rows = table(
            [
                *columns_of_end(is_named=is_named),
                Column("octets_out", right=True),
                Column("octets_in", right=True, rank=3),
                Column("flows", right=True, rank=4),
            ],
            say,
        )
        for line in reading.destinations:
            rows.add_row(
                *cells_of_end(line, say, is_named=is_named),
                size(line.octets_out),
                size(line.octets_in),
                f"{line.flows:,}",
            )
        if reading.destinations:
            out.print(rows)
        else:
            out.print(say("replay.no_external"))
        out.print()
        for said in self._told(run, say, took_s):
            tell(said)
        if run.stop.is_set():
            kept = self.state is not None
            echo(f"sekisho: {say('replay.stopped_kept' if kept else 'replay.stopped')}", err=True)

    def _told(self, run: Runtime, say: Phrases, took_s: float) -> Iterator[str]:
        """What was read, what became of it, and what was found."""
        from agent.cli.live import severity_of, summary_of

        account = run.accounts.read()
        lost = Number(sum(frames for frames, _ in account.lost_frames.values()))
        yield say(
            "replay.totals",
            n=Number(account.captured.flows),
            out=f"{account.captured.octets_out:,}",
            in_=f"{account.captured.octets_in:,}",
            seconds=f"{took_s:.1f}",
            lost=say("replay.lost", n=lost, reasons=say.join(list(account.lost_frames)))
            if lost
            else say("replay.lost_nothing"),
            residue=f"{account.residue.octets_out:,}",
        )
        if run.decide.duplicates:
            yield say("replay.duplicates", octets=f"{run.decide.duplicates.octets_out:,}")
        for case in sorted(self.cases.values(), key=lambda c: -c.severity):
            severity, summary = severity_of(case, say), summary_of(case, say)
            yield say("replay.case", severity=severity, id=case.id, summary=summary)
        if not self.cases:
            yield say("replay.no_case" if run.policy.stores else "replay.no_case_no_store")
        for path, reason in self._left_out.items():
            yield say("replay.left_out", file=shown(str(path)), reason=reason)

    @staticmethod
    def _say(run: Runtime) -> Phrases:
        return words(run.settings.language)


_EDGE = 1 << 16


def _digest_of(files: tuple[Path, ...]) -> str:
    """Tells inputs apart by size, beginning and end, whatever they are called; what is no plain file is like no other."""
    digest = hashlib.sha256()
    for path in files:
        try:
            digest.update(_edges(path) if path.is_file() else uuid.uuid4().bytes)
        except OSError:  # the collector says it better
            digest.update(uuid.uuid4().bytes)
    return digest.hexdigest()[:24]


def _edges(path: Path) -> bytes:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        first = file.read(_EDGE)
        file.seek(max(0, size - _EDGE))
        return f"{size}\0".encode() + first + file.read(_EDGE)

"""``sekisho replay``: captures through the same road, with the clock of the data."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from agent import config
from agent.cli import EXIT_ERROR, EXIT_FINDINGS, EXIT_INTERRUPTED
from agent.cli.common import Options, console, example, place, size, table
from agent.core.decision import Decision
from agent.core.errors import StateError
from agent.core.finding import Case, Severity
from agent.core.stages import Collector, Sink, SinkSettings
from agent.policy import load as policy_files
from agent.policy.faults import faults_of
from agent.runtime import Runtime
from agent.words import shown
from collectors.pcap import Settings as PcapSettings
from sinks.archive import Settings as ArchiveSettings
from sinks.stdout import Settings as StdoutSettings


@click.command(epilog=example("replay"))
@click.argument("files", nargs=-1, type=click.Path(path_type=Path, readable=False), metavar="FILE...")
@click.option(
    "--sample",
    is_flag=True,
    help="Replay the small capture that comes with sekisho, under the policy that comes with it.",
)
@click.option(
    "--policy",
    "policies",
    multiple=True,
    type=click.Path(path_type=Path, readable=False),
    help="Policy file or folder. Default: that of the settings.",
)
@click.option(
    "--overrides",
    multiple=True,
    type=click.Path(path_type=Path, readable=False),
    help="File of what is known better about some networks (YAML or CSV).",
)
@click.option(
    "--local",
    "local",
    multiple=True,
    metavar="CIDR",
    help="Networks whose addresses are local. Default: private ranges and the policy's sites.",
)
@click.option(
    "--host", help="Host name under which the rows are booked. Default: this host's, or the setting."
)
@click.option(
    "--state",
    "state",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep cases, ledger and archive in this folder, and go on there if a replay was cut off. Default: a throwaway one.",
)
@click.option(
    "--fail-on",
    type=click.Choice(["low", "medium", "high", "critical"]),
    help="Exit code 3 if a case of this severity or higher was found.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of text.")
@click.option(
    "--send", is_flag=True, help="Also send to the sinks of the settings. Default: old traffic pages nobody."
)
@click.option("--quiet", is_flag=True, help="No progress bar and no alert texts; the summary alone.")
@click.pass_obj
def command(
    options: Options,
    files: tuple[Path, ...],
    sample: bool,
    policies: tuple[Path, ...],
    overrides: tuple[Path, ...],
    local: tuple[str, ...],
    host: str | None,
    state: Path | None,
    fail_on: str | None,
    as_json: bool,
    send: bool,
    quiet: bool,
) -> None:
    """Run captures (pcap, pcapng, also compressed; - is standard input) through the whole road.

    Time is the data's own. Nothing is mixed with what `sekisho up` knows: cases, ledger and archive are kept apart, in
    a throwaway folder unless --state names one. The same files in the same order count once in such a folder, however
    often they are replayed. No rights are needed.
    """
    if sample:
        if files or policies or overrides or local or host:
            raise click.UsageError(
                "--sample brings its own capture, policy, overrides and host; name no others"
            )
        raise SystemExit(replay_sample(options, state=state, as_json=as_json, quiet=quiet, fail_on=fail_on))
    if not files:
        raise click.UsageError("name at least one capture, or --sample")
    request = Replay(options, files, policies, overrides, local, host, state, fail_on, as_json, quiet, send)
    raise SystemExit(request.run())


def replay_sample(
    options: Options,
    *,
    state: Path | None = None,
    as_json: bool = False,
    quiet: bool = False,
    fail_on: str | None = None,
) -> int:
    """Replay the bundled capture under its own policy. Returns the exit code."""
    with ExitStack() as stack:
        folder = stack.enter_context(resources.as_file(resources.files("agent") / "sample"))
        request = Replay(
            options,
            (folder / "sample.pcap.gz",),
            (folder / "policy.yaml",),
            (folder / "overrides.yaml",),
            (),
            "db-01",
            state,
            fail_on,
            as_json,
            quiet,
        )
        return request.run()


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
    cases: dict[str, Case] = field(default_factory=dict)

    def run(self) -> int:
        """Replay, print, and say how it went as an exit code."""
        loaded = self._settings()
        with ExitStack() as stack:
            state_dir = self.state
            if state_dir is None:
                state_dir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sekisho-replay-")))
            state_dir.mkdir(parents=True, exist_ok=True)
            run = stack.enter_context(self._runtime(loaded, state_dir))
            self._refuse_another_view(run)
            for case in run.state.cases.list_cases():
                self.cases[case.id] = case
            started = time.monotonic()
            self._go(run)
            code = self._report(run, time.monotonic() - started)
        for said in run.unwritten:
            click.echo(f"sekisho: {said}", err=True)
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

    def _runtime(self, loaded: config.Loaded, state_dir: Path) -> Runtime:
        sinks: dict[str, Sink] = {}
        if not self.as_json and not self.quiet:
            context = config.bare_context(loaded.settings)
            sinks["stdout"] = StdoutSettings(language=loaded.settings.language).build(context)
        run = Runtime(
            loaded,
            state_path=state_dir / "state.db",
            run_id=self._run_id(loaded),
            replay=True,
            comes_again=self.state is not None,
            extra_sinks=sinks,
            on_decision=self._hear,
        )
        settings = self._collector()
        run.build_collectors = lambda context: _one(settings.build(context))
        return run

    def _collector(self) -> PcapSettings:
        try:
            return PcapSettings.model_validate({"files": self.files, "local": self.local})
        except ValidationError as error:
            said = "; ".join(fault.message for fault in faults_of(error, None, PcapSettings))
            raise click.UsageError(f"--local: {said}") from None

    def _run_id(self, loaded: config.Loaded) -> str:
        """Equal for equal input seen in the same way, so that a replay that was cut off goes on where it stopped.

        ``replay-<input>-<view>``: the view is what decides which row goes into which batch.
        """
        view = hashlib.sha256("\0".join((*self.local, loaded.settings.host)).encode())
        for path in (*loaded.settings.policy, *loaded.settings.overrides):
            with contextlib.suppress(OSError):  # reading the policy says it better
                for file in policy_files.files_of(path):
                    view.update(file.read_bytes())
        return f"replay-{_digest_of(self.files)}-{view.hexdigest()[:12]}"

    def _refuse_another_view(self, run: Runtime) -> None:
        """Raises :class:`StateError` where the same input was counted under another policy: it would count twice."""
        told = run.run_id.rsplit("-", 1)[0] + "-"
        if any(other.startswith(told) and other != run.run_id for _, other, _ in run.state.streams()):
            raise StateError(
                f"{self.state}: holds a replay of the same files under another policy, host or --local; "
                "name another folder with --state"
            )

    def _hear(self, decision: Decision) -> None:
        for case in decision.cases:
            self.cases[case.id] = case

    def _go(self, run: Runtime) -> None:
        collector = next(iter(run.collectors.values()))
        if self.quiet or self.as_json or not sys.stderr.isatty():
            run.go()
            return
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TimeRemainingColumn(),
            console=console(err=True),
            transient=True,
        )
        done = threading.Event()
        with bar:
            task = bar.add_task("reading", total=None)

            def follow() -> None:
                while not done.wait(0.2):
                    if progress := collector.progress():
                        bar.update(task, completed=progress[0], total=progress[1] or None)

            follower = threading.Thread(target=follow, daemon=True)
            follower.start()
            try:
                run.go()
            finally:
                done.set()
                follower.join()

    def _report(self, run: Runtime, took_s: float) -> int:
        failures = {name: str(error) for name, error in run.pipeline.failures.items()}
        if self.as_json:
            click.echo(json.dumps(self._document(run, failures), ensure_ascii=False, indent=2))
        else:
            self._summary(run, failures, took_s)
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
            "destinations": [
                {
                    "country": line.country,
                    "network": line.network,
                    "provider": line.provider,
                    "owner": line.owner,
                    "owner_country": line.owner_country,
                    "octets_out": line.octets_out,
                    "octets_in": line.octets_in,
                    "flows": line.flows,
                    "stores": sorted(line.stores),
                }
                for line in reading.destinations
            ],
            "policy": run.policy.version,
            "complete": not run.stop.is_set(),
            "faults": failures,
        }

    def _summary(self, run: Runtime, failures: Mapping[str, str], took_s: float) -> None:
        out = console()
        reading, account = run.view.read(top=15), run.accounts.read()
        rows = table(
            [
                "place",
                "network",
                "owner on record",
                "store",
                ("out", "right"),
                ("in", "right"),
                ("flows", "right"),
            ]
        )
        for line in reading.destinations:
            owner = f"{line.owner} ({place(line.owner_country)})" if line.owner else line.provider or "-"
            rows.add_row(
                place(line.country),
                line.network,
                owner,
                ", ".join(sorted(line.stores)) or "-",
                size(line.octets_out),
                size(line.octets_in),
                f"{line.flows:,}",
            )
        if reading.destinations:
            out.print(rows)
        else:
            out.print("no flow to an external address")
        lost = sum(frames for frames, _ in account.lost_frames.values())
        out.print(
            f"\n{account.captured.flows:,} flows, {account.captured.octets_out:,} octets out, {account.captured.octets_in:,} in, "
            f"read in {took_s:.1f} s; lost {lost:,} frame{'' if lost == 1 else 's'}"
            + (f" ({', '.join(account.lost_frames)})" if lost else "")
            + f"; not explained {account.residue.octets_out:,} octets",
            soft_wrap=True,
        )
        if run.decide.duplicates:
            out.print(
                f"{run.decide.duplicates.octets_out:,} octets were already known from an earlier replay into this state",
                soft_wrap=True,
            )
        for case in sorted(self.cases.values(), key=lambda c: -c.severity):
            out.print(
                f"[{case.severity.name.lower()}] case {case.id}: {size(case.traffic.content_octets_out)} observed from {case.store.id} to {shown(case.destination.label)}",
                soft_wrap=True,
            )
        if not self.cases:
            out.print(
                "no case"
                + ("" if run.policy.stores else ": no store is registered (--policy FILE names them)")
            )
        if run.stop.is_set():
            on = "; the same command goes on there" if self.state is not None else ""
            click.echo(f"sekisho: stopped before the end of the data{on}", err=True)
        for said in "\n".join(failures.values()).splitlines():
            click.echo(f"sekisho: {said}", err=True)


def _one(collector: Collector) -> dict[str, Collector]:
    return {collector.name: collector}


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

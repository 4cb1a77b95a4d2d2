"""A look at this host's traffic without state, rules and sinks: what ``sekisho top`` shows."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace

from agent.config import Loaded, bare_context, read_ownership, read_policy
from agent.core.accounts import Accounts
from agent.core.clock import SystemClock, when
from agent.core.errors import SekishoError
from agent.core.flow import BatchHeader, FlowBatch
from agent.pipeline import Pipeline
from agent.seal import Sealer
from agent.signals import Signals
from agent.view import View


class Look:
    """Capture and enrich for a look, nothing more: no state, no rules, no sinks."""

    def __init__(self, loaded: Loaded, stop: threading.Event) -> None:
        clock = SystemClock()
        self.accounts = Accounts()
        self.view = View(clock)
        settings = loaded.settings
        context = replace(
            bare_context(settings, self.accounts),
            policy=read_policy(settings, when(clock.now_ns()).date()),
            ownership=read_ownership(settings),
        )
        collectors = {name: stage.build(context) for name, stage in loaded.stages.collectors.items()}
        enrichers = [stage.build(context) for stage in loaded.stages.enrichers.values()]
        sealer = Sealer(
            BatchHeader(agent_id="look", run_id=uuid.uuid4().hex, host=settings.host), self.accounts
        )
        self._pipeline = Pipeline(
            collectors,
            enrichers,
            sealer,
            _Nothing(),
            [],
            self.accounts,
            clock,
            observe=self.view.observe,
            stop=stop,
        )

    @property
    def failures(self) -> Mapping[str, SekishoError]:
        """Collector name -> why it ended early."""
        return self._pipeline.failures

    def go(self) -> None:
        """Look until ``stop`` is set or a signal comes."""
        with Signals(self._pipeline.stop, threading.Event()):
            self._pipeline.run()


class _Nothing:
    """Decides nothing."""

    def take(self, batches: Sequence[FlowBatch], received_ns: int) -> None:
        """Let them pass."""

    def tick(self, now_ns: int) -> None:
        """Nothing is due."""

    def finish(self) -> None:
        """Nothing is left."""

"""From settings to the parts of a run that sends: its spool, key, and what the host tells by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from agent.config import Settings
from agent.core.accounts import Accounts
from agent.core.clock import Clock
from agent.core.decision import Decision
from agent.core.errors import ConfigError, Fault, StateError
from agent.core.flow import BatchHeader
from agent.core.stages import Carrier, Sink
from agent.policy.model import Policy
from agent.policy.ownership import Ownership
from agent.sending.carrying import Pace
from agent.sending.identity import identity
from agent.sending.send import Send
from agent.sending.tripwire import LocalDetector, Tripwire
from agent.spool.spool import Limits, Spool
from agent.store.state import State

IN_FLIGHT_OCTETS: Final = 8 * 2**20


def sender(
    settings: Settings,
    carrier: Carrier,
    header: BatchHeader,
    accounts: Accounts,
    clock: Clock,
    state: State,
    *,
    sinks: Mapping[str, Sink],
    notice_sinks: tuple[str, ...],
    facts: Callable[[], Mapping[str, object]],
    committed: Callable[[Decision], None],
    tripwire: Tripwire | None,
) -> Send:
    """What sends instead of deciding, its spool opened. Raises :class:`StateError`."""
    given, folder = settings.spool, settings.spool_dir
    try:
        folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        limits = Limits.of(folder, given.most_octets, given.policy)
    except OSError as error:
        raise StateError(
            f"spool {folder}: {error.strerror}; set spool.folder to a folder this user can write"
        ) from error
    return Send(
        Spool(folder, limits),
        carrier,
        identity(settings.state_dir),
        header.agent_id,
        header.run_id,
        accounts,
        clock,
        settings.host,
        folder,
        state,
        notice_sinks=notice_sinks,
        sync=given.sync,
        in_flight_octets=settings.kafka.in_flight_octets if settings.kafka else IN_FLIGHT_OCTETS,
        pace=Pace(given.replay_octets_per_s, given.replay_after_s),
        facts=facts,
        committed=committed,
        tripwire=tripwire,
        tripwire_sinks=told_by_tripwire(settings, sinks),
    )


def local_view(
    settings: Settings, policy: Policy, ownership: Ownership, clock: Clock, not_seen: tuple[str, ...]
) -> Tripwire | None:
    """What the host tells by itself while Kafka is away; None where that is switched off."""
    if not settings.tripwire.enabled:
        return None
    detector = LocalDetector(policy, ownership, host=settings.host, lateness_ns=settings.lateness)
    after, folder = settings.tripwire.after, settings.spool_dir
    return Tripwire(detector, clock, after, settings.host, folder, not_seen)


def told_by_tripwire(settings: Settings, sinks: Mapping[str, Sink]) -> tuple[str, ...]:
    """Names of the sinks that the tripwire tells. Raises :class:`ConfigError` for a name that there is none of."""
    able = {name for name, sink in sinks.items() if sink.takes_notices}
    named = settings.tripwire.sinks
    if named is None:
        return tuple(sorted(name for name in able if sinks[name].name != "kafka"))
    if missing := sorted(set(named) - able):
        raise ConfigError(
            Fault(
                "settings",
                0,
                f"tripwire.sinks: {', '.join(missing)}: expected names of sinks that take alerts",
            )
        )
    return named

"""The words of a way over other hosts: what each leg was observed to carry, and that the rest is inferred."""

from __future__ import annotations

from typing import Protocol

from agent.core.finding import Destination, Relay, RelayState, StoreFact
from agent.words import units
from agent.words.phrases import Phrases


class Telling(Protocol):
    """What the words need of a case."""

    store: StoreFact
    to: Destination

    def moment(self, time_ns: int) -> str:
        """One time, local and UTC."""
        ...


def relay_lines(case: Telling, relay: Relay, say: Phrases) -> list[str]:
    """The chain, the leg in, the leg out with its hedge, and what is possible besides."""
    store = case.store.name or case.store.id
    named = [*relay.hosts[:-1], f"{relay.host} {relay.hosts[-1]}".strip()]
    arrow = say("inferred.relay.arrow")
    words = {
        "store": store,
        "hosts": arrow.join(named),
        "entity": case.to.label,
        "last": named[-1],
        "before": named[-2] if len(named) > 1 else store,
        "forwarder": relay.forwarder,
        "taken": units.size(relay.taken_octets),
        "sent": units.size(relay.matched_octets or relay.possible_octets),
        "taken_first": case.moment(relay.taken_first_ns),
        "sent_first": case.moment(relay.sent_first_ns),
        "sent_last": case.moment(relay.sent_last_ns),
    }
    lines = [say("inferred.relay.way", **words), say("inferred.relay.taken", **words)]
    lines.append(say(f"inferred.relay.{relay.state}", **words))
    if relay.forwarder:
        lines.append(say("inferred.relay.forwarder", **words))
    if relay.state is RelayState.MATCHED and relay.possible_octets:
        lines.append(say("inferred.relay.besides", size=units.size(relay.possible_octets)))
    return lines

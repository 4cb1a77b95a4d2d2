"""Heartbeats as agents send them, without agents."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent.core.heartbeat import CONTEXT, Beat
from agent.sending.identity import Identity
from agent.store.sequences import Intervals, Stream

RUN = "0123456789abcdef" * 2


def amounts(octets: int) -> dict[str, int]:
    """One term of an account."""
    return {"flows": 1, "octets_out": octets, "octets_in": 0}


@dataclass
class Beating:
    """One agent's heartbeats."""

    agent: str
    host: str = ""
    run: str = RUN
    started_ns: int = 0
    fields: dict[str, Any] = field(default_factory=dict)
    """What the next ones say, until it is changed."""
    key: Identity | None = None

    def raw(self, time_ns: int, **more: Any) -> bytes:
        """A heartbeat's bytes."""
        table = {
            "schema_version": 1,
            "agent_id": self.agent,
            "run_id": self.run,
            "host": self.host or self.agent,
            "time_ns": time_ns,
            "closing": False,
            "started_ns": self.started_ns,
            "settings": "a",
            "probe": {"tier": "ebpf", "running": True, "kept": False, "faults": {}},
            "account": {},
            "lanes": {},
            **self.fields,
            **more,
        }
        if self.key is not None:
            table["public_key"] = base64.b64encode(self.key.public).decode()
        return json.dumps(table).encode()

    def beat(self, time_ns: int, **more: Any) -> Beat:
        """A heartbeat as the detector reads it."""
        return Beat.read(self.raw(time_ns, **more))

    def signed(self, time_ns: int, **more: Any) -> tuple[bytes, bytes]:
        """Signature and bytes."""
        if self.key is None:
            self.key = Identity(Ed25519PrivateKey.generate())
        value = self.raw(time_ns, **more)
        return self.key.sign(CONTEXT + value), value


class Arrived:
    """Batches that came, by stream."""

    def __init__(self) -> None:
        self.sets: dict[Stream, Intervals] = {}

    def add(self, agent: str, first: int, last: int, *, lane: int = 1, run: str = RUN) -> None:
        """Batches of an agent."""
        self.sets.setdefault((agent, run, lane), Intervals()).add_range(first, last)

    def __call__(self, stream: Stream) -> Intervals:
        return self.sets.get(stream, Intervals())


def lane(
    next_sequence: int, low_water: int | None = None, dropped: list[list[int]] | None = None
) -> dict[str, Any]:
    """What a heartbeat says of lane 1."""
    low = next_sequence if low_water is None else low_water
    return {"1": {"next_sequence": next_sequence, "low_water": low, "dropped": dropped or []}}

"""What a run tells of itself besides its rows: in heartbeats to the detector, and in a file for people on its host."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from agent.core.errors import SekishoError, StateError
from agent.core.said import said
from agent.core.stages import Aging, Collector, CollectorSettings, Enricher
from collectors.bpf.kept import KeptSettings

FILE: Final = "status.json"
EVERY_S: Final = 5
"""How often it is written while the program runs."""
TIERS: Final = ("ebpf", "tc", "af_packet", "conntrack")
"""Best first."""


def probe(
    collectors: Mapping[str, Collector],
    failures: Mapping[str, SekishoError],
    settings: Iterable[CollectorSettings],
    *,
    stopping: bool,
) -> dict[str, object]:
    """What watches this host, whether it still does, and whether it goes on when this process ends."""
    at_work = {collector.name for name, collector in collectors.items() if name not in failures}
    pinned = any(getattr(collector, "pinned", False) for collector in collectors.values())
    stays = any(isinstance(given, KeptSettings) and given.kept_on_stop() for given in settings)
    return {
        "tier": next((name for name in TIERS if name in at_work), min(at_work, default="")),
        "running": not failures,
        "kept": pinned and (stays or not stopping),
        "faults": {name: str(error)[:1000] for name, error in failures.items()},
    }


def ages(enrichers: Iterable[Enricher], now_ns: int) -> dict[str, int]:
    """Part of the facts -> whole days since its source was made."""
    found: dict[str, int] = {}
    for enricher in enrichers:
        if isinstance(enricher, Aging):
            found |= {part: max(days, 0) for part, days in enricher.age_days(now_ns).items()}
    return found


def write(folder: Path, table: Mapping[str, Any]) -> None:
    """Put the file in place of the last one. Raises ``OSError``."""
    new = folder / f".{FILE}.{os.getpid()}"
    new.write_text(json.dumps(table, ensure_ascii=False, default=str), encoding="utf-8")
    new.replace(folder / FILE)


def read(folder: Path) -> dict[str, Any] | None:
    """What the program that runs in this folder wrote last; None if none ever did. Raises :class:`StateError`."""
    path = folder / FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else "") or str(error)
        told = said("{path}: {error}; run as the user that sekisho runs as", path=path, error=why)
        raise StateError(told) from error
    if not isinstance(found, dict):
        raise StateError(said("{path}: not written by sekisho; remove it", path=path))
    return found

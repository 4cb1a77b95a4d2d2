"""Collectors, enrichers and sinks, found by the name of their file."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from types import ModuleType

from agent.core.stages import CollectorSettings, EnricherSettings, SinkSettings

StageSettings = type[CollectorSettings] | type[EnricherSettings] | type[SinkSettings]

ROOMS = ("collectors", "enrichers", "sinks")


def names(room: str) -> tuple[str, ...]:
    """The stages of a room, sorted: every file of it that holds a class ``Settings``."""
    package = importlib.import_module(room)
    found = [m.name for m in pkgutil.iter_modules(package.__path__) if not m.ispkg]
    return tuple(sorted(name for name in found if _settings(_module(room, name)) is not None))


def settings_class(room: str, name: str) -> StageSettings:
    """The ``Settings`` of one stage. Raises ``LookupError`` with the nearest name there is."""
    known = {m.name for m in pkgutil.iter_modules(importlib.import_module(room).__path__) if not m.ispkg}
    found = _settings(_module(room, name)) if name in known else None
    if found is None:
        near = difflib.get_close_matches(name, names(room), 1)
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(names(room))}"
        raise LookupError(f"no {room[:-1]} is called {name}; {hint}")
    return found


def _module(room: str, name: str) -> ModuleType:
    return importlib.import_module(f"{room}.{name}")


def _settings(module: ModuleType) -> StageSettings | None:
    found = getattr(module, "Settings", None)
    if isinstance(found, type) and issubclass(found, CollectorSettings | EnricherSettings | SinkSettings):
        return found
    return None

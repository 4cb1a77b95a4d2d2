"""What can go wrong, as a tree.

    SekishoError
    ├── ConfigError       a settings file says something that cannot be followed
    │   └── PolicyError   the same for stores, destinations, rules and ownership
    ├── CaptureError      a collector cannot open or go on reading its source
    ├── DecodeError       bytes that are not what their format promises
    ├── EnrichError       a database or register cannot answer
    ├── SinkError         a destination did not take what was sent
    ├── StateError        the state database cannot be read or written
    └── AccountError      octets were lost without an account: always our own fault

Raise where found; catch in the pipeline, only these. Every message says what was expected and how to mend it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class SekishoError(Exception):
    """Anything that sekisho itself reports."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong in a text file: where, what, and how to mend it. ``line`` counts from 1; 0 is the whole file."""

    file: str
    line: int
    message: str
    advice: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.message}" + (f" ({self.advice})" if self.advice else "")


class ConfigError(SekishoError):
    """A settings file cannot be followed. Carries every fault found in one reading."""

    def __init__(self, faults: Sequence[Fault] | Fault) -> None:
        self.faults: tuple[Fault, ...] = (faults,) if isinstance(faults, Fault) else tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))


class PolicyError(ConfigError):
    """A policy, pack, override or ownership file cannot be followed."""


class CaptureError(SekishoError):
    """A collector cannot open its source, or cannot go on."""


class DecodeError(SekishoError):
    """Bytes that are not what their format promises. ``offset``, in bytes from the source's start, stands behind its
    name, so that the message may end in advice: ``a.pcap, byte 24: a record claims …``.
    """

    def __init__(self, message: str, *, source: str = "", offset: int | None = None) -> None:
        self.source, self.offset = source, offset
        at = f"byte {offset}" if offset else ""
        place = ", ".join(filter(None, (source, at)))
        super().__init__(f"{place}: {message}" if place else message)


class EnrichError(SekishoError):
    """A database or register cannot answer."""


class SinkError(SekishoError):
    """A destination did not take what was sent. ``retriable``: trying again later may succeed; ``refused``: but only once
    somebody has changed credentials or rights, so there is no use in trying often.
    """

    def __init__(self, message: str, *, retriable: bool, refused: bool = False) -> None:
        self.retriable, self.refused = retriable, refused
        super().__init__(message)


class StateError(SekishoError):
    """The state database cannot be read or written."""


class TakenOverError(StateError):
    """Another process commits to this state from now on; trying again is of no use."""


class AccountError(SekishoError):
    """Flows or octets vanished between two stages without an account. A defect of ours, never of the input."""

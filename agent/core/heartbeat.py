"""What an agent says of itself every ten seconds: signed JSON, read here as far as a detector needs it.

Fields that a newer agent adds are left out; those that an older one lacks have the value of not knowing.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agent.core.accounts import Amounts
from agent.core.errors import DecodeError

CONTEXT: Final = b"sekisho.agents.v1\0"
"""Stands before a heartbeat where it is signed."""
EVERY_S: Final = 10
LARGEST: Final = 256 * 2**10
_NONE: Final = Amounts()

_Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$")]
_Number = Annotated[int, Field(ge=0, le=2**63 - 1)]
_Word = Annotated[str, Field(max_length=255)]


class _Said(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class LaneSaid(_Said):
    """How far one lane of the run is."""

    next_sequence: _Number = 0
    low_water: _Number = 0
    dropped: tuple[tuple[_Number, _Number], ...] = ()


class ProbeSaid(_Said):
    """What watches the host."""

    tier: _Word = ""
    """Name of the best collector; empty if none runs."""
    running: bool = True
    kept: bool = False
    """It goes on counting in the kernel when this process ends."""
    faults: dict[_Word, Annotated[str, Field(max_length=4096)]] = {}
    """Collector -> why it ended."""


class Beat(_Said):
    """One heartbeat."""

    schema_version: Annotated[int, Field(ge=1)] = 1
    agent_id: _Id
    run_id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    host: _Word = ""
    time_ns: _Number
    """The agent's clock."""
    closing: bool = False
    public_key: Annotated[str, Field(max_length=64)] = ""
    account: dict[str, Any] = {}
    lanes: dict[str, LaneSaid] = {}
    spool: dict[str, Any] = {}
    collectors: tuple[_Word, ...] = ()
    versions: dict[str, str] = {}
    version: _Word = ""
    policy: _Word = ""
    settings: _Word = ""
    """A hash."""
    started_ns: _Number = 0
    """When the run began to watch; 0: not told."""
    probe: ProbeSaid | None = None
    databases: dict[_Word, int] = {}
    """Part of the facts, such as country -> whole days since its source was made."""
    stores: tuple[_Word, ...] = ()
    """Stores that the agent's own policy has on this host."""

    @classmethod
    def read(cls, value: bytes) -> Beat:
        """The heartbeat in a record's value. Raises :class:`DecodeError`."""
        if len(value) > LARGEST:
            raise DecodeError(f"the heartbeat has {len(value)} octets, at most {LARGEST} are read")
        try:
            return cls.model_validate_json(value)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            field = ".".join(map(str, first["loc"])) or "heartbeat"
            raise DecodeError(f"bad heartbeat: {field}: {first['msg']}") from error

    @property
    def key(self) -> str:
        """The public key in hexadecimal; empty if it names none."""
        try:
            raw = base64.b64decode(self.public_key, validate=True)
        except (ValueError, binascii.Error):
            return ""
        return raw.hex() if len(raw) == 32 else ""

    def amounts(self, term: str) -> Amounts:
        """One term of the account, such as ``captured``; the sum of its reasons, such as ``dropped``."""
        return of_account(self.account, term)

    def inherited_left(self) -> int:
        """Records of earlier runs that still wait in the spool; 0 also where an older agent does not tell."""
        left = self.spool.get("inherited_left", 0)
        return left if isinstance(left, int) and left > 0 else 0


@dataclass(frozen=True, slots=True)
class Signed:
    """A heartbeat with its signature."""

    value: bytes
    signature: bytes

    def signed(self) -> bytes:
        """What the signature is made over."""
        return CONTEXT + self.value


def of_account(account: Mapping[str, Any], term: str) -> Amounts:
    """A term of an account as :meth:`agent.core.accounts.Account.as_dict` gives it, over all its reasons."""
    found = _NONE
    for name, value in account.items():
        if (name == term or name.startswith(f"{term} (")) and isinstance(value, Mapping):
            parts = [value.get(key, 0) for key in ("flows", "octets_out", "octets_in")]
            if all(isinstance(part, int) for part in parts):
                found += Amounts(*parts)
    return found

"""Settings of what the program does beside watching one host: spool, tripwire, detector, archiver, republisher, metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from agent.core.clock import SECOND_NS
from agent.policy.model import DurationNs, Octets
from sinks.parquet import Filing


class Spooling(BaseModel):
    """What is kept on the disk until Kafka has it, and how it is sent after an outage."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: Path | None = Field(None, description="None is state_dir/spool; one for each agent")
    most_octets: Octets | None = Field(
        None, description="How much it may take, such as 2 GB; none is 2 GiB or 5 % of the volume"
    )
    policy: Literal["oldest", "newest"] = Field("oldest", description="What goes where that is not enough")
    sync: Literal["always", "seconds", "never"] = Field(
        "seconds", description="When it is forced to the disk: a power cut may cost what came since"
    )
    replay_octets_per_s: Octets = Field(
        8 * 2**20, ge=2**16, description="How quickly a backlog is sent, beside what is new"
    )
    replay_after_s: float = Field(
        10.0, ge=0, description="A backlog begins at random within so long after Kafka is back"
    )


class Tripping(BaseModel):
    """How the host of a store tells people by itself while Kafka is away."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = Field(True, description="false: while Kafka is away nobody is told anything by this host")
    after: DurationNs = Field(
        300 * SECOND_NS, gt=0, description="How long nothing was taken by Kafka, such as 5m, before it tells"
    )
    sinks: tuple[str, ...] | None = Field(
        None, description="Names of `sinks` that are told; none is all that take alerts, but Kafka's"
    )


class Detecting(BaseModel):
    """Settings of the role that reads what all agents sent."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    database: str | None = Field(
        None,
        description="PostgreSQL that holds the state, postgresql://USER@HOST/NAME; none is a file in state_dir",
    )
    lease_s: float = Field(
        30.0, ge=5, le=600, description="A leader that is silent for so long is ended by one that stands by"
    )
    identities: Literal["pin_first", "enrolled"] = Field(
        "pin_first",
        description="Trust the first key of an agent that is new, or only keys that were enrolled",
    )
    gather_rows: int = Field(
        20_000, ge=1, description="Rows that one commit decides at least, where so many wait"
    )
    paths: int = Field(
        1_000_000,
        ge=1_024,
        le=16_000_000,
        description="Networks of stores that are kept apart, about 2 KiB of memory each once seen; what is more loses AS and place",
    )


class Archiving(Filing):
    """Settings of the role that archives what all agents sent."""

    gather_rows: int = Field(
        20_000, ge=1, description="Rows that one commit takes at least, where so many wait"
    )


class Republishing(BaseModel):
    """Settings of the role that writes each flow to topics of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ocsf: bool = Field(False, description="One OCSF Network Activity event for each flow")
    json_lines: bool = Field(False, description="One plain JSON object for each flow")
    community_id: bool = Field(False, description="Add the community ID, as Zeek and Suricata compute it")
    gather_rows: int = Field(
        5_000, ge=1, description="Rows that one commit takes at least, where so many wait"
    )


class Monitored(BaseModel):
    """Settings of the page of metrics."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    listen: str | None = Field(
        None,
        description="HOST:PORT of a page of Prometheus metrics at /metrics, such as 127.0.0.1:9464; none serves none",
    )

    @field_validator("listen")
    @classmethod
    def _is_address(cls, value: str | None) -> str | None:
        host, _, port = (value or "").rpartition(":")
        if value is not None and (not host or not port.isdecimal() or int(port) > 65535):
            raise ValueError(f"{value!r}: expected HOST:PORT, such as 127.0.0.1:9464")
        return value

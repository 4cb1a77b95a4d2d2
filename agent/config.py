"""Settings: one YAML file, then ``SEKISHO_…`` from the environment, then flags; each value remembers where it came from.

``SEKISHO_STATE_DIR=/x`` sets ``state_dir``; two underscores go one level down:
``SEKISHO_COLLECTORS__AF_PACKET__RING_MIB=32``. Values from environment and flags are read as YAML.
"""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import platformdirs
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from agent import plugins
from agent.core.accounts import Accounts
from agent.core.clock import SystemClock, when
from agent.core.errors import ConfigError, Fault
from agent.core.kafka import Connection
from agent.core.stages import CollectorSettings, Context, EnricherSettings, SinkSettings
from agent.policy.document import Document
from agent.policy.faults import faults_of
from agent.policy.model import DurationNs, Policy
from agent.policy.yamlfile import read
from agent.roles import Archiving, Detecting, Monitored, Republishing, Spooling, Tripping

if TYPE_CHECKING:
    from agent.policy.ownership import Ownership

PREFIX = "SEKISHO_"
DEFAULT_ENRICHERS: Mapping[str, Any] = {"asset": {}, "geo": {}, "owner": {}}


def _default_collectors() -> dict[str, dict[str, Any]]:
    return {"af_packet": {}}


class Settings(BaseModel):
    """Everything that is set for one run of sekisho."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    host: str = Field(default_factory=socket.gethostname, description="Name of this host in rows and alerts")
    state_dir: Path = Field(
        default_factory=lambda: default_state_dir(), description="Where state, archive and databases are kept"
    )
    policy: tuple[Path, ...] = Field((), description="Policy files or folders of them")
    overrides: tuple[Path, ...] = Field(
        (), description="Files of what is known better about some networks (YAML or CSV)"
    )
    ownership: tuple[Path, ...] = Field(
        (),
        description="Files of what you know better about who owns networks; they win over the table in sekisho",
    )
    language: Literal["en", "ja"] = Field("en", description="Language of alerts")
    time_zone: str | None = Field(
        None, description="Zone in which people read times, such as Asia/Tokyo; none is the host's own"
    )
    lateness: DurationNs = Field(
        120 * 10**9, description="How far behind the newest row a row may come and still be on time"
    )
    commit_rows: int = Field(
        50_000, ge=1, description="Rows that one commit decides, at most (and what one batch adds)"
    )
    detect: Detecting = Field(Detecting(), description="For `sekisho detect` alone")
    archiver: Archiving = Field(Archiving(), description="For `sekisho archive` alone")
    republish: Republishing = Field(Republishing(), description="For `sekisho republish` alone")
    metrics: Monitored = Monitored()
    archive: bool = Field(True, description="Keep flows as Parquet in state_dir/archive")
    kafka: Connection | None = Field(
        None,
        description="Where `sekisho agent` sends what it sees, and `sekisho detect` reads; none decides on this host",
    )
    spool: Spooling = Spooling()
    tripwire: Tripping = Field(Tripping(), description="For an agent with `kafka` on the host of a store")
    collectors: dict[str, dict[str, Any]] = Field(
        default_factory=_default_collectors, description="Where flows come from"
    )
    enrichers: dict[str, dict[str, Any]] = Field(
        default_factory=lambda: dict(DEFAULT_ENRICHERS), description="What is added to them, in this order"
    )
    sinks: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="Where flows and alerts go; `use` names the kind if the name does not",
    )

    @field_validator("collectors", "enrichers", "sinks", mode="before")
    @classmethod
    def _empty_is_default(cls, value: Any) -> Any:
        """``af_packet:`` with nothing behind it means its defaults."""
        if isinstance(value, dict):
            return {name: {} if inner is None else inner for name, inner in value.items()}
        return value

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                ZoneInfo(value)
            except (ZoneInfoNotFoundError, ValueError, OSError):
                raise ValueError("no such time zone; expected a name such as Asia/Tokyo or UTC") from None
        return value

    @property
    def spool_dir(self) -> Path:
        """Where is kept what Kafka does not have yet."""
        return self.spool.folder or self.state_dir / "spool"

    @property
    def databases_dir(self) -> Path:
        """Where the country and network databases are kept."""
        return self.state_dir / "databases"

    @property
    def zone(self) -> ZoneInfo | None:
        """The zone in which people read times; None is the host's own."""
        return ZoneInfo(self.time_zone) if self.time_zone else None


def is_root() -> bool:
    """Whether this process runs as root."""
    return os.geteuid() == 0


def default_state_dir() -> Path:
    """``/var/lib/sekisho`` for root, else the user's own state folder."""
    if is_root():
        return Path("/var/lib/sekisho")
    return Path(platformdirs.user_state_dir("sekisho"))


def default_config_files() -> tuple[Path, ...]:
    """Where a settings file is looked for; the first that exists is read."""
    return (
        Path("sekisho.yaml"),
        Path(platformdirs.user_config_dir("sekisho")) / "sekisho.yaml",
        Path("/etc/sekisho/sekisho.yaml"),
    )


def agent_id(settings: Settings) -> str:
    """This agent's id: made once, kept in ``state_dir/agent-id``."""
    path = settings.state_dir / "agent-id"
    try:
        known = path.read_text(errors="replace").strip()
        if known.isascii() and known.isalnum():
            return known
    except OSError:
        pass
    settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o750)
    fresh = uuid.uuid4().hex
    path.write_text(fresh + "\n")
    return fresh


def read_policy(settings: Settings, today: date) -> Policy:
    """The policy of the settings. Raises :class:`PolicyError` with every fault."""
    from agent.policy import load as policy_files

    return policy_files.load(settings.policy, overrides=settings.overrides, today=today)


def read_ownership(settings: Settings) -> Ownership:
    """The table of owners with the settings' own files. Dates that lie ahead of this host's clock are refused, whatever
    the time of the data is. Raises :class:`PolicyError` with every fault."""
    from agent.policy.ownership import Ownership

    today = when(SystemClock().now_ns()).date()
    return Ownership.load(own=settings.ownership, today=today)


def bare_context(settings: Settings, accounts: Accounts | None = None) -> Context:
    """A context for a stage that stands alone, outside a run."""
    return Context(
        accounts=accounts or Accounts(),
        state_dir=settings.state_dir,
        host=settings.host,
        language=settings.language,
        zone=settings.time_zone,
        kafka=settings.kafka,
    )


@dataclass(frozen=True)
class Loaded:
    """Settings with their origins: dotted path of a value -> where it was said."""

    settings: Settings
    origins: Mapping[str, str]
    file: Path | None
    stages: Stages


@dataclass(frozen=True)
class Stages:
    """The checked settings of every stage, by instance name."""

    collectors: Mapping[str, CollectorSettings] = field(default_factory=dict)
    enrichers: Mapping[str, EnricherSettings] = field(default_factory=dict)
    sinks: Mapping[str, SinkSettings] = field(default_factory=dict)


def load(
    file: Path | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    flags: Sequence[tuple[str, Any]] = (),
    given: Sequence[tuple[str, Any]] = (),
) -> Loaded:
    """Read the settings. ``flags`` are (dotted path, value as YAML), from ``--set``; ``given`` are (name, value as it is),
    from flags of their own, and win over everything. Raises :class:`ConfigError` with every fault found."""
    environ = os.environ if environ is None else environ
    if file is None:
        named = environ.get(PREFIX + "CONFIG")
        file = Path(named) if named else next(filter(_is_there, default_config_files()), None)
    document = read(file) if file is not None else None
    data: dict[str, Any] = {}
    origins: dict[str, str] = {}
    if document is not None:
        if not isinstance(document.data, dict):
            raise ConfigError(Fault(str(file), 1, "expected settings by name, such as `language: en`"))
        data = _copy(document.data)
        _resolve_paths(data, Path(file).parent if file else Path())
        for path in _leaves(data):
            origins[".".join(path)] = f"{file}:{document.line_of(path)}"
    for path, value, origin in (*_environment(environ), *_flagged(flags), *_given(given)):
        _put(data, path, value, origin)
        for leaf in list(_leaves(value)) or [()] if isinstance(value, dict) else [()]:
            origins[".".join((*path, *leaf))] = origin
    return _checked(data, origins, document, file)


def _checked(
    data: dict[str, Any], origins: dict[str, str], document: Document | None, file: Path | None
) -> Loaded:
    faults: list[Fault] = []
    try:
        settings = Settings.model_validate(data)
    except ValidationError as error:
        raise ConfigError(_placed(faults_of(error, document, Settings), error, origins)) from error
    stages: dict[str, dict[str, Any]] = {}
    for room in plugins.ROOMS:
        stages[room] = {}
        for name, given in getattr(settings, room).items():
            inner = dict(given)
            kind = inner.pop("use", name)
            try:
                stages[room][name] = plugins.settings_class(room, kind).model_validate(inner)
            except LookupError as error:
                faults.append(_fault(document, (room, name), str(error.args[0]), origins))
            except ValidationError as error:
                prefix = (room, name)
                model = plugins.settings_class(room, kind)
                faults.extend(
                    _placed(faults_of(error, document, model, prefix=prefix), error, origins, prefix)
                )
    if faults:
        raise ConfigError(faults)
    return Loaded(settings, origins, file, Stages(**stages))


def _fault(
    document: Document | None, path: tuple[str, ...], message: str, origins: Mapping[str, str]
) -> Fault:
    if document is not None and not _origin(origins, path).startswith((PREFIX, "--")):
        return Fault(document.name, document.line_of(path), message)
    return Fault(_origin(origins, path) or "defaults", 0, message)


def _placed(
    faults: Sequence[Fault], error: ValidationError, origins: Mapping[str, str], prefix: tuple[str, ...] = ()
) -> list[Fault]:
    """Faults of values that came from the environment or a flag name that place instead of the file."""
    out = []
    for fault, detail in zip(faults, error.errors(), strict=False):
        origin = _origin(origins, (*prefix, *(str(p) for p in detail["loc"])))
        if origin.startswith((PREFIX, "--")):
            message = _unprefixed(fault.message, origin, ".".join(str(p) for p in detail["loc"]))
            fault = Fault(origin, 0, message, fault.advice)
        out.append(fault)
    return out


def _unprefixed(message: str, origin: str, name: str) -> str:
    """A message that begins with the setting's name, without it where the origin says it already."""
    said = origin.removeprefix("--set ").removeprefix(PREFIX).removeprefix("--")
    said = said.lower().replace("__", ".").replace("-", "_")
    if said == name or said.startswith(f"{name}.") or said.endswith(f".{name}"):
        return message.removeprefix(f"{name}: ")
    return message


def _origin(origins: Mapping[str, str], path: Sequence[str]) -> str:
    """Where a value was said; of one that is missing, where its neighbours were."""
    for length in range(len(path), 0, -1):
        name = ".".join(path[:length])
        if found := origins.get(name):
            return found
        if found := next((origin for key, origin in origins.items() if key.startswith(name + ".")), ""):
            return found
    return ""


def _is_there(file: Path) -> bool:
    """Whether it is a file; one in a folder that this user may not enter is another user's."""
    try:
        return file.is_file()
    except OSError:
        return False


def _copy(value: Any) -> Any:
    return {str(k): _copy(v) for k, v in value.items()} if isinstance(value, dict) else value


_FILES: Final = ("policy", "overrides", "ownership")
"""Settings that list files."""
_PATHS: Mapping[tuple[str, ...], tuple[str, ...]] = {
    ("kafka", "tls"): ("ca_file", "cert_file", "key_file"),
    ("kafka", "sasl"): ("secret_file",),
    ("spool",): ("folder",),
    ("archiver",): ("directory",),
}


def _resolve_paths(data: dict[str, Any], base: Path) -> None:
    """Paths in a settings file are relative to that file."""
    for key in _FILES:
        value = data.get(key)
        if isinstance(value, str):
            data[key] = value = [value]
        if isinstance(value, list):
            data[key] = [str(base / v) if isinstance(v, str) else v for v in value]
    for part, names in _PATHS.items():
        inner: Any = data
        for name in part:
            inner = inner.get(name) if isinstance(inner, dict) else None
        for name in names if isinstance(inner, dict) else ():
            if isinstance(inner.get(name), str):
                inner[name] = str(base / inner[name])
    if isinstance(data.get("state_dir"), str):
        data["state_dir"] = str(base / data["state_dir"])


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, (*path, str(key)))
    elif path:
        yield path


def _environment(environ: Mapping[str, str]) -> Iterator[tuple[tuple[str, ...], Any, str]]:
    for name, text in sorted(environ.items()):
        if name.startswith(PREFIX) and name not in (PREFIX + "CONFIG", PREFIX + "FAULTS"):
            path = tuple(part.lower() for part in name[len(PREFIX) :].split("__"))
            yield path, _yaml_value(text, name, path), name


def _flagged(flags: Sequence[tuple[str, Any]]) -> Iterator[tuple[tuple[str, ...], Any, str]]:
    for dotted, value in flags:
        path = tuple(dotted.split("."))
        origin = f"--set {dotted}"
        yield path, _yaml_value(value, origin, path) if isinstance(value, str) else value, origin


def _given(given: Sequence[tuple[str, Any]]) -> Iterator[tuple[tuple[str, ...], Any, str]]:
    for name, value in given:
        yield (name,), value, "--" + name.replace("_", "-")


def _yaml_value(text: str, origin: str, path: tuple[str, ...]) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(
            Fault(origin, 0, f"{text!r} cannot be read as a value", "write it as in the settings file")
        ) from None
    if path[0] in _FILES and isinstance(value, str):
        return value.split(os.pathsep)
    return value


def _put(data: dict[str, Any], path: tuple[str, ...], value: Any, origin: str) -> None:
    place = data
    for key in path[:-1]:
        inner = place.get(key)
        if inner is None:
            inner = place[key] = {}
        if not isinstance(inner, dict):
            raise ConfigError(
                Fault(origin, 0, f"{'.'.join(path[:-1])} is a single value; it has nothing below it")
            )
        place = inner
    place[path[-1]] = value

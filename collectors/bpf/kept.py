"""What collectors have in common whose counts stay in the kernel until they are durable: settings, and being told so."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Final

from pydantic import Field

from agent.core.accounts import Amounts
from agent.core.clock import SECOND_NS
from agent.core.errors import CaptureError
from agent.core.log import Log
from agent.core.stages import CollectorSettings, Context
from agent.policy.model import Policy
from collectors.bpf import libbpf
from collectors.bpf.pins import Pins
from collectors.bpf.programs import image
from collectors.bpf.refusal import plain, require_libbpf

NEAR_STORE_NS: Final = SECOND_NS
ELSEWHERE_NS: Final = 10 * SECOND_NS


class KeptSettings(CollectorSettings):
    """Settings of a collector that may leave programs at work in the kernel."""

    tier: ClassVar[str]
    """Name of the collector."""
    rights: ClassVar[str]
    """What it needs to be allowed, in words."""
    kernel: ClassVar[str]
    """What it needs of the kernel, in words."""

    interval: int | None = Field(
        None,
        ge=1,
        le=60,
        description="Seconds between two readings, and so the longest a row is; divides the minute; none is 10, and 1 where rows go to Kafka from a host that may hold a store",
    )
    map_flows: int = Field(
        131_072,
        ge=1024,
        le=4_194_304,
        description="Flows that one reading may hold (200 octets each when used, twice); what has no room is summed in one row",
    )
    pin: bool = Field(
        True, description="Keep counting in the kernel if this program is killed, until it starts again"
    )
    pin_dir: Path = Field(
        Path("/sys/fs/bpf/sekisho"), description="Folder in a BPF file system in which that is kept"
    )
    instance: str = Field(
        "agent", pattern="^[a-z0-9_-]+$", description="Name below pin_dir; each agent of a host needs its own"
    )
    libbpf: Path | None = Field(
        None,
        description="File of libbpf.so.1; none is the one in the package, if it has one, else the system's",
    )

    def interval_ns(self, context: Context) -> int:
        """Between two readings, by the policy of now. A threshold of a store that is passed is told no sooner than the row is read."""
        if self.interval is not None:
            return self.interval * SECOND_NS
        stores = context.policy.stores if context.kafka and context.policy else ()
        near = any(
            known.addresses or known.pods or known.is_on(context.host)
            for known in (store.recognise for store in stores)
        )
        return NEAR_STORE_NS if near else ELSEWHERE_NS

    @property
    def folder(self) -> Path:
        """Where programs and maps are pinned."""
        return self.pin_dir / self.instance

    def kept_on_stop(self) -> bool:
        """Whether an orderly stop leaves programs at work."""
        return False

    def load(self, program: str) -> None:
        """Load a program as it would run, and let it go. Raises :class:`CaptureError` where that cannot be."""
        require_libbpf(self.libbpf, self.tier)
        try:
            libbpf.Object(image(program)).close()
        except OSError as error:
            raise self.plain(error) from error

    def plain(self, error: OSError) -> CaptureError:
        """What a refusal of the kernel means for this collector."""
        return plain(error, tier=self.tier, rights=self.rights, kernel=self.kernel)

    def open_pins(self, held: ExitStack) -> Pins | None:
        """The folder, held until ``held`` is closed; None (and a warning) where nothing can be kept.

        Raises :class:`CaptureError` where another agent holds it.
        """
        if not self.pin:
            return None
        try:
            pins = Pins.open(self.folder, self.tier)
        except OSError as error:
            advice = "another user's agent may have made it (sekisho agent --detach, as that user)"
            Log(part=self.tier).warning(
                "maps_not_pinned",
                reason=str(error) if error.errno is None else f"{self.folder}: {error.strerror}; {advice}",
                cost="what is counted and not read is lost if the agent is killed",
            )
            return None
        held.callback(pins.close)
        return pins

    def without_pins(self) -> str:
        """Why counts would not survive a crash here; empty if they would, or shall not."""
        if self.pin:
            try:
                Pins.open(self.folder, self.tier).close()
            except (OSError, CaptureError) as error:
                return f"counts do not survive a crash of the agent: {error}"
        return ""


class Kept:
    """The part of a collector that is told which rows are durable."""

    name: str
    live = True

    def __init__(self, settings: KeptSettings, context: Context) -> None:
        self._context, self._of_interval = context, settings
        self.interval_ns = settings.interval_ns(context)
        """Between two readings; changes with the policy."""
        self._position = ""
        self._settled = ""
        self.durable = False
        """Whether somebody tells when rows are durable; else they are whoever's who took them."""
        self.overflowed = Amounts()
        """What had no room in the map, in this run."""
        self.pinned = False

    def follow(self, policy: Policy) -> None:
        """See :class:`agent.core.stages.Following`."""
        self._context = replace(self._context, policy=policy)
        self.interval_ns = self._of_interval.interval_ns(self._context)

    def progress(self) -> None:
        """None: there is no end."""
        return

    def resume(self, position: str) -> None:
        """See :class:`agent.core.stages.Keeping`."""
        self._position, self.durable = position, True

    def settled(self, position: str) -> None:
        """See :class:`agent.core.stages.Keeping`."""
        self._settled = position

    def is_settled(self, position: str) -> bool:
        """Whether rows of that position need not be kept any longer."""
        return not self.durable or self._settled == position

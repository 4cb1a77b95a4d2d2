"""How many persons' records a transfer may hold: an interval, never a number, and only where every input is on record.

The most that the octets can hold is ``ceil(B / c_min / r_min / k_min)``, at most the persons of the store; the least is
``floor(b / c_max / r_max / k_max)`` of the largest single stretch ``b``, and only where somebody attests that what leaves
that port is records, for the same record may have been sent twice. ``c``: octets on the wire per octet of record; ``r``:
octets per record; ``k``: records per person. Arithmetic is exact; what the register writes as a decimal counts as one.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from agent.core.finding import Estimate, EstimateState
from agent.policy.registers import Store

NEVER: Final = 2**62
"""An amount that nothing passes."""
Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a register says of a store; None is not on record."""

    subjects: int | None = None
    record_octets: Range | None = None
    records_per_subject: Range | None = None
    wire_per_octet: Range | None = None
    """Octets on the wire per octet of record."""
    attested: bool = False
    """Somebody states that what leaves on these ports is records."""
    ports: tuple[int, ...] = ()

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of what an estimate needs and the register lacks; a least of 0 says nothing."""
        ranges = ("record_octets", "records_per_subject", "wire_per_octet")
        lacking = [name for name in ranges if (got := getattr(self, name)) is None or got[0] <= 0]
        return tuple(["subjects"] * (self.subjects is None) + lacking)

    def octets_per_subject(self, end: int) -> Fraction:
        """Octets on the wire for one person at least (0) or at most (1)."""
        product = Fraction(1)
        for pair in (self.record_octets, self.records_per_subject, self.wire_per_octet):
            assert pair is not None
            product *= Fraction(str(pair[end]))
        return product


NOTHING: Final = Inputs()


def inputs_of(store: Store | None) -> Inputs:
    """The register's entry as inputs."""
    if store is None:
        return NOTHING
    return Inputs(
        store.subjects,
        store.record_octets,
        store.records_per_subject,
        store.compression,
        attested=bool(store.records_on_ports and store.records_by),
        ports=store.records_on_ports,
    )


def over_octets(inputs: Inputs, over: int, floor: int) -> int:
    """The content octets above which more than ``over`` persons are possible; the rule's floor where there is no
    estimate, and :data:`NEVER` where the store has no more persons than that."""
    if inputs.missing:
        return floor
    assert inputs.subjects is not None
    if inputs.subjects <= over:
        return NEVER
    return min(int(over * inputs.octets_per_subject(0)), NEVER)


def estimate(inputs: Inputs, over: int, octets: int, largest: int) -> Estimate:
    """What ``octets`` may hold, of which ``largest`` left in one stretch, on attested ports if the register has any;
    ``over``: the rule's number of persons."""
    told = {
        "over": over,
        "octets": octets,
        "largest_octets": largest,
        "subjects": inputs.subjects,
        "record_octets": inputs.record_octets,
        "records_per_subject": inputs.records_per_subject,
        "wire_per_octet": inputs.wire_per_octet,
        "attested": inputs.attested,
    }
    if inputs.missing:
        return Estimate.model_validate({**told, "missing": inputs.missing})
    assert inputs.subjects is not None
    most = min(inputs.subjects, -(-Fraction(octets) // inputs.octets_per_subject(0)))
    least = 0
    if inputs.attested:
        least = min(inputs.subjects, int(Fraction(largest) // inputs.octets_per_subject(1)))
    state = EstimateState.BELOW
    if most > over:
        state = EstimateState.LIKELY if least > over else EstimateState.POSSIBLE
    return Estimate.model_validate({**told, "state": state, "lowest": least, "highest": int(most)})

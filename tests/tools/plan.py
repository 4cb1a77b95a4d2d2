"""Traffic that is known before it is made: every row has a mark of its own, so that each that is missing or doubled shows.

Some of the rows are of a store and go to four networks. Of the amounts to them the second is one octet over the rule's
limit in all, and the third is the limit itself: one row missing and the second is not found, one doubled and the third is.
"""

from __future__ import annotations

import functools
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agent.core.clock import MINUTE_NS, SECOND_NS
from agent.core.flow import BatchHeader, FlowBatch
from tests.tools.rows import batch_of

HOST: Final = "db-1"
STORE_ADDRESS, OTHER_ADDRESS = "192.0.2.1", "192.0.2.9"
LIMIT: Final = 10**9
TOTALS: Final = (5 * LIMIT, LIMIT + 1, LIMIT, 3_000_000)
"""Content octets of the store's rows to each network."""
FIRST_ASN: Final = 64500
HEADERS: Final = 1000
"""Octets of a row beside its content."""
BUCKET_NS: Final = 15 * MINUTE_NS
"""Of the rule's window; all rows of a plan fall into one."""
SPAN_NS: Final = 20 * SECOND_NS
POLICY: Final = f"""version: 1
tenant: example
stores:
  - id: patients
    categories: [personal_health]
    recognise: {{addresses: [{STORE_ADDRESS}]}}
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """``steps`` times ``rows``; rows ``noisy`` of that step compress to nothing less."""

    steps: int = 60
    rows: int = 50
    base_ns: int = 0
    noisy: int = -1

    @classmethod
    def of_now(cls, steps: int = 60, rows: int = 50, **rest: int) -> Plan:
        """One whose rows end in the last seconds, none in another bucket than the others."""
        base_ns = time.time_ns() - SPAN_NS - 5 * SECOND_NS
        if base_ns // BUCKET_NS != (base_ns + SPAN_NS) // BUCKET_NS:
            base_ns -= SPAN_NS
        return cls(steps, rows, base_ns, **rest)

    @property
    def bucket_ns(self) -> int:
        """Where the bucket of all rows begins."""
        return self.base_ns // BUCKET_NS * BUCKET_NS

    @property
    def marks(self) -> int:
        """How many rows there are in all; they are marked from 1."""
        return self.steps * self.rows

    def octets_out(self) -> NDArray[np.int64]:
        """Of every row, in the order of marks, headers included."""
        return self.content() + HEADERS

    def content(self, first: int = 0, last: int | None = None) -> NDArray[np.int64]:
        """Content octets of every row of some steps."""
        last = self.steps if last is None else last
        place = np.arange(self.rows)
        asn = place % len(TOTALS)
        of_store = self.of_store()
        per_step = np.zeros(self.rows, np.int64)
        rest = np.zeros(self.rows, np.int64)
        for n, total in enumerate(TOTALS):
            mine = np.flatnonzero(of_store & (asn == n))
            per_step[mine], rest[mine[0]] = divmod(total, len(mine) * self.steps)
        content = np.tile(per_step, last - first)
        if first == 0 and last > 0:
            content[: self.rows] += rest
        return content

    def of_store(self) -> NDArray[np.bool_]:
        """Which rows of a step are of the store: four of five."""
        return np.arange(self.rows) % 5 != 0

    def batch(self, step: int, header: BatchHeader | None = None) -> FlowBatch:
        """The rows of a step."""
        marks = step * self.rows + np.arange(self.rows, dtype=np.int64) + 1
        content = self.content(step, step + 1)
        end_ns = self.base_ns + marks * SPAN_NS // (self.marks + 1)
        changed: dict[str, Any] = {
            "octets_in": marks, "octets_out": content + HEADERS, "content_octets_out": content,
            "start_ns": end_ns - 1000, "end_ns": end_ns, "remote_port": (marks % 50_000 + 1).astype(np.int32),
        }  # fmt: skip
        if step == self.noisy:
            chance = np.random.default_rng(5)
            ends = chance.integers(0, 2**64, (self.rows, 2), np.uint64)
            ends[:, 0] = (ends[:, 0] >> np.uint64(32)) | np.uint64(0x2001_0DB8 << 32)
            changed["remote_address"] = ends
        return _rows(self.rows).with_columns(**changed).under(header or BatchHeader(host=HOST))

    def write(self, path: Path) -> None:
        """Into a file."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> Plan:
        """From that file."""
        return cls(**json.loads(path.read_text()))


@functools.cache
def _rows(count: int) -> FlowBatch:
    plan = Plan(1, count)
    return batch_of(
        [
            {
                "local_address": STORE_ADDRESS if of_store else OTHER_ADDRESS,
                "remote_asn": FIRST_ASN + place % len(TOTALS),
                "remote_as_org": f"Example Networks {place % len(TOTALS)}",
                "initiator": "local", "process": "rclone", "vantage": "paced",
            }
            for place, of_store in enumerate(plan.of_store().tolist())
        ]
    )  # fmt: skip

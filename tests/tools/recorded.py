"""Messages as agents of other versions make them, recorded once: ``python -m tests.tools.recorded`` makes them anew.

    v1.bin           this version's
    newer.bin        one of a newer agent: a column, a field of the header and a schema version that nobody here knows
    older.bin        one of an older agent: without columns that were added since, without the header's optional fields
    unreadable.bin   one of a newer agent whose columns changed their type

Each is packed as in the spool, signed by the key of 32 octets 0, 1, 2, … A program of any later version must read the
first three: they are never made anew for a change of the program, only added to.
"""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent.core.message import CONTEXT, Message
from agent.sending.identity import Identity
from tests.tools.fleet import FakeAgent, theft
from tests.tools.places import ROOT

FOLDER: Final = ROOT / "tests/data/messages"
KEY: Final = Identity(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
AGENT, RUN = "db-1", "0123456789abcdef" * 2
END_NS: Final = 1_790_000_000 * 10**9
OCTETS: Final = 10**6
ROWS: Final = 3
ADDED_LATER: Final = ("remote_asn", "process", "vantage", "basis", "tcp_flags")
"""Optional columns that an older agent does not send."""
NAMES: Final = ("v1", "newer", "older", "unreadable")


def made() -> dict[str, Message]:
    """All of them, from the program of now."""
    agent = FakeAgent(AGENT, key=KEY, run=RUN)
    v1 = agent.message(theft(END_NS, OCTETS, ROWS), sequence=0)
    table = pa.ipc.open_stream(v1.value).read_all()
    newer = table.append_column("remote_mood", pa.array(["calm"] * ROWS)).append_column(
        "round_trip_ns", pa.array(np.arange(ROWS, dtype=np.uint64))
    )
    older = table.drop_columns([name for name in ADDED_LATER if name in table.column_names])
    at = table.column_names.index("octets_out")
    unreadable = table.set_column(at, "octets_out", pa.array(["many"] * ROWS))
    about = json.loads(v1.header)
    few = {
        k: v
        for k, v in about.items()
        if k not in ("account", "collector", "clock_offset_ns", "host", "dropped")
    }
    return {
        "v1": v1,
        "newer": _signed(newer, {**about, "schema_version": 2, "sequence": 1, "quantum": {"spin": [1, 2]}}),
        "older": _signed(older, {**few, "sequence": 2}),
        "unreadable": _signed(unreadable, {**about, "schema_version": 2, "sequence": 3}),
    }


def _signed(table: pa.Table, about: dict[str, Any]) -> Message:
    out = io.BytesIO()
    with pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table)
    value = out.getvalue()
    header = json.dumps({**about, "digest": hashlib.sha256(value).hexdigest()}, sort_keys=True).encode()
    return Message(header, KEY.sign(CONTEXT + header), value)


def recorded(name: str) -> Message:
    """One of them as it was recorded."""
    return Message.unpack((FOLDER / f"{name}.bin").read_bytes())


def main(folder: Path = FOLDER) -> None:
    """Write those that are missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, message in made().items():
        path = folder / f"{name}.bin"
        if not path.exists():
            path.write_bytes(message.pack())


if __name__ == "__main__":
    main()

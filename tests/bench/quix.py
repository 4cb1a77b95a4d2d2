"""Quix Streams as a peer of the fleet bench: a JSON object for each row, a five-minute window of rows of stores.

PYTHON tests/bench/quix.py SERVER TOPIC RECORDS       # an interpreter that has quixstreams; imports nothing of ours
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import uuid


def main(server: str, topic: str, records: int) -> None:
    """Read so many records; one line of JSON with the CPU that took."""
    from quixstreams import Application, __version__

    held = {"rows": 0, "ledger": 0}

    def is_of_store(row: dict[str, object]) -> bool:
        held["rows"] += 1
        return row.get("store") is not None

    def octets(row: dict[str, int]) -> int:
        held["ledger"] += row["content_octets_out"]
        return row["content_octets_out"]

    with tempfile.TemporaryDirectory() as folder:
        app = Application(
            broker_address=server,
            consumer_group=f"simulated-{uuid.uuid4().hex}",
            auto_offset_reset="earliest",
            state_dir=folder,
            loglevel="ERROR",
        )
        frame = app.dataframe(app.topic(topic, value_deserializer="json"))
        frame = frame.filter(is_of_store).apply(octets)
        frame.tumbling_window(300_000, grace_ms=3_600_000).sum().current()
        start_s, wall_s = time.process_time(), time.monotonic()
        app.run(count=records, timeout=10.0)
        taken = {
            "cpu_s": time.process_time() - start_s,
            "wall_s": time.monotonic() - wall_s,
            "start_s": start_s,
        }
    print("RESULT " + json.dumps({**taken, **held, "version": __version__}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))

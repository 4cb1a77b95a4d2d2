"""Apache Kafka for a trial: one broker on loopback that runs on until it is told to end, with sekisho's topics.

    make kafka-up                     # or: python -m tests.tools.trial_kafka up [--port 9092] [--folder DIR]
    make kafka-down                   # stops it and removes its data

Needs what tests/tools/brokers.py needs. Nobody but this machine reaches it, and nothing is encrypted.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.tools.brokers import VERSION, Cluster, fetched
from tests.tools.places import ROOT

FOLDER: Final = ROOT / ".cache" / "trial-kafka"
PORT: Final = 9092
_END_S: Final = 30.0


def up(folder: Path, port: int) -> str:
    """Start it, unless it runs, and make the topics; what to tell the user. Raises ``RuntimeError``."""
    address = f"127.0.0.1:{port}"
    if running(folder) is not None:
        raise RuntimeError(
            f"a trial's Kafka runs already, its files lie in {folder}; make kafka-down ends it"
        )
    if _is_taken(port):
        raise RuntimeError(f"{address} is taken; choose another port: make kafka-up KAFKA_PORT=19092")
    fetched()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    broker = Cluster(folder / "kafka", port=port).__enter__().brokers[0]
    assert broker.process is not None
    _pid(folder).write_text(str(broker.process.pid))
    made = subprocess.run(
        [sys.executable, "-m", "agent.cli", "kafka", "topics", "create", "--partitions", "4"],
        env=os.environ | {"SEKISHO_KAFKA__SERVERS": address},
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        down(folder)
        raise RuntimeError(f"the topics could not be made: {made.stdout}{made.stderr}")
    return f"Apache Kafka {VERSION} listens on {address}, topics are made; use it: export SEKISHO_KAFKA__SERVERS={address}"


def down(folder: Path) -> str:
    """Stop it and remove its data; what to tell the user. Raises ``RuntimeError`` where it does not end."""
    pid = running(folder)
    if pid is not None:
        os.kill(pid, signal.SIGTERM)
        end = time.monotonic() + _END_S
        while running(folder) is not None:
            if time.monotonic() > end:
                raise RuntimeError(f"process {pid} has not ended after {_END_S:.0f} s; kill -9 {pid} ends it")
            time.sleep(0.1)
    shutil.rmtree(folder, ignore_errors=True)
    return "no trial's Kafka was running" if pid is None else "stopped; its data is removed"


def running(folder: Path) -> int | None:
    """The broker's process; None where there is none. A number that another program has by now is not taken for it."""
    try:
        pid = int(_pid(folder).read_text())
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return None
    return pid if str(folder / "kafka").encode() in line else None


def _pid(folder: Path) -> Path:
    return folder / "pid"


def _is_taken(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def main(arguments: Sequence[str]) -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(prog="trial_kafka", description="Apache Kafka on loopback, for a trial.")
    parser.add_argument("what", choices=("up", "down"))
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    given = parser.parse_args(arguments)
    folder = given.folder.absolute()
    try:
        print(up(folder, given.port) if given.what == "up" else down(folder))
    except RuntimeError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(sys.argv[1:])

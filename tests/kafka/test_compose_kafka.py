"""The environment that deploy/compose gives to Apache Kafka's image, read by the program that reads it there."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import yaml

from tests.tools.brokers import fetched
from tests.tools.places import ROOT

KAFKA = yaml.safe_load((ROOT / "deploy" / "compose" / "compose.yaml").read_text())["services"]["kafka"]
LOG_DIRS = "KAFKA_LOG_DIRS"
CLUSTER = "5L6g3nShT-eMCtK--X86sw"
"""The image's own, where none is given."""


def test_kafka_takes_every_setting_of_the_file(tmp_path: Path) -> None:
    """Its KafkaDockerWrapper makes settings of all names, formats the storage with them, and it lies in the volume."""
    given = KAFKA["environment"]
    assert f"kafka:{given[LOG_DIRS]}" in KAFKA["volumes"]
    folders = {name: tmp_path / name for name in ("default", "mounted", "final", "data")}
    for folder in folders.values():
        folder.mkdir()
    for name in ("server.properties", "log4j2.yaml", "tools-log4j2.yaml"):
        (folders["default"] / name).touch()
    configs = [w for n in ("default", "mounted", "final") for w in (f"--{n}-configs-dir", str(folders[n]))]
    log4j = tmp_path / "log4j2.properties"
    log4j.write_text("rootLogger.level = off\n")
    java = ["java", f"-Dlog4j2.configurationFile={log4j}", "-cp", f"{fetched()}/*"]
    done = subprocess.run(
        [*java, "kafka.docker.KafkaDockerWrapper", "setup", *configs],
        env=os.environ | given | {LOG_DIRS: str(folders["data"]), "CLUSTER_ID": CLUSTER},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    text = (folders["final"] / "server.properties").read_text()
    found = dict(line.split("=", 1) for line in text.splitlines() if line)
    assert found == {
        name.removeprefix("KAFKA_").lower().replace("_", "."): value for name, value in given.items()
    } | {"log.dirs": str(folders["data"])}
    assert f"cluster.id={CLUSTER}" in (folders["data"] / "meta.properties").read_text()

"""The stream processors that people would use instead, in places of their own: they need other versions than ours.

    python -m tests.bench.streaming       # fetches both by name into .cache/peers (0.6 GB); the fleet bench then finds them

``TESTS_QUIX`` and ``TESTS_SPARK`` name interpreters that have them already.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.tools import maven
from tests.tools.places import ROOT

_CACHE: Final = (ROOT / ".cache").resolve() / "peers"
_SPARK: Final = "4.0.0"
_CONNECTOR: Final = (
    ("org.apache.spark", "spark-sql-kafka-0-10_2.13", _SPARK),
    ("org.apache.spark", "spark-token-provider-kafka-0-10_2.13", _SPARK),
    ("org.apache.kafka", "kafka-clients", "3.9.0"),
    ("org.apache.commons", "commons-pool2", "2.12.0"),
)
"""Spark's source for Kafka and what pyspark has not of its needs, of the versions that Spark names."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One of them, where it can be run."""

    name: str
    package: str
    version: str
    jars: Sequence[maven.Artifact] = ()

    @property
    def python(self) -> Path | None:
        """The interpreter that has it; none if it is not at hand."""
        given = os.environ.get(f"TESTS_{self.name.upper()}")
        if given:
            return Path(given)
        return self._own if (self._place / f".ready-{self.version}").exists() else None

    @property
    def command(self) -> list[str]:
        """How it is started; server, topic and number of records come after it."""
        assert self.python is not None
        script = str(ROOT / f"tests/bench/{self.name}.py")
        return [str(self.python), script, *([str(self._fetched())] if self.jars else [])]

    def set_up(self) -> None:
        """Fetch it by name, once. Raises ``RuntimeError`` or ``CalledProcessError`` with what could not be done."""
        if self.python is None:
            wanted = f"{self.package}=={self.version}"
            subprocess.run([sys.executable, "-m", "venv", str(self._place)], check=True)
            install = [str(self._own), "-m", "pip", "install", "-q", "--disable-pip-version-check", wanted]
            subprocess.run(install, check=True)
            (self._place / f".ready-{self.version}").touch()
        if self.jars:
            self._fetched()

    def _fetched(self) -> Path:
        # Alone: its list of needs names repositories beside Maven Central, and Maven would ask them.
        return maven.fetched(self.jars, _CACHE / f"{self.name}-jars-{self.version}", alone=True)

    @property
    def _place(self) -> Path:
        return _CACHE / self.name

    @property
    def _own(self) -> Path:
        return self._place / "bin/python"


QUIX: Final = Peer("quix", "quixstreams", "3.28.1")
SPARK: Final = Peer("spark", "pyspark", _SPARK, _CONNECTOR)


def main() -> None:
    """See the module's text."""
    for peer in (QUIX, SPARK):
        peer.set_up()
        print(f"{peer.package}: {peer.python}")


if __name__ == "__main__":
    main()

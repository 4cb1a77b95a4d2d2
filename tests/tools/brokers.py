"""Apache Kafka on loopback, as it is: fetched by name from Maven Central, in KRaft mode, one broker or several.

    python -m tests.tools.brokers up [--brokers 3] [--folder DIR]    # runs until Ctrl-C; prints the addresses
    python -m tests.tools.brokers fetch                              # only the download

Needs Java 17 or newer and Maven (Debian: default-jre-headless, maven). The broker's files lie in a cache folder:
``TESTS_KAFKA`` or ``.cache/kafka`` of the checkout.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.tools import maven
from tests.tools.netns import Namespace
from tests.tools.places import ROOT

VERSION: Final = "4.1.1"
_LOG4J: Final = "2.25.2"
_ARTIFACTS: Final = (
    ("org.apache.kafka", "kafka_2.13", VERSION),
    ("org.apache.logging.log4j", "log4j-core", _LOG4J),
    ("org.apache.logging.log4j", "log4j-slf4j-impl", _LOG4J),
)
_START_S: Final = 60.0
_LOGGING: Final = """rootLogger.level = warn
rootLogger.appenderRefs = stdout
rootLogger.appenderRef.stdout.ref = STDOUT
appender.stdout.type = Console
appender.stdout.name = STDOUT
appender.stdout.layout.type = PatternLayout
appender.stdout.layout.pattern = %d %p %m (%c)%n
"""


def fetched() -> Path:
    """The folder with Kafka's jars, fetched once. Raises ``RuntimeError`` with what is missing."""
    cache = Path(os.environ.get("TESTS_KAFKA", ROOT / ".cache" / "kafka"))
    return maven.fetched(_ARTIFACTS, cache / VERSION)


class Broker:
    """One broker, which is also a controller."""

    def __init__(self, cluster: Cluster, node: int, port: int, controller_port: int) -> None:
        self.cluster, self.node, self.port, self.controller_port = cluster, node, port, controller_port
        self.folder = cluster.folder / f"broker{node}"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Where clients reach it."""
        return f"{self.cluster.address}:{self.port}"

    def prepare(self, settings: Mapping[str, str]) -> None:
        """Write its settings and format its folder."""
        self.folder.mkdir(parents=True)
        (self.folder / "log4j2.properties").write_text(_LOGGING)
        (self.folder / "server.properties").write_text(
            "".join(f"{name}={value}\n" for name, value in settings.items())
        )
        done = subprocess.run(
            [
                *self._java("-Xmx128m"),
                "kafka.tools.StorageTool",
                "format",
                "--cluster-id",
                self.cluster.id,
                "--config",
                str(self.folder / "server.properties"),
                *(word for user in self.cluster.scram for word in ("--add-scram", user)),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"broker {self.node} could not be prepared: {done.stdout}{done.stderr}")

    def start(self) -> None:
        """Start it; does not wait."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *self._java(f"-Xmx{self.cluster.heap_mib}m"),
                    "kafka.Kafka",
                    str(self.folder / "server.properties"),
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self) -> None:
        """Wait until it answers. Raises ``RuntimeError`` with the end of its log where it does not."""
        end = time.monotonic() + _START_S
        while time.monotonic() < end:
            if self._answers():
                return
            if self.process is None or self.process.poll() is not None:
                break
            time.sleep(0.1)
        raise RuntimeError(f"broker {self.node} did not start:\n{self.log()[-3000:]}")

    def _answers(self) -> bool:
        def there() -> bool:
            with contextlib.suppress(OSError), socket.create_connection((self.cluster.address, self.port), 1):
                return True
            return False

        return there() if self.cluster.space is None else self.cluster.space.call(there)

    def log(self) -> str:
        """What it has said."""
        return (self.folder / "log").read_text(errors="replace")

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal; after one that ends it, wait for the end."""
        if self.process is None:
            return
        self.process.send_signal(how)
        if how in (signal.SIGKILL, signal.SIGTERM):
            try:
                self.process.wait(_START_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None

    def _java(self, heap: str) -> list[str]:
        libraries = fetched()
        log4j = self.folder / "log4j2.properties"
        options = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", f"-Dlog4j2.configurationFile={log4j}"]
        space = self.cluster.space
        enter = [] if space is None else ["nsenter", f"--net=/run/netns/{space.name}"]
        return [*enter, "java", heap, *options, "-cp", f"{libraries}/*"]


class Cluster:
    """Brokers that form one cluster. Use as a context manager; everything is stopped and removed at its end.

    ``security`` are further broker settings with the client listener named ``CLIENT``, such as its protocol map; the
    default is plain text. ``scram`` are users for the storage tool, ``SCRAM-SHA-512=[name=…,password=…]``. ``space`` is a
    network namespace in which they run, reached by ``address`` there. ``port`` is the first broker's; none is any that is free.
    """

    def __init__(
        self,
        folder: Path,
        brokers: int = 1,
        *,
        heap_mib: int = 384,
        settings: Mapping[str, str] | None = None,
        protocol: str = "PLAINTEXT",
        scram: Sequence[str] = (),
        space: Namespace | None = None,
        address: str = "127.0.0.1",
        port: int | None = None,
    ) -> None:
        self.folder, self.heap_mib, self.scram = folder, heap_mib, tuple(scram)
        self.space, self.address = space, address
        # The first octet is 0, so that no id begins with a hyphen, which the format tool takes for an option.
        self.id = base64.urlsafe_b64encode(b"\0" + uuid.uuid4().bytes[1:]).decode().rstrip("=")
        ports = _free_ports(2 * brokers)
        ports[0] = port or ports[0]
        self.brokers = [Broker(self, n + 1, ports[2 * n], ports[2 * n + 1]) for n in range(brokers)]
        self._settings = dict(settings or {})
        self._protocol = protocol

    @property
    def bootstrap(self) -> list[str]:
        """Every broker's address."""
        return [broker.address for broker in self.brokers]

    def __enter__(self) -> Cluster:
        voters = ",".join(f"{b.node}@127.0.0.1:{b.controller_port}" for b in self.brokers)
        for broker in self.brokers:
            broker.prepare({**self._common(voters, broker), **self._settings})
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        """Start every broker that does not run, and wait for all."""
        for broker in self.brokers:
            if broker.process is None:
                broker.start()
        for broker in self.brokers:
            broker.wait()

    def stop(self) -> None:
        """Stop every broker: asked first, then killed."""
        for broker in self.brokers:
            if broker.process is not None:
                broker.process.send_signal(signal.SIGCONT)
                broker.process.send_signal(signal.SIGTERM)
        for broker in self.brokers:
            broker.kill(signal.SIGTERM)

    def _common(self, voters: str, broker: Broker) -> dict[str, str]:
        copies = str(min(3, len(self.brokers)))
        return {
            "process.roles": "broker,controller",
            "node.id": str(broker.node),
            "controller.quorum.voters": voters,
            "listeners": f"CLIENT://{broker.address},CONTROLLER://127.0.0.1:{broker.controller_port}",
            "advertised.listeners": f"CLIENT://{broker.address}",
            "listener.security.protocol.map": f"CLIENT:{self._protocol},CONTROLLER:PLAINTEXT,INSIDE:PLAINTEXT",
            "inter.broker.listener.name": "CLIENT",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": str(broker.folder / "data"),
            "default.replication.factor": copies,
            "offsets.topic.replication.factor": copies,
            "transaction.state.log.replication.factor": copies,
            "transaction.state.log.min.isr": "1",
            "min.insync.replicas": "2" if len(self.brokers) > 2 else "1",
            "group.initial.rebalance.delay.ms": "0",
            "auto.create.topics.enable": "false",
            "controlled.shutdown.enable": "false",
        }


@contextlib.contextmanager
def cluster(brokers: int = 1) -> Iterator[Cluster]:
    """A cluster in a folder of its own."""
    with Cluster(Path(tempfile.mkdtemp(prefix="kafka-")), brokers) as made:
        yield made


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def main(arguments: Sequence[str]) -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(
        prog="brokers", description="Apache Kafka on loopback, for trials and tests."
    )
    parser.add_argument("what", choices=("up", "fetch"))
    parser.add_argument("--brokers", type=int, default=1, choices=(1, 3))
    given = parser.parse_args(arguments)
    print(f"Apache Kafka {VERSION}: {fetched()}", flush=True)
    if given.what == "fetch":
        return
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with cluster(given.brokers) as running:
        print(f"ready: {','.join(running.bootstrap)} (Ctrl-C stops it and removes its data)", flush=True)
        stop.wait()


if __name__ == "__main__":
    main(sys.argv[1:])

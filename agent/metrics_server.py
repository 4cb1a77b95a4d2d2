"""The page of metrics: Prometheus text and OpenMetrics over HTTP.

Whatever happens here, the role goes on: the server has threads of its own, few of them, gives up on slow readers, and reads
counters that others keep.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AddressFamily, getaddrinfo
from typing import Any, Final, Self

from agent.core.log import Log
from agent.metrics import METRICS, Reading

MOST_READERS: Final = 4
"""At a time; one more is answered 503."""
READER_S: Final = 3.0
"""How long a reader may keep silent."""


@dataclass(eq=False)
class _Collected:
    """A reading as prometheus_client wants it; implements its ``Collector``."""

    read: Callable[[], Reading]

    def collect(self) -> Iterator[Any]:
        """Every metric of the reading."""
        from prometheus_client.core import (
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
        )

        reading = self.read()
        for metric in METRICS:
            if metric.name in reading.histograms:
                buckets, total = reading.histograms[metric.name].read()
                yield HistogramMetricFamily(metric.name, metric.meaning, buckets=buckets, sum_value=total)
            elif metric.name in reading.values:
                kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
                family = kind(metric.name, metric.meaning, labels=metric.labels)
                for labels, value in reading.values[metric.name].items():
                    family.add_metric(labels, value)
                yield family


class Served:
    """Serves ``/metrics`` until it is closed. Never raises: an address that is taken is logged, and nothing is served."""

    def __init__(self, listen: str, read: Callable[[], Reading]) -> None:
        self.address = ""
        """Where it listens; empty where it does not."""
        self._server: _Server | None = None
        log = Log(part="metrics")
        try:
            from prometheus_client import CollectorRegistry, ProcessCollector

            registry = CollectorRegistry(auto_describe=False)
            registry.register(_Collected(read))
            ProcessCollector(registry=registry)
            self._server = _Server(*address_of(listen), registry)
        except (OSError, ValueError, ImportError) as error:
            log.warning("metrics_not_served", listen=listen, reason=str(error), setting="metrics.listen")
            return
        host, port = self._server.server_address[:2]
        self.address = f"[{host!s}]:{port}" if ":" in str(host) else f"{host!s}:{port}"
        threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()
        log.info("metrics_served", address=self.address)

    def close(self) -> None:
        """Serve no more."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


def address_of(listen: str) -> tuple[AddressFamily, tuple[str, int]]:
    """Family and address of ``HOST:PORT``. Raises ``ValueError`` and ``OSError``."""
    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"{listen!r}: expected HOST:PORT, such as 127.0.0.1:9464")
    family, *_, where = getaddrinfo(host.strip("[]"), int(port), type=1)[0]
    return family, (str(where[0]), int(where[1]))


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 16

    def __init__(self, family: AddressFamily, address: tuple[str, int], registry: Any) -> None:
        self.address_family = family
        self.registry = registry
        self._places = threading.BoundedSemaphore(MOST_READERS)
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """In a thread of its own, if there is one left."""
        if not self._places.acquire(blocking=False):
            try:
                request.settimeout(0.1)
                request.sendall(b"HTTP/1.0 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
            except OSError:
                pass
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """As the base; gives the place back."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A reader that goes away, or sends nonsense, is no event."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = READER_S
    server_version = "sekisho"
    sys_version = ""

    def do_GET(self) -> None:
        """The page of metrics."""
        from prometheus_client.exposition import choose_encoder

        if self.path.split("?")[0] not in ("/metrics", "/"):
            self.send_error(HTTPStatus.NOT_FOUND, "metrics are at /metrics")
            return
        try:
            encode, kind = choose_encoder(self.headers.get("Accept", ""))
            page = encode(self.server.registry)
        except Exception:  # noqa: BLE001  this thread's outermost edge: the role must go on
            Log(part="metrics").exception("metrics_not_read")
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR, "see the log")
            return
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *_args: object) -> None:  # the base's name is "format", which is a builtin
        """Nothing per request."""

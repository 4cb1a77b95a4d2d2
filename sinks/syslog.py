"""Notices to syslog (RFC 5424): to this host's own log, or to a collector over UDP, TCP or TLS.

Over TCP and TLS messages are framed by octet counting (RFC 6587, RFC 5425). Syslog acknowledges nothing: over UDP and
to the local log a message counts as delivered when it was handed over, over TCP and TLS when the connection took it and
was closed in order.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import ssl
from datetime import tzinfo
from pathlib import Path
from typing import Final, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import Field, model_validator

from agent.core.clock import iso
from agent.core.errors import SinkError
from agent.core.finding import Notice, Severity
from agent.core.flow import FlowBatch
from agent.core.stages import Context, SinkSettings
from agent.words import Language, render

FACILITIES: Final = {
    "auth": 4,
    "daemon": 3,
    "user": 1,
    "authpriv": 10,
    **{f"local{n}": 16 + n for n in range(8)},
}
_LEVELS: Final = {
    Severity.INFORMATIONAL: 6,
    Severity.LOW: 5,
    Severity.MEDIUM: 4,
    Severity.HIGH: 3,
    Severity.CRITICAL: 2,
}
"""RFC 5424, table 2: informational, notice, warning, error, critical."""
LARGEST_DATAGRAM: Final = 2048
"""RFC 5426, section 3.2: what every receiver should take."""
LARGEST: Final = 64 * 2**10
_ID: Final = "sekisho@32473"
"""Structured data. 32473 is the enterprise number kept for examples (RFC 5612); sekisho has none of its own."""
_NAME: Final = re.compile(r"[^!-~]")
_END_S: Final = 2.0
_PORTS: Final = {"udp": 514, "tcp": 601, "tls": 6514}


class Settings(SinkSettings):
    """Where notices go, and how they look there."""

    transport: Literal["local", "udp", "tcp", "tls"] = Field(
        "local", description="This host's own log, or a collector at `address`"
    )
    address: str | None = Field(
        None, description="HOST or HOST:PORT; ports are 514 (udp), 601 (tcp), 6514 (tls)"
    )
    socket: Path = Field(Path("/dev/log"), description="Of this host's log, for local")
    facility: str = Field("daemon", description="auth, authpriv, daemon, user or local0 to local7")
    detail: Literal["minimal", "title", "full"] = Field(
        "title", description="minimal names no host, store or amount; full may be cut over udp"
    )
    language: Language | None = Field(None, description="en or ja; none is the program's own")
    timeout_s: float = Field(10.0, gt=0, le=300, description="For the whole exchange")
    ca_file: Path | None = Field(None, description="Certificates to trust instead of the system's, PEM")
    cert_file: Path | None = Field(None, description="Own certificate and key, where the collector asks, PEM")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.facility not in FACILITIES:
            raise ValueError(f"facility: expected one of {', '.join(FACILITIES)}")
        if (self.transport == "local") == (self.address is not None):
            raise ValueError("address goes with udp, tcp and tls, and is needed there")
        if self.address is not None:
            _parts(self.address, _PORTS[self.transport])
        return self

    def build(self, context: Context) -> Syslog:
        """Make the sink; connects nowhere yet."""
        zone = ZoneInfo(context.zone) if context.zone else None
        return Syslog(self, self.language or context.language, zone, context.host)


class Syslog:
    """Sends each notice at once, over a connection of its own. Blocks for at most ``timeout_s``."""

    name = "syslog"
    takes_flows = False
    takes_notices = True

    def __init__(self, settings: Settings, language: str, zone: tzinfo | None, host: str) -> None:
        self._settings, self._language, self._zone, self._host = settings, language, zone, host

    def write_flows(self, batch: FlowBatch) -> None:
        """Takes none."""

    def write_notice(self, notice: Notice) -> None:
        """Hand the notice over. Raises :class:`~agent.core.errors.SinkError`, always retriable."""
        given = self._settings
        text = render(notice, language=self._language, zone=self._zone, detail=given.detail)
        sent = message(notice, text, host=self._host, facility=FACILITIES[given.facility])
        where = str(given.socket) if given.transport == "local" else f"{given.transport} {given.address}"
        try:
            if given.transport == "local":
                self._local(cut(sent, LARGEST))
            elif given.transport == "udp":
                self._datagram(cut(sent, LARGEST_DATAGRAM))
            else:
                self._stream(cut(sent, LARGEST))
        except (OSError, ssl.SSLError) as error:
            said = error.strerror or str(error) or type(error).__name__
            raise SinkError(f"syslog {where}: {said}", retriable=True) from error

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Nothing is open."""

    def _local(self, sent: bytes) -> None:
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            with socket.socket(socket.AF_UNIX, kind) as end:
                end.settimeout(self._settings.timeout_s)
                try:
                    end.connect(str(self._settings.socket))
                except OSError:
                    if kind == socket.SOCK_STREAM:
                        raise
                    continue  # a few log daemons listen for streams alone
                end.sendall(sent if kind == socket.SOCK_DGRAM else sent + b"\0")
                return

    def _datagram(self, sent: bytes) -> None:
        host, port = _parts(self._settings.address or "", _PORTS["udp"])
        family, kind, number, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, number) as end:
            end.settimeout(self._settings.timeout_s)
            end.connect(place)
            end.send(sent)

    def _stream(self, sent: bytes) -> None:
        given = self._settings
        host, port = _parts(given.address or "", _PORTS[given.transport])
        with contextlib.ExitStack() as stack:
            end = stack.enter_context(socket.create_connection((host, port), given.timeout_s))
            if given.transport == "tls":
                end = stack.enter_context(self._tls().wrap_socket(end, server_hostname=host))
            end.sendall(b"%d " % len(sent) + sent)
            end.settimeout(min(given.timeout_s, _END_S))
            with contextlib.suppress(TimeoutError):  # it took all, and keeps the connection open on its side
                _end(end)

    def _tls(self) -> ssl.SSLContext:
        made = ssl.create_default_context(cafile=self._settings.ca_file)
        made.minimum_version = ssl.TLSVersion.TLSv1_2
        if self._settings.cert_file is not None:
            made.load_cert_chain(self._settings.cert_file)
        return made


def _end(end: socket.socket) -> None:
    """Say that this was all, and wait until the other side has read it; a reset says that it did not."""
    if not isinstance(end, ssl.SSLSocket):
        end.shutdown(socket.SHUT_WR)
        end.recv(1)
        return
    try:
        end.unwrap()
    except ssl.SSLError as error:
        if "EOF" not in str(error):  # many a collector closes without a word, once it has read the end
            raise


def message(notice: Notice, text: str, *, host: str, facility: int) -> bytes:
    """The SYSLOG-MSG of RFC 5424, section 6: header, what programs read, and the text in UTF-8."""
    priority = facility * 8 + _LEVELS[notice.severity]
    name = _NAME.sub("-", host)[:255] or "-"
    case = notice.case
    facts = {
        "id": notice.id,
        "severity": notice.severity.name.lower(),
        "case": case.id if case else "",
        "local_view": "true" if case is not None and case.local_view else "",
        "findings": " ".join(finding.id for finding in case.findings[:8]) if case else "",
    }
    data = " ".join(f'{key}="{_escaped(value)}"' for key, value in facts.items() if value)
    head = f"<{priority}>1 {iso(notice.time_ns)} {name} sekisho {os.getpid()} {notice.kind.value} [{_ID} {data}] "
    return head.encode() + b"\xef\xbb\xbf" + " ".join(text.split("\n")).encode()


def cut(sent: bytes, most: int) -> bytes:
    """At most so many octets, never in the middle of a character."""
    return sent if len(sent) <= most else sent[:most].decode(errors="ignore").encode()


def _escaped(value: str) -> str:
    """RFC 5424, section 6.3.3."""
    return re.sub(r'(["\\\]])', r"\\\1", value)


def _parts(address: str, port: int) -> tuple[str, int]:
    """Host and port. Raises ``ValueError``."""
    host, colon, number = address.rpartition(":")
    if not colon or address.endswith("]") or ("[" not in address and address.count(":") > 1):
        host, number = address, str(port)
    host = host.strip("[]")
    if not host or not number.isdecimal() or not 0 < int(number) < 65536:
        raise ValueError(f"address {address!r}: expected HOST or HOST:PORT, such as log.example.net:6514")
    return host, int(number)

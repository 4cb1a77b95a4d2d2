"""Squid's access log as a source of flows: who asked the proxy, where the proxy went, how much each way.

One row for each line, from the client to the server that Squid connected to, so that what a store sends through the
proxy has the store as its origin. The log tells of a connection when it ends: a tunnel of hours is one row, spread over
them. Squid counts at its own layer, without IP and TCP headers; rows say so (``lower_bound``, layer ``payload``).

Formats: http://www.squid-cache.org/Doc/config/logformat/ (codes), ``src/log/FormatSquidNative.cc`` (the native one).
"""

from __future__ import annotations

import ipaddress
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from pydantic import Field, field_validator

from agent.core import address
from agent.core.accounts import Accounts
from agent.core.clock import SECOND_NS
from agent.core.errors import CaptureError, DecodeError
from agent.core.flow import BatchHeader, FlowBatch, Mark, Text
from agent.core.log import Log
from agent.core.stages import CollectorSettings, Context

_LOG: Final = Log(part="squid")
NATIVE: Final = "%ts.%03tu %6tr %>a %Ss/%03>Hs %<st %rm %ru %[un %Sh/%<a %mt"
"""Squid's own format. It has what the client got, but not what it sent."""
_CODES: Final = {
    "ts": r"(?P<ts>\d{1,12})", "tu": r"(?P<tu>\d{1,3})", "tr": r"(?P<tr>-?\d{1,12})", ">a": r"(?P<client>\S+)",
    ">p": r"(?P<client_port>\d{1,5}|-)", "<a": r"(?P<server>\S+)", "<p": r"(?P<server_port>\d{1,5}|-)",
    ">st": r"(?P<sent>\d{1,18}|-)", "<st": r"(?P<got>\d{1,18}|-)", "rm": r"(?P<method>\S+)", "ru": r"(?P<url>\S+)",
}  # fmt: skip
_CODE: Final = re.compile(
    r"%(?P<quote>[\"\[#'/-]*)0?\d*(?:\.\d+)?(?:\{[^}]*\})?(?P<code>(?:[A-Za-z]+::)?[<>]?[A-Za-z_]+)(?:\{[^}]*\})?|%%"
)
_NEEDED: Final = ("ts", "client", "server")
_PORTS: Final = {"http": 80, "https": 443, "ftp": 21}
_CHUNK: Final = 1 << 20
_LONGEST: Final = 1 << 16
_SHOWN: Final = 20
"""Bad lines that are told one by one; all are counted."""
_WRONG_FROM_THE_START: Final = 100
_POLL_S: Final = 0.5
_HELD: Final = "batches"


def pattern(logformat: str) -> re.Pattern[str]:
    """What a line of this ``logformat`` looks like. Codes that are not needed stand for anything without a space.

    Raises ``ValueError`` where it lacks the time, the client or the server.
    """
    out, at, seen = [], 0, set()
    for found in _CODE.finditer(logformat):
        out.append(re.escape(logformat[at : found.start()]).replace(r"\ ", r"\s+"))
        code = found["code"]
        known = "%" if code is None else _CODES.get(code) if code not in seen else None
        quoted = '"' in (found["quote"] or "") or logformat[found.start() - 1 : found.start()] == '"'
        out.append(known or (r'[^"]*' if quoted else r"\S*"))
        seen.add(code)
        at = found.end()
    made = re.compile(r"\s*" + "".join(out) + re.escape(logformat[at:]) + r"(?:\s.*)?")
    lacking = [name for name in _NEEDED if name not in made.groupindex]
    if lacking:
        codes = ", ".join({"ts": "%ts", "client": "%>a", "server": "%<a"}[name] for name in lacking)
        raise ValueError(f"it has no {codes}; write the `logformat` of squid.conf, without its name")
    return made


class Settings(CollectorSettings):
    """Read the access log of a Squid proxy: who is behind it, and where it went."""

    file: Path = Field(description="The access log; it may grow, and be rotated")
    format: str = Field(
        NATIVE,
        description="The `logformat` of squid.conf. The default is Squid's own, which does not say what clients sent: add %>st",
    )
    follow: bool = Field(True, description="Wait for more at the end of the file")

    @field_validator("format")
    @classmethod
    def _readable(cls, value: str) -> str:
        pattern(value)
        return value

    def build(self, context: Context) -> Squid:
        """The collector; opens nothing yet."""
        return Squid(self, context.accounts, context.host)


@dataclass(slots=True)
class Seen:
    """What became of the lines read so far."""

    lines: int = 0
    bad: int = 0
    """Not in the format."""
    answered_here: int = 0
    """The proxy asked nobody: from its cache, or denied."""
    unnamed: int = 0
    """Where the proxy went is a name, no address."""


class Squid:
    """Reads one log. See :class:`~agent.core.stages.Collector` and :class:`~agent.core.stages.Keeping`."""

    name = "squid"
    not_seen: tuple[str, ...] = ("processes", "other_interfaces", "before_start")

    def __init__(self, settings: Settings, accounts: Accounts, host: str) -> None:
        self._file, self._accounts, self._host = settings.file, accounts, host
        self._line = pattern(settings.format)
        self.live = settings.follow
        self._resumed: tuple[int, int] | None = None
        self._inode = self._offset = self._number = 0
        self.seen = Seen()

    def resume(self, position: str) -> None:
        """Begin after what is durable: the log's inode and an offset in it."""
        for line in position.splitlines():
            name, _, rest = line.partition(" ")
            inode, _, offset = rest.partition(" ")
            if name == self.name and inode.isdigit() and offset.isdigit():
                self._resumed = int(inode), int(offset)

    def settled(self, position: str) -> None:
        """Nothing to do: the log keeps itself."""

    def progress(self) -> tuple[int, int] | None:
        """(octets read, octets in all) of a log that is not followed."""
        if self.live or not self._file.exists():
            return None
        return self._offset, max(self._file.stat().st_size, self._offset)

    def collect(self, stop: threading.Event) -> Iterator[FlowBatch]:
        """Rows of the log; blocks on reading.

        Raises :class:`CaptureError` for a log that cannot be read, :class:`DecodeError` where its first hundred lines are
        all of another format.
        """
        if "sent" not in self._line.groupindex:
            _LOG.warning(
                "sent_unknown",
                file=str(self._file),
                advice="give Squid a logformat with %>st, and `format` too",
            )
        for log, is_last in self._logs():
            with log:
                yield from self._read(log, stop, is_last=is_last)
        while self.live and not stop.is_set():  # the log was rotated
            with self._open(self._file) as log:
                yield from self._read(log, stop, is_last=True)

    def _logs(self) -> Iterator[tuple[IO[bytes], bool]]:
        """What is to be read: first the rest of a log that was rotated away since."""
        if self._resumed is not None:
            inode, offset = self._resumed
            for path in sorted(self._file.parent.glob(self._file.name + "*")):
                if path.stat().st_ino == inode and path.stat().st_size >= offset:
                    log = self._open(path)
                    while (left := offset - self._offset) > 0 and (part := log.read(min(left, _CHUNK))):
                        self._number += part.count(b"\n")
                        self._offset += len(part)
                    yield log, path == self._file
                    if path == self._file:
                        return
        yield self._open(self._file), True

    def _open(self, path: Path) -> IO[bytes]:
        try:
            log = path.open("rb")
        except OSError as error:
            raise CaptureError(f"{path} cannot be read: {error.strerror}; name Squid's access_log") from error
        self._inode, self._offset, self._number = path.stat().st_ino, 0, 0
        return log

    def _read(self, log: IO[bytes], stop: threading.Event, *, is_last: bool) -> Iterator[FlowBatch]:
        """Rows to the log's end; of the last one also what is still written, until it is rotated or ``stop`` is set."""
        rest = b""
        while not stop.is_set():
            is_over = (
                not (self.live and is_last) or self._is_rotated()
            )  # asked first: what was written before is read
            part = log.read(_CHUNK)
            if part:
                read = len(rest) + len(part)
                *lines, rest = (rest + part).split(b"\n")
                if len(rest) > _LONGEST:
                    lines, rest = [*lines, rest], b""
                yield self._batch(lines, read - len(rest))
            elif is_over:
                if rest:
                    yield self._batch([rest], len(rest))
                return
            else:
                yield self._batch([], 0)
                stop.wait(_POLL_S)

    def _is_rotated(self) -> bool:
        try:
            now = self._file.stat()
        except OSError:
            return False  # between its renaming and the next
        return now.st_ino != self._inode or now.st_size < self._offset

    def _batch(self, lines: Sequence[bytes], octets: int) -> FlowBatch:
        rows = [row for line in lines if (row := self._row(line)) is not None]
        self._offset += octets
        position = f"{self.name} {self._inode} {self._offset}"
        header = BatchHeader(host=self._host, collector=self.name, position=position)
        if not rows:
            return FlowBatch.empty(header)
        batch = _flows(rows, f"squid:{self._file.name}", header)
        self._accounts.capture(batch.amounts(), held_in=_HELD)
        return batch

    def _row(self, line: bytes) -> tuple[Any, ...] | None:
        """One line as (client, server, ports, octets out and in, start, end); None where there is nothing to count."""
        self.seen.lines += 1
        self._number += 1
        if not line.strip():
            return None
        found = self._line.fullmatch(line.decode("utf-8", "replace"))
        if found is None or (client := _address(found["client"])) is None:
            self._bad(line)
            return None
        given = found.groupdict()
        if given["server"] in ("-", "::", "0.0.0.0"):  # noqa: S104  how Squid writes none
            self.seen.answered_here += 1
            return None
        if (server := _address(given["server"])) is None:
            self.seen.unnamed += 1
            return None
        end = int(given["ts"]) * SECOND_NS + int(given.get("tu") or 0) * 10**6
        start = end - max(int(given.get("tr") or 0), 0) * 10**6
        sent, got = (_number(given.get(name)) for name in ("sent", "got"))
        ports = _number(given.get("client_port"), -1), _server_port(given)
        return client, server, *ports, max(sent, 0), max(got, 0), max(start, 0), end

    def _bad(self, line: bytes) -> None:
        self.seen.bad += 1
        self._accounts.lose_frames("bad_line", 1, len(line))
        if self.seen.bad <= _SHOWN:
            _LOG.warning(
                "bad_line",
                file=str(self._file),
                line=self._number,
                found=line[:80].decode("ascii", "replace"),
            )
        if self.seen.bad == self.seen.lines == _WRONG_FROM_THE_START:
            raise DecodeError(
                f"{self._file}: none of its first {_WRONG_FROM_THE_START} lines is in this format; give the `logformat` of "
                "squid.conf as `format`"
            )


def _flows(rows: Sequence[tuple[Any, ...]], vantage: str, header: BatchHeader) -> FlowBatch:
    client, server, client_port, server_port, sent, got, start, end = zip(*rows, strict=True)
    n = len(rows)
    out = np.array(sent, np.int64)
    return FlowBatch.build(
        n,
        {
            "local_address": address.parse(client),
            "remote_address": address.parse(server),
            "local_port": np.array(client_port, np.int64),
            "remote_port": np.array(server_port, np.int64),
            "protocol": np.full(n, 6),
            "initiator": Text.full(n, "local"),
            "flows": np.ones(n, np.int64),
            "octets_out": out,
            "packets_out": np.zeros(n, np.int64),
            "octets_in": np.array(got, np.int64),
            "packets_in": np.zeros(n, np.int64),
            "content_octets_out": out,
            "source_octets_out": out,
            "source_layer": Text.full(n, "payload"),
            "start_ns": np.array(start, np.int64),
            "end_ns": np.array(end, np.int64),
            "marks": np.full(n, int(Mark.LOWER_BOUND)),
            "vantage": Text.full(n, vantage),
        },
        header,
    )


def _address(text: str) -> str | None:
    try:
        return str(ipaddress.ip_address(text.strip("[]")))
    except ValueError:
        return None


def _number(text: str | None, unknown: int = 0) -> int:
    return int(text) if text and text.lstrip("-").isdigit() else unknown


def _server_port(given: dict[str, str | None]) -> int:
    """The server's port: as logged, else of the address asked for (``CONNECT host:port``), else of its scheme."""
    if (port := _number(given.get("server_port"), -1)) > 0:
        return port
    url = given.get("url") or ""
    scheme, has_scheme, rest = url.partition("://")
    end = (rest if has_scheme else url).partition("/")[0]
    named = re.search(r":(\d{1,5})$", end)
    port = int(named[1]) if named else _PORTS.get(scheme.lower(), -1) if has_scheme else -1
    return port if port <= 65_535 else -1

"""Notices to a web address: signed JSON by POST, delivered again later where that may help.

Each delivery has an event loop and a connection of its own, so the sink may be called from any thread without one,
and nothing is left open between alerts that are hours apart. ``docs/webhook.md`` shows a receiver that verifies the
signature. The answer's body is read to its end (at most 64 KiB): an answer that was cut off is no receipt.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import json
import os
import ssl
from datetime import tzinfo
from importlib.metadata import version
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import aiohttp
from pydantic import Field, field_validator, model_validator

from agent.core.clock import SECOND_NS, Clock, iso
from agent.core.errors import SinkError
from agent.core.finding import Notice
from agent.core.flow import FlowBatch
from agent.core.stages import Context, SinkSettings
from agent.words import Language, render

ANSWER_LIMIT = 65_536
"""Octets of an answer that are read; more is not waited for."""
RETRIABLE_STATUS = frozenset({408, 425, 429})
"""And every 5xx. Other answers below 200 or from 300 on will be the same next time."""


class Settings(SinkSettings):
    """Where notices are posted, and how they are signed."""

    url: str = Field(description="https address; http only to this machine, or with insecure: true")
    secret_env: str | None = Field(None, description="Environment variable that holds the signing secret")
    secret_file: Path | None = Field(None, description="File that holds the signing secret, as one line")
    detail: Literal["minimal", "full"] = Field(
        "minimal", description="minimal names no host, store or amount; full is for receivers on site"
    )
    language: Language | None = Field(None, description="en or ja; none is the program's own")
    headers: dict[str, str] = Field(default_factory=dict, description="Further headers; put no secret here")
    timeout_s: float = Field(10.0, gt=0, le=300, description="For the whole exchange")
    ca_file: Path | None = Field(None, description="Certificates to trust instead of the system's, PEM")
    insecure: bool = Field(False, description="Allow http to other machines: the text travels in the open")

    @field_validator("url")
    @classmethod
    def _is_address(cls, value: str) -> str:
        url = urlsplit(value)
        if url.scheme not in ("http", "https") or not url.hostname or url.port == 0:
            raise ValueError("expected an address such as https://siem.example.net/hooks/sekisho")
        if url.username or url.password:
            raise ValueError(
                "no user or password in the address: sign with secret_file or secret_env instead"
            )
        return value

    @field_validator("headers")
    @classmethod
    def _plain_headers(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            if not name.isascii() or not name.replace("-", "").isalnum() or not text.isprintable():
                raise ValueError(f"header {name!r} needs a plain name and one line of text")
        return value

    @model_validator(mode="after")
    def _is_private(self) -> Self:
        url = urlsplit(self.url)
        if url.scheme == "http" and not self.insecure and not _is_loopback(url.hostname or ""):
            raise ValueError(
                "http to another machine sends alerts in the open: use https, or set insecure: true"
            )
        if self.secret_env and self.secret_file:
            raise ValueError("set secret_env or secret_file, not both")
        return self

    def build(self, context: Context) -> Webhook:
        """Make the sink; connects nowhere yet."""
        zone = ZoneInfo(context.zone) if context.zone else None
        return Webhook(self, self.language or context.language, zone, context.clock)


class Webhook:
    """Posts each notice at once. Blocks for at most ``timeout_s``; not to be called from inside an event loop."""

    name = "webhook"
    takes_flows = False
    takes_notices = True

    def __init__(self, settings: Settings, language: str, zone: tzinfo | None, clock: Clock) -> None:
        self._settings, self._language, self._zone, self._clock = settings, language, zone, clock
        # The path of many a web hook is its secret, so faults name the origin alone.
        url = urlsplit(settings.url)
        self._where = f"{url.scheme}://{url.netloc}"

    def write_flows(self, batch: FlowBatch) -> None:
        """Takes none."""

    def write_notice(self, notice: Notice) -> None:
        """Deliver the notice. Raises :class:`~agent.core.errors.SinkError`, retriable where a later try may succeed."""
        content = body(notice, detail=self._settings.detail, language=self._language, zone=self._zone)
        headers = {
            **self._settings.headers,
            "Content-Type": "application/json; charset=utf-8",
            "User-Agent": f"sekisho/{version('sekisho')}",
            "Idempotency-Key": notice.id,
        }
        if secret := self._secret():
            headers["Sekisho-Signature"] = signature(secret, self._clock.now_ns() // SECOND_NS, content)
        try:
            status = asyncio.run(self._post(content, headers))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._fault(_words(error), retriable=not isinstance(error, aiohttp.InvalidURL)) from error
        if not 200 <= status < 300:
            hint = "redirects are not followed" if 300 <= status < 400 else "look at the receiver"
            retriable = status >= 500 or status in RETRIABLE_STATUS
            raise self._fault(f"answered {status} ({hint})", retriable=retriable)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Nothing is open."""

    async def _post(self, content: bytes, headers: dict[str, str]) -> int:
        timeout = aiohttp.ClientTimeout(total=self._settings.timeout_s)
        connector = aiohttp.TCPConnector(ssl=self._tls(), limit=1, force_close=True)
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session,
            session.post(
                self._settings.url, data=content, headers=headers, allow_redirects=False
            ) as response,
        ):
            left = ANSWER_LIMIT
            while left > 0 and (chunk := await response.content.read(left)):
                left -= len(chunk)
            return response.status

    def _tls(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=self._settings.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise self._fault(
                f"cannot read ca_file {self._settings.ca_file}: {error}", retriable=True
            ) from error

    def _secret(self) -> bytes | None:
        """Read anew each time, so that a secret can be changed without a restart."""
        if self._settings.secret_env:
            found = os.environ.get(self._settings.secret_env, "").encode()
            what = f"environment variable {self._settings.secret_env}"
        elif self._settings.secret_file:
            what = f"secret_file {self._settings.secret_file}"
            try:
                found = self._settings.secret_file.read_bytes().strip()
            except OSError as error:
                raise self._fault(f"cannot read {what}: {error.strerror}", retriable=True) from error
        else:
            return None
        if not found:
            raise self._fault(f"{what} holds no secret", retriable=True)
        return found

    def _fault(self, message: str, *, retriable: bool) -> SinkError:
        return SinkError(f"webhook {self._where}: {message}", retriable=retriable)


def body(notice: Notice, *, detail: Literal["minimal", "full"], language: str, zone: tzinfo | None) -> bytes:
    """What is posted: JSON with ``id``, ``kind``, ``severity``, ``time``, ``simulated``, ``title``, ``text``; with
    detail full also ``host``, ``case`` and ``event`` with every field.
    """
    whole = detail == "full"
    title, text = (
        render(notice, language=language, zone=zone, detail=d if whole else "minimal")
        for d in ("title", "full")
    )
    values = {
        "version": 1,
        "id": notice.id,
        "kind": notice.kind.value,
        "severity": notice.severity.name.lower(),
        "time": iso(notice.time_ns),
        "simulated": notice.simulated,
        "case_id": notice.case.id if notice.case else None,
        "revision": notice.case.revision if notice.case else None,
        "title": title,
        "text": text,
    }
    if whole:
        values |= notice.model_dump(mode="json", include={"host", "case", "event", "account", "lost_frames"})
    return json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode()


def signature(secret: bytes, time_s: int, content: bytes) -> str:
    """``t=<unix seconds>,v1=<hex>``: HMAC-SHA256 (RFC 2104) over the time in decimal, a full stop and the body."""
    digest = hmac.new(secret, b"%d." % time_s + content, hashlib.sha256).hexdigest()
    return f"t={time_s},v1={digest}"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _words(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time (raise timeout_s, or look at the receiver)"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the answer was cut off"
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError):
        return "its certificate is not trusted (ca_file names the one to trust)"
    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno
        return f"cannot connect: {os.strerror(number) if number else error.os_error}"
    if isinstance(error, aiohttp.ClientResponseError):
        return "its answer is no HTTP"
    return f"{type(error).__name__} while it was asked"

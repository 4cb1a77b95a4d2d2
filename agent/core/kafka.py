"""How Kafka is reached: addresses, names of topics, TLS, who one is there. For whoever sends, reads or looks.

Secrets stand in files only, read anew at each connection, so that a password or certificate that is renewed needs no
restart; no setting holds one, so none is ever shown or logged.
"""

from __future__ import annotations

import contextlib
import logging
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from agent.core.errors import SinkError
from agent.core.said import said

_TOPIC: Final = re.compile(r"[A-Za-z0-9._-]{1,249}")


def _topic(value: str) -> str:
    if not _TOPIC.fullmatch(value) or value in (".", ".."):
        raise ValueError(f"{value!r}: expected a topic's name, letters, digits and . _ - alone")
    return value


_Topic = Annotated[str, AfterValidator(_topic)]
_PEM: Final = "PEM"
_END_S: Final = 2.0
"""How long the thread of a producer may take to end once it was told to."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Topics(_Part):
    """Names of the topics. The number behind the name is the version of what travels there."""

    flows: _Topic = Field("sekisho.flows.v1", description="Batches of rows, keyed by agent")
    flows_ocsf: _Topic = Field(
        "sekisho.flows.ocsf.v1",
        description="Each flow as OCSF Network Activity, where `republish.ocsf` is on",
    )
    flows_json: _Topic = Field(
        "sekisho.flows.json.v1", description="Each flow as plain JSON, where `republish.json_lines` is on"
    )
    alerts: _Topic = Field("sekisho.alerts.v1", description="Notices as OCSF JSON, keyed by case")
    agents: _Topic = Field("sekisho.agents.v1", description="Heartbeats, keyed by agent, compacted")
    coverage: _Topic = Field("sekisho.coverage.v1", description="What was observed, hour by hour")
    enrolment: _Topic = Field(
        "sekisho.enrolment.v1", description="Agents that ask to be known, and the answers"
    )
    dead: _Topic = Field("sekisho.dead.v1", description="Messages that nobody could read, with the reason")

    @model_validator(mode="after")
    def _are_apart(self) -> Self:
        of_name: dict[str, list[str]] = {}
        for role, name in self:
            of_name.setdefault(name, []).append(role)
        for name, roles in of_name.items():
            if len(roles) > 1:
                raise ValueError(f"{' and '.join(roles)} have one name, {name!r}; expected a topic for each")
        return self


class Tls(_Part):
    """TLS to the brokers; empty trusts the system's certificates."""

    ca_file: Path | None = Field(None, description=f"Certificates to trust instead of the system's, {_PEM}")
    cert_file: Path | None = Field(None, description=f"Own certificate, where brokers ask for one, {_PEM}")
    key_file: Path | None = Field(None, description=f"Key of cert_file without a password, {_PEM}")
    check_hostname: bool = Field(True, description="Whether the broker's certificate must name its address")

    @model_validator(mode="after")
    def _is_pair(self) -> Self:
        if self.key_file and not self.cert_file:
            raise ValueError("key_file needs cert_file beside it")
        return self

    def context(self) -> ssl.SSLContext:
        """The files of now. Raises :class:`SinkError`."""
        try:
            made = ssl.create_default_context(cafile=self.ca_file)
            made.minimum_version = ssl.TLSVersion.TLSv1_2
            made.check_hostname = self.check_hostname
            if self.cert_file:
                made.load_cert_chain(self.cert_file, self.key_file, password=_no_password)
        except (OSError, ValueError) as error:
            files = ", ".join(str(f) for f in (self.ca_file, self.cert_file, self.key_file) if f)
            what = said("kafka.tls: {files}: {error}; expected PEM files", files=files, error=_plain(error))
            raise SinkError(what, retriable=True) from error
        return made


class Sasl(_Part):
    """Who one is at the brokers."""

    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = "SCRAM-SHA-512"
    user: str = Field("", description="Name at the brokers (not for OAUTHBEARER)")
    secret_file: Path = Field(description="File of one line: the password, or the bearer token (RFC 6750)")

    @model_validator(mode="after")
    def _is_named(self) -> Self:
        if self.mechanism != "OAUTHBEARER" and not self.user:
            raise ValueError(f"{self.mechanism} needs a user")
        return self

    def secret(self) -> str:
        """The secret of now. Raises :class:`SinkError`."""
        try:
            found = self.secret_file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            what = said(
                "kafka.sasl: {file} cannot be read: {error}", file=self.secret_file, error=_plain(error)
            )
            raise SinkError(what, retriable=True) from error
        if not found:
            what = said("kafka.sasl: {file} holds no secret", file=self.secret_file)
            raise SinkError(what, retriable=True)
        return found


class Connection(_Part):
    """Everything that is set about Kafka."""

    servers: tuple[str, ...] = Field(
        min_length=1, description="HOST:PORT of some brokers; one that answers is enough"
    )
    topics: Topics = Topics()
    tls: Tls | None = Field(None, description="Encrypt; `tls: {}` trusts the system's certificates")
    sasl: Sasl | None = Field(None, description="Say who one is")
    plain_text: bool = Field(False, description="Allow a password over a connection that is not encrypted")
    connect_s: float = Field(30.0, gt=0, le=600, description="How long a connection may take to come about")
    request_s: float = Field(30.0, gt=0, le=600, description="How long a broker may take to answer")
    in_flight_octets: int = Field(
        8 * 2**20, ge=2**16, description="Octets that are sent and not yet acknowledged, at most"
    )

    @field_validator("servers", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [part.strip() for part in value.split(",")] if isinstance(value, str) else value

    @field_validator("servers")
    @classmethod
    def _are_addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for server in value:
            host, _, port = server.rpartition(":")
            if (
                not host
                or not port.isdecimal()
                or not 0 < int(port) < 65536
                or "/" in server
                or "@" in server
            ):
                raise ValueError(f"{server!r}: expected HOST:PORT, such as kafka-1.example.net:9093")
        return value

    @model_validator(mode="after")
    def _is_private(self) -> Self:
        bare = self.sasl is not None and self.sasl.mechanism in ("PLAIN", "OAUTHBEARER")
        if bare and self.tls is None and not self.plain_text:
            raise ValueError("this sasl mechanism sends the secret in the open: set tls, or plain_text: true")
        return self

    @property
    def protocol(self) -> str:
        """Kafka's name of the way: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL."""
        kind = "PLAINTEXT" if self.tls is None else "SSL"
        return kind if self.sasl is None else f"SASL_{kind}"

    def options(self, client_id: str) -> dict[str, Any]:
        """What every client of kafka-python is made with; reads the secrets. Raises :class:`SinkError`."""
        options: dict[str, Any] = {
            "bootstrap_servers": list(self.servers),
            "client_id": client_id,
            "security_protocol": self.protocol,
            "bootstrap_timeout_ms": int(self.connect_s * 1000),
            "request_timeout_ms": int(self.request_s * 1000),
            "reconnect_backoff_max_ms": 5_000,
            "metadata_max_age_ms": 60_000,
        }
        if self.tls is not None:
            options["ssl_context"] = self.tls.context()
        if self.sasl is not None:
            options["sasl_mechanism"] = self.sasl.mechanism
            options |= _secrets(self.sasl)
        return options


def _secrets(sasl: Sasl) -> dict[str, Any]:
    secret = sasl.secret()
    if sasl.mechanism != "OAUTHBEARER":
        return {"sasl_plain_username": sasl.user, "sasl_plain_password": secret}
    from kafka.net.sasl.oauth import AbstractTokenProvider

    class Token(AbstractTokenProvider):  # type: ignore[misc,unused-ignore]
        """The token that stands in the file when it is asked for."""

        def token(self) -> str:
            """The bearer token."""
            return sasl.secret()

    return {"sasl_oauth_token_provider": Token()}


def _no_password() -> bytes:
    raise ValueError("the key has a password; expected one without, readable by this user alone")


def refuse_slow_checksums() -> None:
    """Kafka's client without its compiled checksum is 10 to 40 times slower. Raises :class:`SinkError` where that is so."""
    from kafka.record import util

    if getattr(util, "crc32c_c", None) is None:
        raise SinkError(
            said(
                "the package crc32c is missing or does not load, and Kafka's checksums would cost 10 to 40 times more "
                "without it; install it: pip install crc32c"
            ),
            retriable=False,
        )


def somebody_listens(connection: Connection) -> None:
    """Try the addresses before the client does, which would try in silence until its time is out, and says less.

    Raises :class:`SinkError`.
    """
    why: dict[str, str] = {}
    for server in connection.servers:
        host, _, port = server.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), min(connection.connect_s, 5.0)).close()
        except OSError as error:
            why[server] = error.strerror or str(error)
        else:
            return
    told: str = ""
    for server, reason in why.items():
        one = said("{server}: {error}", server=server, error=reason)
        told = said("{first}; {second}", first=told, second=one) if told else one
    raise SinkError(said("no broker answers: kafka {servers}", servers=told), retriable=True)


@contextlib.contextmanager
def made_by(connection: Connection, client_id: str) -> Iterator[dict[str, Any]]:
    """Options for a client of kafka-python that is made inside; a fault comes in our words, and leaves nothing open.

    Raises :class:`SinkError`.
    """
    from kafka.errors import KafkaError
    from kafka.net.compat import KafkaNetClient

    refuse_slow_checksums()
    somebody_listens(connection)
    opened: list[Any] = []

    def client(**options: Any) -> Any:
        opened.append(KafkaNetClient(**options))
        return opened[-1]

    with hearing() as heard:
        try:
            yield {**connection.options(client_id), "kafka_client": client}
        except (KafkaError, OSError, ValueError) as error:
            for each in opened:
                with contextlib.suppress(KafkaError, OSError, RuntimeError):
                    each.close()
            raise meant(error, heard, connection) from error


def meant(error: BaseException, heard: Heard, connection: Connection) -> SinkError:
    """Why a connection did not come about, by what the client library logged meanwhile."""
    from kafka.errors import SaslAuthenticationFailedError

    cause = heard.cause(error)
    if "socket disconnected" in str(cause):
        # A broker answers a wrong password and closes; the client may see the end before the answer.
        cause = SaslAuthenticationFailedError() if connection.sasl is not None else _closed(connection)
    elif "Invalid frame length" in str(cause):  # the alert of a broker that speaks TLS
        cause = _closed(connection)
    return in_words(cause, connection)


def _closed(connection: Connection) -> SinkError:
    """A broker that takes a connection and ends it at once says no more than that."""
    text = said(
        "{where} takes the connection and ends it: it may ask for TLS, a certificate or a password (kafka.tls, kafka.sasl)",
        where=f"kafka {', '.join(connection.servers)}",
    )
    return SinkError(text, retriable=True)


def let_go(producer: Any, wait_s: float = 0.0) -> None:
    """End a producer of kafka-python; what is not answered after ``wait_s`` is given up, and told to who waits for it.

    Its own ``close`` waits first and raises where something stays unanswered, before it has ended anything: the thread
    goes on, sends what was given up, and the collector of garbage tries the same again and prints a traceback.
    """
    from kafka.errors import KafkaError

    if wait_s:
        with contextlib.suppress(KafkaError):
            producer.flush(wait_s)
    thread = producer._sender
    thread.force_close()
    thread.join(_END_S)
    with contextlib.suppress(KafkaError, OSError):
        producer.close(timeout=0)
    producer._closed = True  # a thread that is still busy ends by itself; there is nothing left to try


def in_words(
    error: BaseException, connection: Connection, topic: str = "", *, reading: bool = False
) -> SinkError:
    """What a fault of the client means to whoever must mend it. ``retriable`` is False only where the message itself can
    never be taken; ``refused`` where a person must change something first.
    """
    from kafka import errors

    where = f"kafka {', '.join(connection.servers)}"
    user = said(" as {user}", user=connection.sasl.user or said("the token")) if connection.sasl else ""
    if isinstance(error, SinkError):
        return error
    if isinstance(error, errors.SaslAuthenticationFailedError):
        text = said(
            "{where} does not let us in{user}: user, secret or mechanism is wrong (kafka.sasl)",
            where=where,
            user=user,
        )
        return SinkError(text, retriable=True, refused=True)
    if isinstance(error, errors.UnsupportedSaslMechanismError):
        text = said(
            "{where} does not offer the mechanism of kafka.sasl: {error}", where=where, error=_told(error)
        )
        return SinkError(text, retriable=True, refused=True)
    if isinstance(error, errors.AuthorizationError):
        what = said("topic {topic}", topic=topic) if topic else said("the cluster")
        text = (
            said(
                "{where} does not let us read {what}{user}: it needs an ACL with READ and DESCRIBE",
                where=where,
                what=what,
                user=user,
            )
            if reading
            else said(
                "{where} does not let us write to {what}{user}: it needs an ACL with WRITE and DESCRIBE",
                where=where,
                what=what,
                user=user,
            )
        )
        return SinkError(text, retriable=True, refused=True)
    return _of_message(error, where, topic) or _of_way(error, where, topic)


def _of_message(error: BaseException, where: str, topic: str) -> SinkError | None:
    """What is wrong with a message itself."""
    from kafka import errors

    if isinstance(error, errors.MessageSizeTooLargeError | errors.RecordListTooLargeError):
        text = said(
            "{where}: the message is larger than topic {topic} allows: raise its max.message.bytes",
            where=where,
            topic=topic,
        )
        return SinkError(text, retriable=False)
    if isinstance(error, errors.InvalidTimestampError):
        text = said(
            "{where}: topic {topic} refuses the time of this host's clock: set the clock, or the topic's "
            "message.timestamp.type to LogAppendTime",
            where=where,
            topic=topic,
        )
        return SinkError(text, retriable=True, refused=True)
    if isinstance(error, errors.InvalidRecordError):
        text = said(
            "{where}: topic {topic} refuses the message: {error}",
            where=where,
            topic=topic,
            error=_told(error),
        )
        return SinkError(text, retriable=False)
    return None


def _of_way(error: BaseException, where: str, topic: str) -> SinkError:
    """What is wrong with the way to the brokers."""
    from kafka import errors

    if isinstance(error, errors.UnknownTopicOrPartitionError):
        text = said(
            "{where}: there is no topic {topic}; make it: sekisho kafka topics create",
            where=where,
            topic=topic,
        )
        return SinkError(text, retriable=True)
    if "CERTIFICATE" in str(error).upper() or "SSL" in str(error).upper():
        text = said("{where}: TLS failed: {error} (kafka.tls)", where=where, error=_told(error))
        return SinkError(text, retriable=True, refused=True)
    return SinkError(said("{where}: {error}", where=where, error=_told(error)), retriable=True)


def _plain(error: BaseException) -> str:
    """What it says without its number and file, where it is the system's."""
    return (error.strerror if isinstance(error, OSError) else "") or str(error)


def _told(error: BaseException) -> str:
    text = " ".join(str(error).split())[:300]
    return text or type(error).__name__


class Heard(logging.Handler):
    """Hears what the client library logs, for it tells the cause of a failed connection nowhere else."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._last: BaseException | None = None
        self._guard = threading.Lock()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the fault that a record is about."""
        from kafka import errors

        args = record.args if isinstance(record.args, tuple) else ()
        found = next((a for a in args if isinstance(a, BaseException)), None)
        if found is None or isinstance(found, errors.KafkaTimeoutError):
            return
        with self._guard:
            # A try that is cut short by the end of its time says less than the one before it.
            if self._last is None or not isinstance(found, errors.RequestTimedOutError):
                self._last = found

    def cause(self, error: BaseException) -> BaseException:
        """The last fault that was told, where ``error`` itself only says that time ran out."""
        from kafka import errors

        with self._guard:
            last = self._last
        ran_out = isinstance(error, errors.KafkaTimeoutError | errors.RequestTimedOutError)
        return last if last is not None and ran_out else error


@contextlib.contextmanager
def hearing() -> Iterator[Heard]:
    """Hear the client library while a connection is made; elsewhere it is silent."""
    logger, heard = quiet(), Heard()
    logger.addHandler(heard)
    try:
        yield heard
    finally:
        logger.removeHandler(heard)


def quiet() -> logging.Logger:
    """The client library's logger, which from now on writes nowhere by itself: what matters is said in our words."""
    logger = logging.getLogger("kafka")
    logger.propagate = False
    if not any(isinstance(h, logging.NullHandler) for h in logger.handlers):
        logger.addHandler(logging.NullHandler())
    return logger

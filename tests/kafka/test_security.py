"""TLS, own certificates, passwords and tokens, rights: against a broker that asks for all of them."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from agent.core.errors import CaptureError, SinkError
from agent.core.kafka import Connection, Sasl, Tls, made_by
from collectors.kafka import Reader
from sinks.kafka import KafkaCarrier
from tests.tools import topics
from tests.tools.brokers import Cluster
from tests.tools.certificates import Authority
from tests.tools.sender import numbered, sender
from tests.tools.topics import until

LOGIN = "org.apache.kafka.common.security"
PASSWORD = "only-of-this-test"
MECHANISMS = "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER"


class Guarded:
    """A broker with TLS, certificates of clients, SASL and ACLs."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.authority = Authority(folder)
        cert, key = self.authority.issue("broker")
        both = folder / "broker-both.pem"
        both.write_bytes(key.read_bytes() + cert.read_bytes())
        self.cert, self.key = self.authority.issue("client")
        self.secret = folder / "secret"
        self.secret.write_text(PASSWORD + "\n")
        prefix = "listener.name.client"
        plain = f'{LOGIN}.plain.PlainLoginModule required user_admin="{PASSWORD}" user_nobody="{PASSWORD}";'
        scram = f"{LOGIN}.scram.ScramLoginModule required;"
        bearer = f'{LOGIN}.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="admin";'
        self.cluster = Cluster(
            folder / "cluster",
            protocol="SASL_SSL",
            scram=[f"SCRAM-SHA-{n}=[name=admin,password={PASSWORD}]" for n in (256, 512)],
            settings={
                "ssl.keystore.type": "PEM",
                "ssl.keystore.location": str(both),
                "ssl.truststore.type": "PEM",
                "ssl.truststore.location": str(self.authority.ca),
                f"{prefix}.ssl.client.auth": "required",
                f"{prefix}.sasl.enabled.mechanisms": MECHANISMS,
                "sasl.mechanism.inter.broker.protocol": "PLAIN",
                f"{prefix}.plain.sasl.jaas.config": plain,
                f"{prefix}.scram-sha-256.sasl.jaas.config": scram,
                f"{prefix}.scram-sha-512.sasl.jaas.config": scram,
                f"{prefix}.oauthbearer.sasl.jaas.config": bearer,
                "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                "super.users": "User:admin;User:ANONYMOUS",
            },
        )

    def connection(self, prefix: str, *, tls: dict[str, Any] | None = None, **sasl: Any) -> Connection:
        """Settings of a client; what is given replaces what is right."""
        who = {"mechanism": "PLAIN", "user": "admin", "secret_file": self.secret, **sasl}
        how = {"ca_file": self.authority.ca, "cert_file": self.cert, "key_file": self.key, **(tls or {})}
        return topics.connection(
            self.cluster.bootstrap, prefix, tls=Tls(**how), sasl=Sasl(**who), connect_s=6.0, request_s=5.0
        )


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """The broker."""
    made = Guarded(tmp_path_factory.mktemp("guarded") / "files")
    with made.cluster:
        yield made


@pytest.fixture
def ours(guarded: Guarded, prefix: str) -> Connection:
    """Settings with which the topics were made."""
    made = guarded.connection(prefix)
    until(lambda: _made(made), "the broker makes topics")
    return made


def _made(connection: Connection) -> bool:
    """A broker that has just started takes connections before it takes orders."""
    try:
        with made_by(connection, "test") as options:
            admin = KafkaAdminClient(**options)
        try:
            admin.create_topics([connection.topics.flows, connection.topics.agents], wait_for_metadata=True)
        finally:
            admin.close()
    except (SinkError, KafkaError):
        return False
    return True


def refused(connection: Connection) -> SinkError:
    """What connecting says."""
    carrier = KafkaCarrier(connection)
    try:
        with pytest.raises(SinkError) as caught:
            carrier.connect()
    finally:
        carrier.disconnect()
    assert PASSWORD not in str(caught.value)
    return caught.value


def token(subject: str) -> str:
    """An unsigned bearer token (RFC 7519), which a broker takes that was told no key."""

    def part(value: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    now = int(time.time())
    return f"{part({'alg': 'none'})}.{part({'sub': subject, 'iat': now, 'exp': now + 3600})}."


@pytest.mark.parametrize("mechanism", MECHANISMS.split(","))
def test_each_way_of_saying_who_one_is(
    guarded: Guarded, ours: Connection, tmp_path: Path, mechanism: str
) -> None:
    """Over TLS with a certificate of its own, an agent delivers by password, by SCRAM and by token."""
    secret = tmp_path / "secret"
    secret.write_text(token("admin") if mechanism == "OAUTHBEARER" else PASSWORD)
    assert ours.sasl is not None
    kafka = ours.model_copy(
        update={"sasl": Sasl(mechanism=mechanism, user="admin", secret_file=secret)}  # type: ignore[arg-type]
    )
    with sender(tmp_path, kafka) as agent:
        agent.put(numbered(10))
        until(lambda: not agent.waiting, f"{mechanism} lets the batch through")
        agent.check()


def test_a_password_that_is_wrong_is_said_so(guarded: Guarded, prefix: str, tmp_path: Path) -> None:
    """The sentence names user and setting, not the secret, and nobody tries it again and again."""
    wrong = tmp_path / "wrong"
    wrong.write_text("another")
    error = refused(guarded.connection(prefix, secret_file=wrong))
    assert (error.retriable, error.refused) == (True, True)
    assert "does not let us in as admin" in str(error) and "kafka.sasl" in str(error)


def test_a_password_that_is_changed_needs_no_restart(
    guarded: Guarded, ours: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is read at each try: with the right secret in it the agent goes on."""
    monkeypatch.setattr("agent.sending.carrying.REFUSED_WAIT_S", 0.5)
    secret = tmp_path / "secret"
    secret.write_text("old")
    assert ours.sasl is not None
    kafka = ours.model_copy(update={"sasl": ours.sasl.model_copy(update={"secret_file": secret})})
    with sender(tmp_path, kafka) as agent:
        agent.put(numbered(10))
        until(lambda: "does not let us in" in agent.send.carrying.last_error, "the old one is refused")
        secret.write_text(PASSWORD)
        until(lambda: not agent.waiting, "the batch is through")


def test_a_user_without_rights_is_said_so(guarded: Guarded, ours: Connection) -> None:
    """Who may come in but not write hears which right is missing."""
    assert ours.sasl is not None
    kafka = ours.model_copy(update={"sasl": ours.sasl.model_copy(update={"user": "nobody"})})
    carrier = KafkaCarrier(kafka)
    try:
        carrier.connect()
        heard: list[SinkError | None] = []
        try:
            carrier.tell("agent-1", b"", b"{}", heard.append)
            (error,) = until(lambda: heard, "the broker answers")
        except SinkError as caught:
            error = caught
    finally:
        carrier.disconnect()
    assert error is not None and (error.retriable, error.refused) == (True, True)
    assert "it needs an ACL with WRITE and DESCRIBE" in str(error)


@pytest.mark.parametrize("what", ["authority", "hostname", "own certificate", "expired"])
def test_certificates_that_do_not_fit_are_said_so(
    guarded: Guarded, prefix: str, tmp_path: Path, what: str
) -> None:
    """A broker of another authority or name, no certificate where one is asked for, one that has expired: TLS is named."""
    other = Authority(tmp_path, "another")
    tls: dict[str, Any] = {
        "authority": {"ca_file": other.ca},
        "own certificate": {"cert_file": None, "key_file": None},
        "expired": dict(zip(("cert_file", "key_file"), guarded.authority.issue("old", days=-2), strict=True)),
        "hostname": {},
    }[what]
    connection = guarded.connection(prefix, tls=tls)
    if what == "hostname":
        port = connection.servers[0].rpartition(":")[2]
        connection = connection.model_copy(update={"servers": (f"localhost:{port}",)})
    error = refused(connection)
    assert error.retriable
    assert "TLS failed" in str(error), str(error)


def test_who_reads_with_a_wrong_password_is_told_so(guarded: Guarded, prefix: str, tmp_path: Path) -> None:
    """As who writes is, and not that no broker was found."""
    wrong = tmp_path / "secret"
    wrong.write_text("wrong")
    kafka = guarded.connection(prefix, secret_file=wrong)
    reader = Reader(kafka, kafka.topics.flows, "test")
    with pytest.raises(CaptureError, match="does not let us in as admin"):
        reader.poll(1, 0.0)
    reader.close()


def test_a_broker_that_asks_for_tls_is_said_so(guarded: Guarded, prefix: str) -> None:
    """Without TLS it only ends the connection; what it may ask for is named."""
    plain = topics.connection(guarded.cluster.bootstrap, prefix, connect_s=6.0, request_s=5.0)
    said = pytest.raises(SinkError, match="it may ask for TLS, a certificate or a password")
    with said, made_by(plain, "test") as options:
        KafkaAdminClient(**options)


def test_a_file_that_is_no_certificate_is_named(guarded: Guarded, prefix: str, tmp_path: Path) -> None:
    """The path stands in the sentence."""
    (tmp_path / "ca.pem").write_text("nothing")
    error = refused(guarded.connection(prefix, tls={"ca_file": tmp_path / "ca.pem"}))
    assert str(tmp_path / "ca.pem") in str(error)

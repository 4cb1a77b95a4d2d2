"""A certificate that expires and a password that is changed, at brokers that ask for both: rows wait, and none is lost."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient
from kafka.admin import NewTopic, ScramMechanism, UserScramCredentialUpsertion
from kafka.errors import KafkaError

from agent.core.kafka import Connection, Sasl, Tls
from tests.faults.scale import FULL
from tests.tools import topics
from tests.tools.brokers import Cluster
from tests.tools.certificates import Authority
from tests.tools.fleet import Program
from tests.tools.plan import Plan
from tests.tools.road import Facts, Road, ended

Page = Callable[..., None]
LOGIN = "org.apache.kafka.common.security.scram.ScramLoginModule required"
OLD, NEW = "the-first-of-this-test", "the-second-of-this-test"
SOON = "" if FULL else "import agent.sending.carrying\nagent.sending.carrying.REFUSED_WAIT_S = 1.0\n"
"""In the short form an agent that is refused tries again after a second instead of a minute."""


class Guarded:
    """A broker with TLS, certificates of its clients, and SCRAM."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder, self.authority = folder, Authority(folder)
        cert, key = self.authority.issue("broker")
        both = folder / "both.pem"
        both.write_bytes(key.read_bytes() + cert.read_bytes())
        self.secret, self.cert, self.key = folder / "secret", folder / "own.pem", folder / "own.key"
        self.admin_secret = folder / "admin-secret"
        self.admin_secret.write_text("of-the-admin")
        self.admin_cert = self.authority.issue("admin")
        self.secret.write_text(OLD)
        self.renew("first", days=1)
        listener = "listener.name.client"
        inter = f'{LOGIN} username="admin" password="of-the-admin";'
        self.cluster = Cluster(
            folder / "cluster",
            protocol="SASL_SSL",
            scram=[f"SCRAM-SHA-512=[name={n},password={p}]" for n, p in (("admin", "of-the-admin"), ("agent", OLD))],
            settings={
                "ssl.keystore.type": "PEM", "ssl.keystore.location": str(both), "ssl.truststore.type": "PEM",
                "ssl.truststore.location": str(self.authority.ca), f"{listener}.ssl.client.auth": "required",
                f"{listener}.sasl.enabled.mechanisms": "SCRAM-SHA-512",
                f"{listener}.scram-sha-512.sasl.jaas.config": inter,
                "sasl.mechanism.inter.broker.protocol": "SCRAM-SHA-512",
            },
        )  # fmt: skip

    def renew(self, name: str, days: int) -> None:
        """Put another certificate of the agent's in the place of the last."""
        cert, key = self.authority.issue(name, days=days)
        for made, place in ((key, self.key), (cert, self.cert)):
            shutil.copyfile(made, place.with_suffix(".new"))
            place.with_suffix(".new").replace(place)

    def connection(self, prefix: str, *, admin: bool = False) -> Connection:
        """Settings of the agent, or of somebody who is not changed."""
        cert, key = self.admin_cert if admin else (self.cert, self.key)
        secret = self.admin_secret if admin else self.secret
        sasl = Sasl(mechanism="SCRAM-SHA-512", user="admin" if admin else "agent", secret_file=secret)
        tls = Tls(ca_file=self.authority.ca, cert_file=cert, key_file=key)
        return topics.connection(
            self.cluster.bootstrap, prefix, tls=tls, sasl=sasl, connect_s=5.0, request_s=2.0
        )

    def admin(self) -> Any:
        """A client with all rights."""
        options = self.connection("x", admin=True).options("test")
        return KafkaAdminClient(**options)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    made = Guarded(tmp_path_factory.mktemp("guarded") / "files")
    with made.cluster:
        yield made


def _ready(guarded: Guarded, kafka: Connection) -> bool:
    try:
        admin = guarded.admin()
    except (KafkaError, OSError):
        return False
    try:
        names = [kafka.topics.flows, kafka.topics.agents, kafka.topics.dead]
        admin.create_topics([NewTopic(n, 1, 1) for n in names])
        admin.wait_for_topics(names)
    except KafkaError:
        return False
    finally:
        admin.close()
    return True


def test_a_certificate_expires_and_a_password_is_changed(
    guarded: Guarded, prefix: str, tmp_path: Path, undisturbed: Facts, page: Page
) -> None:
    """Neither agent nor detector is restarted: each goes on as soon as its file holds what is right."""
    kafka = guarded.connection(prefix)
    topics.until(lambda: _ready(guarded, kafka), "the broker makes topics")
    plan = Plan.of_now()
    with Road(tmp_path, guarded.connection(prefix, admin=True), plan) as road:
        detector, agent = road.detector(), road.agent(kafka=kafka, code=SOON)
        road.let(15)
        road.until_delivered(15 * plan.rows, agent, detector)
        _cut_off(guarded, road, 30, agent, detector)
        guarded.renew("expired", days=-1)
        guarded.cluster.start()
        road.until(lambda: _said(road, "TLS failed"), "word of the certificate", agent, detector)
        assert road.recount.rows < 30 * plan.rows
        guarded.renew("renewed", days=1)
        road.until_delivered(30 * plan.rows, agent, detector)
        _change_password(guarded, NEW)
        _cut_off(guarded, road, plan.steps, agent, detector)
        guarded.cluster.start()
        road.until(
            lambda: _said(road, "does not let us in as agent"), "word of the password", agent, detector
        )
        guarded.secret.write_text(NEW)
        road.until_delivered(plan.marks, agent, detector, seconds=150)
        ended(road, agent, detector)
        assert road.facts() == undisturbed
        page("TLS certificate expired and renewed, SASL password changed", road)


def _cut_off(guarded: Guarded, road: Road, steps: int, *programs: Program) -> None:
    """Connections that stand are not asked again: the broker goes away, and rows that come meanwhile end them."""
    before = len(road.logged("agent", "kafka_not_reached"))
    guarded.cluster.brokers[0].kill(signal.SIGKILL)
    road.let(steps)
    road.until(lambda: len(road.logged("agent", "kafka_not_reached")) > before, "the end of it", *programs)


def _said(road: Road, what: str) -> bool:
    return any(what in str(line.get("reason")) for line in road.logged("agent", "kafka_not_reached"))


def _change_password(guarded: Guarded, password: str) -> None:
    admin = guarded.admin()
    try:
        admin.alter_user_scram_credentials(
            [UserScramCredentialUpsertion("agent", ScramMechanism.SCRAM_SHA_512, password, iterations=4096)]
        )
    finally:
        admin.close()

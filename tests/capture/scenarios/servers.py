"""Services of the host, and how they share out connections among processes."""

from __future__ import annotations

from tests.capture.judge import Claim
from tests.capture.stage import PORT, Stage, scenario
from tests.capture.wire import UDP

SERVICE_UID = 65534
"""Services run as nobody, so that a row's user can be wrong."""


def _serve(stage: Stage, family: int, job: str, *, udp: bool = False, uid: int = SERVICE_UID) -> None:  # fmt: skip
    count = stage.size(6, 40)
    octets = 1_000 if udp else stage.size(100_000, 2_000_000)
    server = stage.sender(job, family, group="service", uid=uid, count=count, octets=octets)
    early = server.step()
    server.go()
    stage.ask(family, count, udp=udp)
    said = server.said()
    workers = server.actors(said.get("pids") or early.get("pids") or [])
    if workers:
        claim = Claim(workers, local_port=PORT, listener=(server.actor,))
    else:
        claim = Claim((server.actor,), local_port=PORT)
    stage.claims[family].append(claim)
    stage.sent[family] += said["sent"]


@scenario("accept, then a child for each connection (PostgreSQL's way)")
def accept_then_fork(stage: Stage, family: int) -> None:
    _serve(stage, family, "accept_then_fork")


@scenario("two workers accept on their parent's socket (nginx's way)")
def prefork_server(stage: Stage, family: int) -> None:
    _serve(stage, family, "prefork")


@scenario("a thread for each connection")
def threaded_server(stage: Stage, family: int) -> None:
    _serve(stage, family, "threaded")


@scenario("the listening socket is handed over by another process (systemd's LISTEN_FDS)")
def socket_activation(stage: Stage, family: int) -> None:
    # Root, for the user above may not be let to Python's own folder, which this one starts anew.
    _serve(stage, family, "socket_activated", uid=0)


@scenario("one process connects, hands the connection to another (SCM_RIGHTS), and that one sends")
def handed_over(stage: Stage, family: int) -> None:
    stage.sink(family)
    sender = stage.sender("handed_over", family, octets=stage.size(1_000_000, 50_000_000))
    said = sender.step()
    stage.sent[family] += said["sent"]
    claim = Claim(sender.actors(said["pids"]), remote_port=PORT, listener=(sender.actor,))
    stage.claims[family].append(claim)


@scenario("a UDP server answers on one socket", protocols=(UDP,))
def udp_server(stage: Stage, family: int) -> None:
    _serve(stage, family, "udp_echo", udp=True)

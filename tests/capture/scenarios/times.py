"""What comes too early, too late, too briefly or too often."""

from __future__ import annotations

import time
from collections.abc import Iterator

from tests.capture.judge import Claim
from tests.capture.stage import PORT, Stage, scenario
from tests.capture.wire import TCP, UDP


@scenario("children that connect, send 500 octets and are gone at once")
def gone_at_once(stage: Stage, family: int) -> None:
    stage.sink(family)
    sender = stage.sender("gone_at_once", family, count=stage.size(30, 500))
    said = sender.step()
    stage.sent[family] += said["sent"]
    stage.claims[family].append(Claim(sender.actors(said["pids"]), remote_port=PORT))


@scenario("a connection and a UDP socket that are older than the agent", protocols=(TCP, UDP))
def older_than_the_agent(stage: Stage, family: int) -> Iterator[None]:
    stage.sink(family)
    stage.drain(family)
    sender = stage.sender("held_open", family, octets=stage.size(2_000_000, 50_000_000))
    sender.step()
    stage.claim(family, sender, remote_port=PORT)
    yield
    stage.sent[family] += sender.step()["sent"]


@scenario("a connection that is silent for long, then bursts")
def idle_then_burst(stage: Stage, family: int) -> None:
    stage.sink(family)
    stage.drain(family)
    sender = stage.sender("held_open", family, octets=stage.size(2_000_000, 50_000_000))
    sender.step()
    stage.claim(family, sender, remote_port=PORT)
    time.sleep(stage.size(1, 20))  # the silence is the scenario
    # The first thousand octets left under this agent too; the datagrams are not compared here.
    stage.sent[family] += sender.step()["sent"] + 1_000 - 10_000


@scenario("the peer ends its side first, and the host goes on sending")
def half_closed(stage: Stage, family: int) -> None:
    stage.sink(family, half=True)
    stage.send("half_closed", family, octets=stage.size(3_000_000, 50_000_000))


@scenario("the host ends a connection first, so that its last packets belong to no full socket (TIME_WAIT)")
def closed_by_the_host(stage: Stage, family: int) -> None:
    server = stage.sender("hangs_up", family, count=1, octets=1_000)
    stage.claim(family, server, local_port=PORT)
    server.step()
    server.go()
    stage.linger(family, PORT)
    stage.sent[family] += server.said()["sent"]


def _many(stage: Stage) -> None:
    # Nobody listens there, and nothing shall say so.
    stage.wire.chain(stage.wire.peer, "silent", "filter hook input priority 0", "udp dport 20000-29999 drop")


def _fan(stage: Stage, family: int, count: int) -> None:
    sender = stage.sender("udp_fan", family, count=count)
    stage.claim(family, sender)
    stage.sent[family] += sender.step()["sent"]


@scenario("very many flows at once (100,000 in the bench)", protocols=(UDP,), prepare=_many)
def many_flows(stage: Stage, family: int) -> None:
    _fan(stage, family, stage.size(10_000, 100_000))


@scenario("five times more flows than the collector's table holds", protocols=(UDP,), families=(4,), prepare=_many, wants="small_table")  # fmt: skip
def table_overflow(stage: Stage, family: int) -> None:
    _fan(stage, family, 5_000)


@scenario("the same with IPv6", protocols=(UDP,), families=(6,), prepare=_many, wants="small_table")
def table_overflow_v6(stage: Stage, family: int) -> None:
    _fan(stage, family, 5_000)


@scenario("the agent is stopped and started again between two bursts of one connection")
def agent_restart_in_a_pause(stage: Stage, family: int) -> None:
    stage.sink(family)
    stage.drain(family)
    sender = stage.sender("held_open", family, octets=stage.size(2_000_000, 50_000_000))
    sender.step()
    stage.claim(family, sender, remote_port=PORT)
    stage.settle()
    stage.restart()
    stage.sent[family] += sender.step()["sent"] + 1_000 - 10_000


@scenario("the agent is stopped and started again while datagrams go on", protocols=(UDP,), wants="restart")
def agent_restart_under_load(stage: Stage, family: int) -> None:
    stage.drain(family)
    sender = stage.sender("until_told", family)
    stage.claim(family, sender, remote_port=PORT)
    sender.step()
    stage.restart()
    stage.sent[family] += sender.step()["sent"]

"""The ordinary ways: streams, short connections, datagrams."""

from __future__ import annotations

from dataclasses import replace

from tests.capture import load
from tests.capture.judge import Claim
from tests.capture.stage import PORT, Stage, scenario
from tests.capture.wire import PEER, TCP, UDP


@scenario("one connection sends as fast as it can, offload on")
def tcp_bulk(stage: Stage, family: int) -> None:
    stage.sink(family)
    stage.send("tcp_bulk", family, octets=stage.size(20_000_000, 400_000_000))


@scenario("one connection receives as fast as it can, and sends bare acknowledgements")
def tcp_download(stage: Stage, family: int) -> None:
    stage.sink(family, answer=stage.size(10_000_000, 200_000_000))
    stage.send("tcp_download", family)


@scenario(
    "short connections, 200 octets there and 1,000 back, as fast as one core opens them", protocols=(TCP,)
)
def tcp_short_connections(stage: Stage, family: int) -> None:
    program = load.built(stage.folder)
    seconds = stage.size(1, 5)
    server = stage.sender("becomes", family, namespace=stage.wire.peer, line=[str(program), "churn-serve", PEER[family], str(PORT), "60"])  # fmt: skip
    server.step()
    client = stage.sender("becomes", family, line=[str(program), "churn", PEER[family], str(PORT), str(seconds)])  # fmt: skip
    said = client.step()
    actor = replace(client.actor, process=program.name, executable=str(program))
    stage.claims[family].append(Claim((actor,), remote_port=PORT))
    stage.sent[family] = said["sent"]
    stage.notes.append(f"IPv{family}: {said['rate']:,} connections/s, {said['failed']} failed")
    server.close()


@scenario("64-octet datagrams on a connected socket", protocols=(UDP,))
def udp_small_connected(stage: Stage, family: int) -> None:
    stage.drain(family)
    stage.send("udp_small", family, count=stage.size(20_000, 300_000))


@scenario("sendto to seven ports from one socket, sizes from 0 to 1,400", protocols=(UDP,))
def udp_unconnected(stage: Stage, family: int) -> None:
    stage.drain(family, *range(PORT, PORT + 7))
    sender = stage.sender("udp_unconnected", family, count=stage.size(5_000, 100_000))
    stage.claim(family, sender)
    stage.sent[family] += sender.step()["sent"]


@scenario(
    "datagrams of 9,000 octets, which leave as fragments",
    protocols=(UDP,),
    content_is_sent=True,
)
def udp_fragments(stage: Stage, family: int) -> None:
    stage.drain(family)
    sender = stage.sender("udp_fragments", family, count=stage.size(200, 5_000))
    # Later fragments have no ports.
    stage.claim(family, sender)
    stage.sent[family] += sender.step()["sent"]


@scenario("UDP_SEGMENT: one call is 31 datagrams (QUIC servers do so)", protocols=(UDP,))
def udp_segmentation(stage: Stage, family: int) -> None:
    stage.drain(family)
    stage.send("udp_segment", family, count=stage.size(200, 5_000))

"""The system calls by which data can leave without a plain send."""

from __future__ import annotations

import ctypes

from tests.capture.stage import NotThereError, Stage, scenario
from tests.capture.wire import UDP


def _bulk(stage: Stage, family: int, job: str) -> None:
    stage.sink(family)
    stage.send(job, family, octets=stage.size(5_000_003, 200_000_003))


def _io_uring(_stage: Stage) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(425, 0, None) == -1 and ctypes.get_errno() in (1, 38):
        raise NotThereError("the kernel has no io_uring, or has it switched off (kernel.io_uring_disabled)")


@scenario("sendfile(2) from a file")
def sendfile(stage: Stage, family: int) -> None:
    _bulk(stage, family, "sendfile")


@scenario("splice(2) from a file through a pipe")
def splice(stage: Stage, family: int) -> None:
    _bulk(stage, family, "splice")


@scenario("sendmmsg(2), a hundred datagrams a call", protocols=(UDP,))
def sendmmsg(stage: Stage, family: int) -> None:
    stage.drain(family)
    stage.send("sendmmsg", family, count=stage.size(100, 2_000))


@scenario("send through io_uring", prepare=_io_uring)
def io_uring(stage: Stage, family: int) -> None:
    _bulk(stage, family, "io_uring")


@scenario("MSG_ZEROCOPY")
def msg_zerocopy(stage: Stage, family: int) -> None:
    _bulk(stage, family, "zerocopy")

"""The webhook against real servers on the loopback interface."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import ssl
import subprocess
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from pydantic import ValidationError

from agent.core.accounts import Accounts
from agent.core.clock import SECOND_NS, DataClock
from agent.core.errors import SinkError
from agent.core.stages import Context
from agent.words import render
from sinks.webhook import Settings, Webhook, signature
from tests.tools import notices

NOW_S = 1_794_931_200
SECRET = "a secret of some length"
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextmanager
def loop_thread() -> Iterator[Callable[[Any], Any]]:
    """An event loop in a thread of its own; the value runs a coroutine in it and waits for its result."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def call(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(10)

    try:
        yield call
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


@contextmanager
def receiver(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]], tls: ssl.SSLContext | None = None
) -> Iterator[str]:
    """An aiohttp server on the loopback interface; the value is its address."""
    app = web.Application()
    app.router.add_route("*", "/hook", handler)
    with loop_thread() as call:
        runner = web.AppRunner(app)

        async def start() -> int:
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
            await site.start()
            port: int = runner.addresses[0][1]
            return port

        port = call(start())
        try:
            yield f"{'https' if tls else 'http'}://localhost:{port}/hook"
        finally:
            call(runner.cleanup())


@contextmanager
def raw_server(serve: Serve) -> Iterator[str]:
    """A server that speaks whatever it likes; it closes each connection after ``serve``."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        finally:
            writer.close()

    with loop_thread() as call:
        server = call(asyncio.start_server(connected, "127.0.0.1", 0))
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
        finally:

            async def stop() -> None:
                server.close()
                await server.wait_closed()

            call(stop())


def answering(*answers: web.Response) -> tuple[list[tuple[dict[str, str], bytes]], Any]:
    """What was received, and a handler that gives these answers in turn, the last for ever."""
    received: list[tuple[dict[str, str], bytes]] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        received.append((dict(request.headers), await request.read()))
        answer = answers[min(len(received), len(answers)) - 1]
        return web.Response(status=answer.status, headers=answer.headers, body=answer.body)

    return received, handle


def sink(url: str, **rest: Any) -> Webhook:
    clock = DataClock(NOW_S * SECOND_NS)
    context = Context(accounts=Accounts(), state_dir=Path("unused"), clock=clock, zone="Asia/Tokyo")
    return Settings(url=url, **rest).build(context)


def fault(url: str, **rest: Any) -> SinkError:
    with pytest.raises(SinkError) as caught:
        sink(url, **rest).write_notice(notices.opened())
    return caught.value


async def read_request(reader: asyncio.StreamReader) -> None:
    """Read one request to its end, as a well-behaved server does."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
    )
    await reader.readexactly(length)


# what arrives


def test_the_signature_verifies_with_a_few_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """A receiver that knows the secret recomputes the signature from header and body alone."""
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    received, handler = answering(web.Response())
    with receiver(handler) as url:
        sink(url, secret_env="HOOK_SECRET").write_notice(notices.opened())
    ((headers, content),) = received
    parts = dict(part.split("=", 1) for part in headers["Sekisho-Signature"].split(","))
    wanted = hmac.new(SECRET.encode(), parts["t"].encode() + b"." + content, hashlib.sha256).hexdigest()
    assert (parts["t"], parts["v1"]) == (str(NOW_S), wanted)
    assert headers["Idempotency-Key"] == "2026-1117-07.1"
    assert headers["Content-Type"] == "application/json; charset=utf-8"


def test_the_receiver_of_the_documentation_verifies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The code in docs/webhook.md takes a true signature and refuses another body, secret or time."""
    monkeypatch.setenv("SEKISHO_HOOK_SECRET", SECRET)
    text = (Path(__file__).parents[2] / "docs" / "webhook.md").read_text("utf-8")
    namespace: dict[str, Any] = {"__name__": "example"}
    exec(text.split("```python\n")[1].split("```")[0], namespace)
    verified, body = namespace["verified"], b'{"id":"1"}'
    good = signature(SECRET.encode(), NOW_S, body)
    assert verified(good, body, NOW_S + 10) is True
    assert verified(good, body + b" ", NOW_S) is False
    assert verified(signature(b"other", NOW_S, body), body, NOW_S) is False
    assert verified(good, body, NOW_S + 301) is False
    assert verified("", body, NOW_S) is False


def test_a_secret_file_is_read_at_each_delivery(tmp_path: Path) -> None:
    """A secret that was changed in its file is used from the next delivery on."""
    file = tmp_path / "secret"
    file.write_text(SECRET + "\n")
    received, handler = answering(web.Response())
    with receiver(handler) as url:
        hook = sink(url, secret_file=file)
        hook.write_notice(notices.opened())
        file.write_text("another one\n")
        hook.write_notice(notices.opened())
    for (headers, content), secret in zip(received, (SECRET, "another one"), strict=True):
        digest = hmac.new(secret.encode(), f"{NOW_S}.".encode() + content, hashlib.sha256).hexdigest()
        assert headers["Sekisho-Signature"] == f"t={NOW_S},v1={digest}"


def test_minimal_detail_names_nothing() -> None:
    """By default the body holds no host, store, place, address or amount, only what rings and where to look."""
    received, handler = answering(web.Response())
    with receiver(handler) as url:
        sink(url).write_notice(notices.opened())
    ((headers, content),) = received
    line = render(notices.opened(), language="en", zone=None, detail="minimal")
    assert json.loads(content) == {
        "version": 1,
        "id": "2026-1117-07.1",
        "kind": "opened",
        "severity": "high",
        "time": "2026-11-17T16:16:31Z",
        "simulated": False,
        "case_id": "2026-1117-07",
        "revision": 1,
        "title": line,
        "text": line,
    }
    assert "Sekisho-Signature" not in headers


def test_full_detail_holds_text_and_case() -> None:
    """With detail full the body holds the whole text and every field of the case."""
    received, handler = answering(web.Response())
    with receiver(handler) as url:
        sink(url, detail="full", language="ja", headers={"X-Site": "tokyo-1"}).write_notice(notices.opened())
    ((headers, content),) = received
    values = json.loads(content)
    assert values["text"] == render(notices.opened(), language="ja", zone=notices.TOKYO, detail="full")
    assert values["case"] == notices.opened().case.model_dump(mode="json")  # type: ignore[union-attr]
    assert headers["X-Site"] == "tokyo-1"


def test_an_event_is_posted_too() -> None:
    """What sekisho tells about itself goes the same way, without a case."""
    received, handler = answering(web.Response())
    with receiver(handler) as url:
        sink(url).write_notice(notices.event())
    values = json.loads(received[0][1])
    assert (values["kind"], values["case_id"]) == ("event", None)


# what goes wrong


@pytest.mark.parametrize(
    ("status", "retriable"),
    [(301, False), (400, False), (401, False), (404, False), (408, True), (409, False), (425, True), (429, True),
     (500, True), (503, True)],
)  # fmt: skip
def test_the_status_decides_on_another_try(status: int, retriable: bool) -> None:
    """Overload and faults of the receiver may pass; refusals and redirects will not."""
    _, handler = answering(web.Response(status=status, headers={"Location": "/elsewhere"}))
    with receiver(handler) as url:
        error = fault(url)
    assert (f"answered {status}" in str(error), error.retriable) == (True, retriable)


def test_a_redirect_is_not_followed() -> None:
    """An alert goes to no other address than the one in the settings."""
    received, handler = answering(web.Response(status=307, headers={"Location": "/hook"}), web.Response())
    with receiver(handler) as url:
        error = fault(url)
    assert (len(received), "redirects are not followed" in str(error)) == (1, True)


def test_a_second_try_after_500_has_the_same_key() -> None:
    """The notice that is delivered again after a fault carries the same id."""
    received, handler = answering(web.Response(status=500), web.Response())
    with receiver(handler) as url:
        hook = sink(url)
        with pytest.raises(SinkError):
            hook.write_notice(notices.opened())
        hook.write_notice(notices.opened())
    assert [h["Idempotency-Key"] for h, _ in received] == ["2026-1117-07.1"] * 2


def test_a_receiver_that_is_down_may_come_back() -> None:
    """A refused connection is told by the origin alone and may be tried again."""
    with receiver(answering(web.Response())[1]) as url:
        pass
    error = fault(url)
    assert ("cannot connect" in str(error), "/hook" in str(error), error.retriable) == (True, False, True)


def test_an_answer_cut_off_is_no_receipt() -> None:
    """200 with fewer octets than it promised counts as not delivered."""

    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nthank y")
        await writer.drain()

    with raw_server(cut) as url:
        error = fault(url)
    assert ("cut off" in str(error), error.retriable) == (True, True)


def test_a_chunked_answer_cut_off_is_no_receipt() -> None:
    """200 whose last chunk never comes counts as not delivered."""

    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nthank\r\n")
        await writer.drain()

    with raw_server(cut) as url:
        assert fault(url).retriable is True


def test_an_answer_that_does_not_come_may_come_later() -> None:
    """A receiver that is too slow is left after the set time, to be tried again."""

    async def sleepy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()  # until the sink hangs up

    with raw_server(sleepy) as url:
        error = fault(url, timeout_s=0.2)
    assert ("no answer in time" in str(error), error.retriable) == (True, True)


@pytest.mark.parametrize(
    "garbage", [b"SSH-2.0-OpenSSH_9.6\r\n", b"\x00\xff" * 500, b"HTTP/1.1 two hundred\r\n\r\n", b""]
)
def test_an_answer_that_is_no_http_may_pass(garbage: bytes) -> None:
    """What is no HTTP, or nothing at all, is a fault that may be tried again, told without repeating the answer."""

    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(garbage)
        await writer.drain()

    with raw_server(babble) as url:
        error = fault(url)
    assert (error.retriable, "OpenSSH" in str(error)) == (True, False)


def test_an_endless_answer_is_not_read_to_its_end() -> None:
    """Of a long answer 64 KiB are read, then the connection is closed; the delivery counts."""
    sent = []

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000000\r\n\r\n")
        try:
            while True:
                writer.write(b"x" * 65536)
                await writer.drain()
                sent.append(65536)
        except ConnectionError:
            pass

    with raw_server(flood) as url:
        sink(url).write_notice(notices.opened())
    assert sum(sent) < 100_000_000


@pytest.mark.parametrize("place", ["env", "file", "empty"])
def test_a_missing_secret_keeps_the_notice(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its secret a notice is not sent unsigned; it waits, and the fault says what is missing."""
    monkeypatch.delenv("HOOK_SECRET", raising=False)
    file = tmp_path / "secret"
    if place == "empty":
        file.write_text("\n")
    where: dict[str, Any] = {"secret_env": "HOOK_SECRET"} if place == "env" else {"secret_file": file}
    received, handler = answering(web.Response())
    with receiver(handler) as url:
        error = fault(url, **where)
    assert (received, error.retriable, "secret" in str(error).lower()) == ([], True, True)


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return cert, context


def test_a_trusted_certificate_is_taken(certificate: tuple[Path, ssl.SSLContext]) -> None:
    """With ca_file the receiver's own certificate is trusted."""
    received, handler = answering(web.Response())
    with receiver(handler, certificate[1]) as url:
        sink(url, ca_file=certificate[0]).write_notice(notices.opened())
    assert len(received) == 1


def test_an_unknown_certificate_is_refused(certificate: tuple[Path, ssl.SSLContext]) -> None:
    """Without ca_file a certificate that nobody signed gets nothing."""
    received, handler = answering(web.Response())
    with receiver(handler, certificate[1]) as url:
        error = fault(url)
    assert (received, "certificate is not trusted" in str(error), error.retriable) == ([], True, True)


def test_a_missing_ca_file_is_told(tmp_path: Path) -> None:
    """A ca_file that cannot be read is named, and the notice waits."""
    error = fault("https://127.0.0.1:1/hook", ca_file=tmp_path / "none.pem")
    assert ("cannot read ca_file" in str(error), error.retriable) == (True, True)


# settings


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        ({"url": "http://198.51.100.7/hook"}, "use https, or set insecure: true"),
        ({"url": "http://siem.example.net/hook"}, "use https, or set insecure: true"),
        ({"url": "ftp://siem.example.net/hook"}, "expected an address such as https://"),
        ({"url": "siem.example.net"}, "expected an address such as https://"),
        ({"url": "https://siem.example.net:99999/"}, "Port out of range"),
        ({"url": "https://user:pw@siem.example.net/hook"}, "no user or password in the address"),
        ({"url": "https://siem.example.net/", "secret_env": "A", "secret_file": "b"}, "not both"),
        ({"url": "https://siem.example.net/", "headers": {"X-A": "b\r\nX-C: d"}}, "one line of text"),
        ({"url": "https://siem.example.net/", "timeout_s": 0}, "greater than 0"),
    ],
)
def test_settings_that_cannot_be_followed_are_refused(settings: dict[str, Any], advice: str) -> None:
    """Each fault in the settings is refused with advice before anything is sent."""
    with pytest.raises(ValidationError, match=advice):
        Settings.model_validate(settings)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/x", "http://[::1]:9/x", "http://localhost/x"])
def test_plain_http_to_this_machine_is_allowed(url: str) -> None:
    """Alerts may travel in the open where they do not leave the machine."""
    assert Settings(url=url).url == url

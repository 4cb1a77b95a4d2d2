"""Messages that hold host names, as real software writes them: DNS answers by scapy, ClientHellos by OpenSSL."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Sequence


def client_hello(name: str) -> bytes:
    """The first message of a TLS client that wants ``name``."""
    context = ssl.create_default_context()
    to_server = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), to_server, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return to_server.read()


def dns_answer(name: str, addresses: Sequence[str], *, ttl: int = 60, aliases: Sequence[str] = ()) -> bytes:
    """An answer to a question for ``name``, over ``aliases``."""
    from scapy.layers.dns import DNS, DNSQR, DNSRR

    records = []
    owner = name
    for alias in aliases:
        records.append(DNSRR(rrname=owner, type="CNAME", rdata=alias, ttl=ttl))
        owner = alias
    for address in addresses:
        kind = "AAAA" if ":" in address else "A"
        records.append(DNSRR(rrname=owner, type=kind, rdata=address, ttl=ttl))
    return bytes(DNS(id=7, qr=1, ra=1, qd=[DNSQR(qname=name)], an=records))

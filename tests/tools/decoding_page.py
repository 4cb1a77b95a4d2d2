"""What the decoders know, as tables: the generated part of docs/decoding.md."""

from __future__ import annotations

from collections.abc import Iterable

from collectors.packets import links, network, odd, tunnels

BEGIN = "<!-- written by `make docs` from the decoders' own tables -->\n"
END = "<!-- end of what is written -->\n"


def with_tables(page: str) -> str:
    """The page with what stands between the two marks written anew. Raises ``ValueError`` without the marks."""
    head, rest = page.split(BEGIN)
    tail = rest.split(END)[1]
    return head + BEGIN + "\n" + tables() + "\n" + END + tail


def tables() -> str:
    """Link types, what may stand before IP, transports and tunnels, each with the path that knows it."""
    return "\n\n".join((_links(), _shims(), _transports(), _tunnels()))


def _links() -> str:
    rows = [(str(n), name, "fast") for n, name in sorted(links.LINK_NAMES.items())]
    rows += [(str(n), name, "scapy") for n, name in sorted(odd.ODD_LINKS.items()) if n != odd.NFLOG]
    rows.append((str(odd.NFLOG), odd.ODD_LINKS[odd.NFLOG], "own, a frame at a time"))
    rows += [(str(n), name, "none: carries no IP") for n, name in sorted(odd.LINKS_WITHOUT_IP.items())]
    rows.append(("other", "", "scapy where it knows the number, else `undecodable`"))
    return "### Link types\n\n" + _table(("LINKTYPE", "name", "path"), rows)


def _shims() -> str:
    rows = [
        (f"{number:04x}", name, f"fast, in any order, {links.MOST_SHIMS} deep")
        for number, (_, name) in links.SHIMS.items()
    ]
    rows.append(("up to 1500", "802.2 with SNAP", "fast; other 802.2 carries no IP"))
    rows.append(("8847", "MPLS with Ethernet behind the last label", "scapy"))
    never = ", ".join(f"{name} ({number:04x})" for number, name in links.NEVER_IP.items())
    rows.append(("listed", never, "none: carries no IP"))
    rows.append(("other", "", "scapy, else `undecodable`"))
    return "### Between the link header and IP\n\n" + _table(("ethertype", "name", "path"), rows)


def _transports() -> str:
    rows = [
        (str(number), name, f"{least}", "by data offset" if number == 6 else "fixed")
        for number, (name, least) in network.TRANSPORTS.items()
    ]
    rows.append(("other", "ICMP, IGMP, ESP, OSPF and all the rest: flows of addresses and protocol", "0", ""))
    return "### Transports (all on the fast path)\n\n" + _table(
        ("protocol", "name", "header octets", "length"), rows
    )


def _tunnels() -> str:
    known = dict.fromkeys(
        (*tunnels.BY_PROTOCOL.values(), *tunnels.BY_UDP_TARGET.values(), *tunnels.BY_UDP_SOURCE.values())
    )
    rows = [(t.name, t.told_by, t.inside, t.source, "fast") for t in known]
    rows += [(name, f"protocol {n}", "", "", "none: outer") for n, name in tunnels.OPAQUE.items()]
    return "### Tunnels (with `tunnels: inner`)\n\n" + _table(
        ("tunnel", "told by", "inside", "source", "path"), rows
    )


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])

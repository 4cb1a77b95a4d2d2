"""Ways to hide a transfer, and the ordinary life around it, as flow columns.

Each tactic is a small function of a :class:`Plan`; it yields the rows that agents would have sent of it, with nothing in
them that an agent cannot see. Documentation and private addresses, invented networks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from agent.core import address
from agent.core.clock import DAY_NS, HOUR_NS, MINUTE_NS, SECOND_NS
from agent.core.flow import BatchHeader, FlowBatch, Text

T0: Final = 1_763_683_200 * SECOND_NS
"""2025-11-21 00:00 UTC."""
PIECE_NS: Final = 30 * MINUTE_NS
MB, GB = 10**6, 10**9

DB, COPY, WEB = "10.20.4.11", "10.20.4.90", "10.20.4.80"
OTHERS: Final = tuple(f"10.20.4.{n}" for n in range(12, 20))
"""Further stores of the same legal entity."""
STAGING: Final = tuple(f"10.20.9.{n}" for n in range(7, 15))
PROXY, VICTIM = "10.20.9.200", "2001:db8:1::11"
CLIENTS: Final = tuple(f"10.20.8.{n}" for n in range(1, 51))


@dataclass(frozen=True, slots=True)
class Net:
    """A network outside."""

    asn: int
    country: str
    owner: str = ""
    owner_country: str = ""
    prefix: str = "203.0.113."

    def address(self, n: int = 7) -> str:
        """One of its addresses."""
        return f"{self.prefix}{n}"


OWNER: Final = Net(64500, "CN", "example-holdings", "CN")
HOME: Final = Net(64501, "JP", "example-holdings", "CN", "198.51.100.")
TWIN: Final = Net(64500, "CN", "example-holdings", "CN", "2001:db8:2::")
NEUTRAL: Final = Net(64510, "JP", "", "", "198.51.100.1")
HIDDEN: Final = Net(64511, "NL", "", "", "203.0.113.1")
PARTNER: Final = Net(64512, "DE", "", "", "203.0.113.2")
BACKUP: Final = Net(64513, "JP", "", "", "198.51.100.2")


@dataclass(frozen=True, slots=True)
class Plan:
    """One transfer: how much, over how long, in how many connections, over how many hosts."""

    total: int
    days: int = 1
    streams: int = 1
    hops: int = 1
    seed: int = 0


@dataclass
class Rows:
    """Rows as they are gathered; :meth:`batch` puts them in order of their end."""

    columns: dict[str, list[Any]] = field(default_factory=dict)

    def send(
        self,
        source: str,
        to: str | Net,
        octets: Any,
        starts: Any,
        *,
        to_address: str = "",
        length_ns: int = MINUTE_NS,
        octets_in: int = 400,
        **facts: Any,
    ) -> None:
        """One row for each of ``starts``; ``octets`` of each."""
        starts = np.atleast_1d(np.asarray(starts, np.int64))
        octets = np.broadcast_to(np.asarray(octets, np.int64), starts.shape)
        net = to if isinstance(to, Net) else Net(-1, "")
        end = to_address or (to.address() if isinstance(to, Net) else to)
        known = {
            "local": source, "remote": end, "asn": net.asn, "country": net.country or None, "owner": net.owner or None,
            "owner_country": net.owner_country or None, "process": "rclone", "initiator": "local", "protocol": 6,
            "local_port": 40_000, "remote_port": 443, "octets_in": octets_in, "flows": 1, "vantage": "ebpf",
        } | facts  # fmt: skip
        for name, value in known.items():
            self.columns.setdefault(name, []).extend([value] * len(starts))
        self.columns.setdefault("start", []).extend(starts.tolist())
        self.columns.setdefault("end", []).extend((starts + length_ns).tolist())
        self.columns.setdefault("octets", []).extend(octets.tolist())

    def batch(self) -> FlowBatch:
        """All of it, as agents send it, before any enricher but those of networks."""
        order = np.argsort(np.array(self.columns["end"], np.int64), kind="stable")
        n = len(order)

        def number(name: str) -> Any:
            return np.array(self.columns[name], np.int64)[order]

        def text(name: str) -> Text:
            values = self.columns[name]
            return Text.of([values[i] for i in order.tolist()])

        def ends(name: str) -> Any:
            distinct = {a: i for i, a in enumerate(dict.fromkeys(self.columns[name]))}
            place = np.array([distinct[a] for a in self.columns[name]])[order]
            return address.parse(list(distinct))[place]

        content = number("octets")
        placed = Text.of([None if c is None else "high" for c in (self.columns["country"][i] for i in order)])
        data: dict[str, Any] = {
            "local_address": ends("local"), "remote_address": ends("remote"), "local_port": number("local_port"),
            "remote_port": number("remote_port"), "protocol": number("protocol"), "flows": number("flows"),
            "octets_out": content + 52 * (content // 1400 + 1), "packets_out": content // 1400 + 1,
            "octets_in": number("octets_in"), "packets_in": np.ones(n, np.int64), "content_octets_out": content,
            "start_ns": number("start"), "end_ns": number("end"), "remote_asn": number("asn"),
            "remote_country": text("country"), "location_confidence": placed, "remote_owner": text("owner"),
            "remote_owner_country": text("owner_country"), "process": text("process"), "initiator": text("initiator"),
            "vantage": text("vantage"),
        }  # fmt: skip
        return FlowBatch.build(n, data, BatchHeader(agent_id="fleet", host="fleet"))


def spread(plan: Plan, part: float = 1.0, salt: int = 0) -> tuple[Any, Any]:
    """(octets, starts) of a transfer in uneven pieces over its days; more streams, more rows at each time."""
    chance = np.random.default_rng((plan.seed, salt))
    times = max(1, plan.days * 24 * HOUR_NS // PIECE_NS // (4 if plan.days > 7 else 1))
    if plan.days == 1:
        times = 6  # three hours of one night
    width = plan.days * DAY_NS // times if plan.days > 1 else PIECE_NS
    weights = chance.uniform(0.7, 1.3, times)
    octets = np.floor(plan.total * part * weights / weights.sum()).astype(np.int64)
    starts = T0 + 10 * HOUR_NS + np.arange(times) * width + chance.integers(0, 5 * MINUTE_NS, times)
    return octets, starts


def local_dump(rows: Rows, plan: Plan) -> None:
    """Dump over a local socket, upload by another process of the same host."""
    rows.send(DB, OWNER, *spread(plan), process="rclone")


def sidecar(rows: Rows, plan: Plan) -> None:
    """A proxy beside the store in its pod or on its host carries it out."""
    rows.send(DB, OWNER, *spread(plan), process="envoy")


def ssh_out(rows: Rows, plan: Plan) -> None:
    """``ssh -R`` or ``-D``: one long session to a machine outside."""
    rows.send(DB, OWNER, *spread(plan), process="ssh", remote_port=22)


def ssh_jump(rows: Rows, plan: Plan) -> None:
    """``ssh -L`` over a host inside that nobody registered as a jump host."""
    octets, starts = spread(plan)
    rows.send(DB, STAGING[0], octets, starts, process="sshd", local_port=22, initiator="remote")
    rows.send(STAGING[0], OWNER, octets, starts + 2 * SECOND_NS, process="ssh", remote_port=22)


def proxy_logged(rows: Rows, plan: Plan) -> None:
    """Through the registered proxy, whose log is read."""
    octets, starts = spread(plan)
    rows.send(DB, PROXY, octets, starts, remote_port=3128)
    rows.send(PROXY, OWNER, octets, starts + SECOND_NS, process="squid")
    rows.send(DB, OWNER, octets, starts + SECOND_NS, vantage="squid", local_port=-1)


def proxy_blind(rows: Rows, plan: Plan) -> None:
    """Through the registered proxy, whose log nobody reads, amid its other clients."""
    octets, starts = spread(plan)
    rows.send(DB, PROXY, octets, starts, remote_port=3128)
    rows.send(PROXY, OWNER, octets, starts + SECOND_NS, process="squid")


def many_addresses(rows: Rows, plan: Plan) -> None:
    """Many streams to many addresses of one owner."""
    octets, starts = spread(plan)
    ends = max(2, min(plan.streams, 250))
    for n in range(ends):
        rows.send(DB, OWNER, octets // ends, starts + n * SECOND_NS // 10, to_address=f"203.0.113.{n + 1}")


def many_stores(rows: Rows, plan: Plan) -> None:
    """Each of eight stores of one legal entity sends a part to one owner."""
    for n, store in enumerate(OTHERS):
        rows.send(store, OWNER, *spread(plan, 1 / len(OTHERS), n))


def trickle(rows: Rows, plan: Plan) -> None:
    """A little all the time."""
    octets, starts = spread(plan)
    for shift in range(4):
        rows.send(DB, OWNER, octets // 4, starts + shift * 7 * MINUTE_NS)


def relayed(rows: Rows, plan: Plan) -> None:
    """Store, hosts inside, outside: each passes on what it takes within minutes."""
    octets, starts = spread(plan)
    ways: tuple[str, ...] = (DB, *STAGING[: plan.hops])
    receivers: tuple[str | Net, ...] = (*ways[1:], OWNER)
    for leg, (source, to) in enumerate(zip(ways, receivers, strict=True)):
        rows.send(
            source, to, octets, starts + leg * 90 * SECOND_NS, remote_port=22 if leg < plan.hops else 443
        )


def relayed_later(rows: Rows, plan: Plan) -> None:
    """The same, but each host keeps it for some hours first."""
    octets, starts = spread(plan)
    lag = int(np.random.default_rng(plan.seed).integers(1, 6)) * HOUR_NS
    ways: tuple[str, ...] = (DB, *STAGING[: plan.hops])
    receivers: tuple[str | Net, ...] = (*ways[1:], OWNER)
    for leg, (source, to) in enumerate(zip(ways, receivers, strict=True)):
        rows.send(source, to, octets, starts + leg * lag)


def relayed_amid(rows: Rows, plan: Plan) -> None:
    """The same, on hosts that serve fifty other clients with ten times the volume."""
    relayed(rows, plan)
    octets, starts = spread(plan, 10 / 50, salt=1)
    for n, client in enumerate(CLIENTS):
        chance = np.random.default_rng((plan.seed, n))
        share = np.maximum((octets * chance.uniform(0.2, 1.8, len(octets))).astype(np.int64), 1)
        when = starts + int(chance.integers(0, 20)) * MINUTE_NS
        rows.send(STAGING[0], client, share, when, initiator="remote", local_port=443, remote_port=50_000)
        rows.send(STAGING[0], (NEUTRAL, PARTNER, BACKUP)[n % 3], share, when)


def staging(rows: Rows, plan: Plan) -> None:
    """Several hosts inside, each with a part."""
    octets, starts = spread(plan, 1 / 4)
    for n, host in enumerate(STAGING[:4]):
        rows.send(DB, host, octets, starts + n * MINUTE_NS)
        rows.send(host, OWNER, octets, starts + (n + 2) * MINUTE_NS)


def backup_copy(rows: Rows, plan: Plan) -> None:
    """Out of the registered backup copy."""
    rows.send(COPY, OWNER, *spread(plan))


def rogue_replica(rows: Rows, plan: Plan) -> None:
    """A replica that nobody registered, on a host inside; it goes out eight days later, by disk or by wire."""
    octets, starts = spread(plan)
    rows.send(DB, STAGING[1], octets, starts, process="postgres", local_port=5432, initiator="remote")
    rows.send(STAGING[1], OWNER, octets, starts + (plan.days + 8) * DAY_NS)


def home(rows: Rows, plan: Plan) -> None:
    """The owner's own region in the country of the store."""
    rows.send(DB, HOME, *spread(plan))


def neutral_cloud(rows: Rows, plan: Plan) -> None:
    """A cloud at home that no list names."""
    rows.send(DB, NEUTRAL, *spread(plan))


def hidden(rows: Rows, plan: Plan) -> None:
    """A VPN, Tor or a reseller: the receiver cannot be seen."""
    rows.send(DB, HIDDEN, *spread(plan))


def twin(rows: Rows, plan: Plan) -> None:
    """The store's and the owner's IPv6 addresses."""
    rows.send(VICTIM, TWIN, *spread(plan))


def dns(rows: Rows, plan: Plan) -> None:
    """Volume in DNS questions."""
    rows.send(DB, OWNER, *spread(plan), protocol=17, remote_port=53, process="systemd-resolve")


def icmp(rows: Rows, plan: Plan) -> None:
    """Volume in echo requests."""
    rows.send(DB, OWNER, *spread(plan), protocol=1, local_port=-1, remote_port=-1, process=None)


def quic(rows: Rows, plan: Plan) -> None:
    """Volume over UDP 443."""
    rows.send(DB, OWNER, *spread(plan), protocol=17)


def public_service(rows: Rows, plan: Plan) -> None:
    """Responses of a store that answers strangers by purpose."""
    rows.send(
        WEB, OWNER, *spread(plan), initiator="remote", local_port=443, remote_port=50_000, process="nginx"
    )


def exemption(rows: Rows, plan: Plan) -> None:
    """To the receiver of an approved transfer (cap 1 GB in 24 h)."""
    rows.send(DB, PARTNER, *spread(plan))


def maintenance(rows: Rows, plan: Plan) -> None:
    """Fetched over a supplier's connection from outside."""
    rows.send(
        DB, HIDDEN, *spread(plan), initiator="remote", local_port=22, remote_port=50_000, process="sshd"
    )


def agent_off(rows: Rows, plan: Plan) -> None:
    """The agent of the store's host was off: there are no rows of it."""
    spread(plan)


Tactic = Callable[[Rows, Plan], None]
TACTICS: Final[Mapping[str, Tactic]] = {
    "dump locally, upload by another process": local_dump,
    "sidecar": sidecar,
    "ssh -R, -D": ssh_out,
    "ssh -L over a host inside": ssh_jump,
    "registered proxy, log read": proxy_logged,
    "registered proxy, no log": proxy_blind,
    "many streams, many addresses, one owner": many_addresses,
    "many stores, one owner": many_stores,
    "trickle": trickle,
    "relay, 1 hop": lambda rows, plan: relayed(rows, _hops(plan, 1)),
    "relay, 2 hops": lambda rows, plan: relayed(rows, _hops(plan, 2)),
    "relay, 3 hops": lambda rows, plan: relayed(rows, _hops(plan, 3)),
    "relay, kept for hours first": relayed_later,
    "relay amid 50 clients at ten times the volume": relayed_amid,
    "several staging hosts": staging,
    "registered backup copy": backup_copy,
    "rogue replica, out after eight days": rogue_replica,
    "owner's region at home": home,
    "neutral cloud": neutral_cloud,
    "VPN, Tor, reseller": hidden,
    "IPv6 twin": twin,
    "DNS volume": dns,
    "ICMP volume": icmp,
    "QUIC volume": quic,
    "responses of a public service": public_service,
    "riding an approved transfer": exemption,
    "abuse of a maintenance connection": maintenance,
    "agent off during the transfer": agent_off,
}


def _hops(plan: Plan, hops: int) -> Plan:
    return Plan(plan.total, plan.days, plan.streams, hops, plan.seed)


# ordinary life


def quiet(rows: Rows, plan: Plan) -> None:
    """A store that hardly anybody asks."""
    days = range(plan.days + 2)
    rows.send(
        DB, CLIENTS[0], MB, [T0 + d * DAY_NS + HOUR_NS for d in days], initiator="remote", local_port=5432
    )


def ordinary(rows: Rows, plan: Plan) -> None:
    """Clients inside, a nightly backup to a provider, an application that answers the world."""
    quiet(rows, plan)
    chance = np.random.default_rng((plan.seed, 77))
    hours = T0 + np.arange((plan.days + 2) * 8) * 3 * HOUR_NS
    for host in (*CLIENTS[:2], STAGING[5]):
        octets = (20 * MB * chance.lognormal(0, 0.5, len(hours))).astype(np.int64)
        rows.send(DB, host, octets, hours, initiator="remote", local_port=5432, process="postgres")
    answers = (12 * MB * chance.lognormal(0, 0.5, len(hours))).astype(np.int64)
    rows.send(STAGING[5], PARTNER, answers, hours + MINUTE_NS, initiator="remote", local_port=443)
    rows.send(STAGING[5], OWNER, answers // 100, hours + 2 * MINUTE_NS, initiator="remote", local_port=443)
    nights = T0 + np.arange(plan.days + 2) * DAY_NS + 2 * HOUR_NS
    backup = (2 * GB * chance.lognormal(0, 0.1, len(nights))).astype(np.int64)
    rows.send(DB, BACKUP, backup, nights, process="restic", length_ns=20 * MINUTE_NS)


def busy(rows: Rows, plan: Plan) -> None:
    """The same, and all staging hosts work hard for many, also towards the owner."""
    ordinary(rows, plan)
    chance = np.random.default_rng((plan.seed, 78))
    hours = T0 + np.arange((plan.days + 2) * 8) * 3 * HOUR_NS + 20 * MINUTE_NS
    for host in (*STAGING[:3], PROXY):
        octets = (300 * MB * chance.lognormal(0, 0.6, len(hours))).astype(np.int64)
        rows.send(host, CLIENTS[7], octets, hours, initiator="remote", local_port=443)
        rows.send(host, NEUTRAL, octets // 2, hours)
        rows.send(host, OWNER, octets // 300, hours)
        rows.send(DB, host, octets // 30, hours, initiator="remote", local_port=5432, process="postgres")


def own_upload(rows: Rows, plan: Plan) -> None:
    """A host that takes from the store and, apart from that, sends the owner data of its own: a hundredth to ten times
    as much."""
    chance = np.random.default_rng((plan.seed, 79))
    taken, starts = spread(Plan(int(10 ** chance.uniform(8, 10.5)), plan.days, seed=plan.seed), salt=80)
    sent, later = spread(
        Plan(int(taken.sum() * 10 ** chance.uniform(-2, 1)), plan.days, seed=plan.seed), salt=81
    )
    rows.send(DB, STAGING[6], taken, starts, initiator="remote", local_port=5432, process="postgres")
    rows.send(STAGING[6], OWNER, sent, later + int(chance.integers(0, 4)) * HOUR_NS)


BACKGROUNDS: Final[Mapping[str, Tactic]] = {"quiet": quiet, "ordinary": ordinary, "busy": busy}


def pieces(batch: FlowBatch, size: int = 20_000) -> Iterator[FlowBatch]:
    """The batch in parts."""
    for begin in range(0, len(batch), size):
        yield batch.take(np.arange(begin, min(begin + size, len(batch))))

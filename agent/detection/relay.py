"""What other hosts send on of what they took from a store: store -> host -> ... -> outside, up to three hosts.

Minute by minute, when the watermark has passed it. Each (store, host) has a balance of content octets: what the store, or
a host before this one, sent it within a day. What the host sends to an end that a rule restricts is taken off the balance,
oldest first, as an upper bound; what it passes on inside is put on the next host's balance as well. It is *matched* where
time and volume fit, and only that becomes rows of the store (basis ``relay``); the rest is *possible*, and only told.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from agent.core.clock import HOUR_NS, MINUTE_NS, SECOND_NS
from agent.core.finding import Relay, RelayState
from agent.core.grouping import groups
from agent.detection.admit import AMOUNTS, NUMBERS, TEXTS, Step
from agent.detection.balances import HELD_HOURS, Balances, Columns
from agent.detection.carriers import HOPS, Carriers
from agent.detection.cube import PATH, RELAYED, Cube
from agent.detection.hours import WEEK, median_where
from agent.detection.keys import NONE, Bools, Ints, grown
from agent.detection.pack import part
from agent.detection.restricted import Asks

PENDING: Final = 1_000_000
"""Rows that wait for their minute to be over."""
CLOCK_NS: Final = 2 * SECOND_NS
"""Clocks of two hosts may be apart by so much, one second each."""
LEAST, MOST = 0.3, 1.3
"""What a host sent, as a part of what it took, where the one may be the other."""
TOLD: Final = 8
_COLUMNS: Final = (
    *(n for n in TEXTS if n not in ("basis", "vantage")),
    "host",
    *NUMBERS,
    *AMOUNTS,
    "estimated",
    "start_ns",
    "end_ns",
)
_STORE, _OUT, _NEAR = 0, 1, 2
_NEVER: Final = 2**62


class Relays:
    """Balances of every store at every host that took from it. Not thread-safe."""

    def __init__(self, cube: Cube) -> None:
        self._cube = cube
        self.carriers = Carriers()
        self._pending: list[Columns] = []
        self._first_minute = _NEVER
        self._now_ns = 0
        self._held = Balances()
        self.use()

    def use(self) -> None:
        """Another policy or table of owners is in force."""
        self._asks = Asks(self._cube, self._held)

    # rows in

    def take(self, step: Step) -> None:
        """Take the rows of a step to other own hosts, and those of hosts that took something."""
        self.carriers.take(step.meta.get("carriers", []))
        if self.carriers.let_go:
            self._count("relay_hosts_let_go", self.carriers.let_go)
            self.carriers.let_go = 0
        for rows, kind in ((step.internal, _STORE), (step.onward, _OUT)):
            if rows.rows:
                self._wait(rows, kind)

    def _wait(self, rows: Step, kind: int) -> None:
        columns = self._cube.columns(rows)
        held: Columns = {n: columns[n] if n in columns else rows.arrays[n] for n in _COLUMNS}
        held["kind"] = np.full(rows.rows, kind)
        if kind == _OUT:
            held["kind"][rows.arrays["near"] > 0] = _NEAR
        held["local"], held["remote"] = (rows.arrays[n].view(np.int64) for n in ("local", "remote"))
        held["own"] = columns["store"]
        columns |= {"store": np.full(rows.rows, NONE), "shared": np.full(rows.rows, RELAYED)}
        held["end"] = np.full(rows.rows, NONE)
        out = np.flatnonzero(held["kind"] == _OUT)
        if len(out):
            held["end"][out] = self._held.ends.ids([columns[n][out] for n in PATH])
        # What came after its minute was judged counts in the one that runs.
        held["minute"] = np.maximum(rows.arrays["end_ns"], rows.arrays["before_ns"]) // MINUTE_NS
        keep = (held["kind"] != _OUT) | (held["end"] >= 0)
        room = max(0, PENDING - sum(len(p["kind"]) for p in self._pending))
        keep &= np.cumsum(keep) <= room
        if not keep.all():
            self._count("relay_rows_let_go", int((~keep).sum()))
            held = {n: c[keep] for n, c in held.items()}
        if len(held["minute"]):
            self._pending.append(held)
            self._first_minute = min(self._first_minute, int(held["minute"].min()))

    def pass_to(self, watermark_ns: int) -> Columns | None:
        """Judge every minute that is over; gives the rows that count for a store, in order, or None.

        Their ``before_ns`` is the end of the minute in which they were judged."""
        due = watermark_ns // MINUTE_NS
        if self._first_minute >= due:
            return None
        rows = {n: np.concatenate([p[n] for p in self._pending]) for n in self._pending[0]}
        order = np.argsort(rows["minute"], kind="stable")
        minutes = rows["minute"][order]
        over = int(np.searchsorted(minutes, due))
        rest = np.sort(order[over:])
        self._pending = [{n: c[rest] for n, c in rows.items()}] if len(rest) else []
        self._first_minute = int(minutes[over]) if len(rest) else _NEVER
        cuts = np.flatnonzero(np.r_[True, minutes[1:over] != minutes[: over - 1], True])
        found = []
        for begin, end in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True):
            now = {n: c[order[begin:end]] for n, c in rows.items()}
            for made in self._minute(now, int(minutes[begin])):
                made["before_ns"] = np.full(len(made["end_ns"]), (int(minutes[begin]) + 1) * MINUTE_NS)
                found.append(made)
        return {n: np.concatenate([f[n] for f in found]) for n in found[0]} if found else None

    # one minute

    def _minute(self, rows: Columns, minute: int) -> list[Columns]:
        hour = minute * MINUTE_NS // HOUR_NS
        if self._held.is_nearly_full:
            self._count("relay_links_let_go", self._held.prune())
        self._now_ns = minute * MINUTE_NS
        inside = np.flatnonzero(rows["kind"] != _OUT)
        nodes = self._held.nodes.ids([np.r_[rows["local"][:, i], rows["remote"][inside, i]] for i in (0, 1)])
        rows["from"], rows["to"] = nodes[: len(rows["kind"])], np.full(len(rows["kind"]), NONE)
        rows["to"][inside] = nodes[len(rows["kind"]) :]
        self._held.home = grown(self._held.home, self._held.nodes.count, NONE)
        self._held.link = grown(self._held.link, self._held.links.limit)
        self._held.exit = grown(self._held.exit, self._held.exits.limit)
        for hours, keys in (
            (self._held.left, self._held.links),
            (self._held.taken, self._held.links),
            (self._held.sent, self._held.sends),
        ):
            hours.advance(hour, keys.count)
        stores = np.flatnonzero(rows["kind"] == _STORE)
        self._held.home[rows["from"][stores]] = rows["own"][stores]
        at_home = self._held.home[rows["to"][stores]] == rows["own"][stores]
        stores = stores[~at_home]
        key = [rows["tenant"][stores], rows["own"][stores], rows["to"][stores]]
        octets, starts = rows["content_octets_out"][stores], rows["start_ns"][stores]
        self._put(key, octets, starts, hop=1, before=np.full(len(stores), NONE))
        out = self._outward(rows)
        found = []
        for hop in range(1, HOPS + 1):
            found += self._leave(rows, out, hop)
            if hop < HOPS:
                self._pass_on(rows, hop)
        return found

    def _put(self, key: list[Ints], octets: Ints, starts: Ints, *, hop: int, before: Ints) -> None:
        """Octets on the balances of (tenant, store, node)."""
        if not len(octets):
            return
        known = self._held.links.count
        ids = self._held.links.ids(key)
        if (ids < 0).any():
            self._count("relay_links_let_go", int((ids < 0).sum()))
        kept = ids >= 0
        ids, octets, starts, before = ids[kept], octets[kept], starts[kept], before[kept]
        for hours in (self._held.left, self._held.taken):
            hours.advance(hours.state(0)[0], self._held.links.count)
        self._held.link[:, known : self._held.links.count] = np.array([[HOPS + 1], [NONE], [_NEVER]])
        idle = self._held.took(ids) == 0
        self._held.link[2, ids[idle]] = _NEVER
        self._held.link[0, ids[idle]] = HOPS + 1
        nearer = self._held.link[0, ids] > hop
        self._held.link[0, ids[nearer]] = hop
        self._held.link[1, ids[nearer]] = before[nearer]
        np.minimum.at(self._held.link[2], ids, starts)
        self._held.left.add(ids, octets)
        self._held.taken.add(ids, octets)

    def _outward(self, rows: Columns) -> Ints:
        """Rows to the outside, by entity; and what each host sent to each."""
        out = np.flatnonzero(rows["kind"] == _OUT)
        rows["entity"] = np.full(len(rows["kind"]), NONE)
        if len(out):
            used, inverse = np.unique(rows["end"][out], return_inverse=True)
            rows["entity"][out] = np.array(
                [self._asks.entity(end, self._now_ns) for end in used.tolist()], np.int64
            )[inverse]
            ids = self._held.sends.ids([rows["from"][out], rows["entity"][out]])
            self._count("relay_sends_let_go", int((ids < 0).sum()))
            self._held.sent.advance(self._held.sent.state(0)[0], self._held.sends.count)
            self._held.sent.add(ids[ids >= 0], rows["content_octets_out"][out[ids >= 0]])
            out = out[ids >= 0]
        return out

    def _joined(self, rows: Columns, some: Ints, hop: int) -> tuple[Ints, Ints]:
        """Each row with each link of this hop to the host that sent it."""
        links = np.flatnonzero(self._held.link[0, : self._held.links.count] == hop)
        nodes = self._held.links.columns[2, links]
        order = np.argsort(nodes, kind="stable")
        low = np.searchsorted(nodes[order], rows["from"][some])
        count = np.searchsorted(nodes[order], rows["from"][some], side="right") - low
        row = np.repeat(np.arange(len(some)), count)
        within = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
        link = links[order[low[row] + within]] if len(row) else row
        same = rows["tenant"][some[row]] == self._held.links.columns[0, link]
        return some[row[same]], link[same]

    def _pass_on(self, rows: Columns, hop: int) -> None:
        """What hosts send to other own hosts goes on their balances, too."""
        row, link = self._joined(rows, np.flatnonzero(rows["kind"] == _NEAR), hop)
        tenant, store = self._held.links.columns[0, link], self._held.links.columns[1, link]
        fits = (self._held.home[rows["to"][row]] != store) & (rows["own"][row] != store)
        fits &= rows["start_ns"][row] >= self._held.link[2, link] - CLOCK_NS
        row, link, tenant, store = row[fits], link[fits], tenant[fits], store[fits]
        if not len(row):
            return
        order, starts = groups([rows["to"][row], link])
        first = order[starts]
        octets = np.add.reduceat(rows["content_octets_out"][row][order], starts)
        octets = np.minimum(octets, self._held.left.last(link[first]).sum(axis=1))
        begin = np.minimum.reduceat(rows["start_ns"][row][order], starts)
        kept = octets > 0
        first = first[kept]
        key = [tenant[first], store[first], rows["to"][row[first]]]
        self._put(key, octets[kept], begin[kept], hop=hop + 1, before=link[first])

    def _leave(self, rows: Columns, out: Ints, hop: int) -> list[Columns]:
        """What hosts send to restricted ends is charged to the stores that they took from."""
        row, link = self._joined(rows, out, hop)
        fits = self._asks.forwards(rows, row, logged=True)  # each of its clients has rows of its own
        row, link = row[~fits], link[~fits]
        store = self._held.links.columns[1, link]
        fits = rows["own"][row] != store
        row, link, store = row[fits], link[fits], store[fits]
        fits = self._asks.aimed(rows["end"][row], self._held.links.columns[0, link], store, self._now_ns)
        row, link = row[fits], link[fits]
        if not len(row):
            return []
        order, starts = groups([rows["entity"][row], link])
        row, link = row[order], link[order]
        g_link, g_entity = link[starts], rows["entity"][row[starts]]
        octets = np.add.reduceat(rows["content_octets_out"][row], starts)
        begin = np.minimum.reduceat(rows["start_ns"][row], starts)
        carried = self._spend(g_link, octets)
        known = self._held.exits.count
        exits = self._held.exits.ids([g_link, g_entity])
        self._count("relay_links_let_go", int((exits < 0).sum()))
        self._held.exit[:, known : self._held.exits.count] = np.array([[0], [0], [0], [_NEVER], [0], [NONE]])
        matched = (exits >= 0) & self._matches(g_link, rows["from"][row[starts]], g_entity, begin)
        matched &= ~self._asks.forwards(rows, row[starts])
        return self._charge(rows, row, starts, g_link, exits, carried, matched)

    def _spend(self, links: Ints, octets: Ints) -> Ints:
        """Off the balances, a link several times in turn. ``links`` is sorted."""
        carried = np.zeros(len(links), np.int64)
        turn = np.arange(len(links)) - np.searchsorted(links, links)
        for i in range(int(turn.max(initial=-1)) + 1):
            mine = np.flatnonzero(turn == i)
            carried[mine] = self._held.left.spend(links[mine], octets[mine])
        return carried

    def _matches(self, links: Ints, nodes: Ints, entities: Ints, begin: Ints) -> Bools:
        """Whether time and volume fit: sent after the first octet was taken, and 0.3 to 1.3 of what was taken, less what
        the host sends there in an hour in which it takes nothing."""
        sends = self._held.sends.ids([nodes, entities])
        taken, sent = self._held.taken.last(links), self._held.sent.last(sends)
        usual = median_where(sent, taken == 0)
        hour = self._held.taken.state(0)[0]
        since = np.clip(hour - self._held.link[2, links] // HOUR_NS + 1, 1, HELD_HOURS)
        recent = np.arange(WEEK)[None] >= WEEK - since[:, None]
        more = np.maximum((sent * recent).sum(axis=1) - usual * since, 0)
        whole = taken[:, -HELD_HOURS:].sum(axis=1)
        in_time = begin >= self._held.link[2, links] - CLOCK_NS
        return np.asarray(in_time & (more >= LEAST * whole) & (more <= MOST * whole) & (whole > 0))

    def _charge(
        self, rows: Columns, row: Ints, starts: Ints, links: Ints, exits: Ints, carried: Ints, matched: Bools
    ) -> list[Columns]:
        """Note what was carried; gives the matched of it as rows, with what of before has matched by now."""
        ends = np.r_[starts[1:], len(row)]
        whole = self._held.took(links)
        made = []
        for i in np.flatnonzero((carried > 0) & (exits >= 0)).tolist():
            mine, exit_ = row[starts[i] : ends[i]], int(exits[i])
            note = self._held.exit[:, exit_]
            last = int(rows["end_ns"][mine].max())
            begin = int(rows["start_ns"][mine].min())
            if last - note[4] > HELD_HOURS * HOUR_NS:
                note[2] = 0
            note[5] = rows["host"][mine[0]]
            if matched[i]:
                backlog = min(int(note[2]), int(whole[i]))
                since = int(note[3]) if backlog else begin
                note[0] += carried[i] + backlog
                note[1] -= backlog
                note[2] = 0
                made.append(self._rows(rows, mine, int(links[i]), int(carried[i]), backlog, since))
            else:
                note[1] += carried[i]
                note[2] += carried[i]
            note[3], note[4] = min(int(note[3]), begin), max(int(note[4]), last)
        return made

    def _rows(self, rows: Columns, mine: Ints, link: int, carried: int, backlog: int, since: int) -> Columns:
        """The part of some rows that was carried, as rows of the store; the first again for what was carried before."""
        if backlog:
            mine = np.r_[mine, mine[:1]]
        made = {n: rows[n][mine] for n in (*_COLUMNS, "local", "remote")}
        content = made["content_octets_out"].copy()
        of_now = len(content) - bool(backlog)
        upto = np.cumsum(content[:of_now])
        part = carried / max(int(upto[-1]), 1)
        scaled = np.minimum(np.floor(upto * part), carried).astype(np.int64)
        scaled[-1] = carried
        made["content_octets_out"][:of_now] = np.diff(scaled, prepend=0)
        if backlog:
            made["content_octets_out"][-1] = backlog
            made["start_ns"][-1] = since
            made["flows"][-1] = 0
        for name in ("octets_out", "packets_out", "octets_in", "packets_in"):
            ratio = made["content_octets_out"] / np.maximum(content, 1)
            made[name] = np.rint(made[name] * ratio).astype(np.int64)
        made["store"] = np.full(len(mine), self._held.links.columns[1, link])
        return made

    def _count(self, reason: str, n: int) -> None:
        if n:
            self._cube.reasons[reason] = self._cube.reasons.get(reason, 0) + n

    # what is told

    def told(self, tenant: str, store: str, entity: str, since_ns: int) -> tuple[Relay, ...]:
        """Each way over other hosts from a store to an entity since then, the largest first."""
        names = self._cube.names
        link, end = self._held.exits.columns
        mine = (end == names.known(entity)) & (self._held.exit[4, : len(link)] >= since_ns)
        mine &= self._held.links.columns[1, link] == names.known(store)
        mine &= self._held.links.columns[0, link] == names.known(tenant)
        mine &= self._held.exit[:2, : len(link)].sum(axis=0) > 0
        ids = np.flatnonzero(mine)
        order = np.lexsort((ids, -self._held.exit[:2, ids].sum(axis=0)))
        return tuple(self._told(int(i)) for i in ids[order][:TOLD])

    def _told(self, exit_: int) -> Relay:
        link = int(self._held.exits.columns[0, exit_])
        matched, possible, _, first, last, host = self._held.exit[:, exit_].tolist()
        name = self._cube.names.text(host)
        forwarder = self._asks.forwarder(int(self._held.links.columns[2, link]), name)
        chain: list[str] = []
        at = link
        while at >= 0 and len(chain) < HOPS:
            chain.append(self._held.address(int(self._held.links.columns[2, at])))
            at = int(self._held.link[1, at])
        of_link = np.array([link])
        return Relay(
            hosts=tuple(reversed(chain)),
            host=name,
            forwarder=forwarder.id if forwarder else "",
            state=RelayState.MATCHED if matched else RelayState.POSSIBLE,
            taken_octets=int(self._held.taken.last(of_link).sum()),
            matched_octets=matched,
            possible_octets=possible,
            taken_first_ns=int(self._held.link[2, link]),
            sent_first_ns=first,
            sent_last_ns=last,
        )

    # state

    def state(self) -> tuple[dict[str, Any], Columns]:
        """All of it as plain values and arrays."""
        meta, arrays = self._held.state()
        if self._pending:
            waiting = {n: np.concatenate([p[n] for p in self._pending]) for n in self._pending[0]}
            arrays |= {f"pending.{n}": c for n, c in waiting.items()}
        return meta | {"carriers": self.carriers.state()}, arrays

    def set_state(self, meta: dict[str, Any], arrays: Columns) -> None:
        """Take back what :meth:`state` gave; of an older version nothing."""
        if not meta:
            return
        self.carriers.set_state(meta["carriers"])
        self._held.set_state(meta, arrays)
        waiting = part("pending.", arrays)
        self._pending = [waiting] if waiting else []
        self._first_minute = int(waiting["minute"].min()) if waiting else _NEVER

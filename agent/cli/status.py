"""``sekisho status``: where every octet of a host or of the fleet is, and what was not observed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from agent.cli.common import (
    Command,
    Options,
    console,
    echo,
    echo_json,
    example,
    json_option,
    moment,
    size,
    table,
    words,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import tzinfo

    from agent.config import Settings
    from agent.core.accounts import Amounts
    from agent.policy.model import Policy
    from agent.receiving.standing import HostStanding, HourSeen
    from agent.store.coverage import Receipt
    from agent.words import Phrases

FULL, PART, NONE, GONE = "█", "▒", "·", " "
PLAIN: Final = {FULL: "#", PART: "-", NONE: ".", GONE: " "}
HOUR_S: Final = 3600
RECEIPTS_NS: Final = 2 * 24 * HOUR_S * 10**9
"""How old the last receipt of a rule may be to be shown."""


def _hosts(ctx: click.Context, parameter: click.Parameter, begun: str) -> list[Any]:
    from agent.cli.completing import host_names

    return host_names(ctx, parameter, begun)


@click.command(cls=Command, epilog=example("status"))
@click.option("--host", shell_complete=_hosts, help="One host whole, by its name.")
@click.option(
    "--limit",
    default=50,
    type=click.IntRange(1, 100_000),
    help="How many hosts, those that need a look first.",
)
@json_option()
@click.pass_obj
def command(options: Options, host: str | None, limit: int, as_json: bool) -> None:
    """Show where every octet is, from its capture to the decision, and what was not observed, hour by hour.

    On a host, of the program that runs there. With the state of the detector (the same settings as `sekisho detect`), of
    every host that it hears of or that its policy expects. What no term explains is the residue, and must be 0.
    """
    settings = options.load().settings
    hosts, receipts, source, now_ns = _found(settings)
    if host is not None:
        hosts = [one for one in hosts if one.host.lower() == host.lower()]
        if not hosts:
            from agent.core.errors import StateError
            from agent.core.said import said

            raise StateError(
                said(
                    "nothing is known of host {host}; `sekisho status` shows the hosts there are",
                    host=repr(host),
                )
            )
    from agent.receiving.standing import last_receipts, summed

    account, residue = summed(hosts)
    receipts = last_receipts(receipts, hosts)
    if as_json:
        from agent.covering.publishing import record_of

        echo_json(
            {
                "source": source,
                "time_ns": now_ns,
                "account": {name: amounts.as_dict() for name, amounts in account.items()},
                "residue": residue.as_dict(),
                "hosts": [one.as_dict() for one in hosts],
                "receipts": [record_of(one) for one in receipts],
            },
            indent=2,
        )
        return
    say = words(settings.language)
    if len(hosts) == 1:
        _one(hosts[0], now_ns, settings.zone, say)
        _receipts(receipts, settings.zone, say)
    else:
        _fleet(hosts, account, residue, now_ns, limit, say)


def _found(settings: Settings) -> tuple[list[HostStanding], list[Receipt], str, int]:
    """What the detector knows, where its state is here; else what the program on this host wrote down."""
    from agent.cli.opened import state_of
    from agent.core.clock import SystemClock
    from agent.core.errors import StateError
    from agent.detection.fleet import Known
    from agent.receiving import standing
    from agent.receiving.refused import by_run
    from agent.sending import telling

    now_ns = SystemClock().now_ns()
    local = telling.read(settings.state_dir)
    role = str(local.get("role", "")) if local else ""
    alone = role == "alone" and settings.detect.database is None
    if settings.detect.database is not None or role in ("detector", "") or alone:
        try:
            with state_of(settings) as state:
                receipts = state.coverage.receipts(since_ns=now_ns - RECEIPTS_NS)
                agents = [Known.of(body) for body in state.coverage.agents().values()]
                maintained = state.coverage.maintenance(now_ns)
                policy = _policy(settings)
                taken = state.coverage.taken()
                dead = by_run(state.inputs.dead(), state.inputs.pins(), state.enrolments.ended_keys())
                found = standing.of_agents(agents, taken, policy, maintained, now_ns, dead)
            if local is not None and alone:
                return [standing.of_run(local, found)], receipts, role, now_ns
            return found, receipts, "detector", now_ns
        except StateError:
            if local is None or role == "detector":
                raise
    assert local is not None
    return [standing.of_file(local)], [], role, now_ns


def _policy(settings: Settings) -> Policy:
    from datetime import UTC, datetime

    from agent.config import read_policy

    return read_policy(settings, datetime.now(UTC).date())


# one host


def _one(host: HostStanding, now_ns: int, zone: tzinfo | None, say: Phrases) -> None:
    heard = say("status.never") if not host.heard_ns else _ago(now_ns - host.heard_ns, say)
    state = say.named("status.state", host.state)
    echo(say("status.head", host=host.host, state=state, heard=heard, tier=host.tier or "-"))
    if host.no_agent:
        echo(say("status.no_agent", reason=host.no_agent))
    if host.maintained:
        echo(say("status.maintained", reason=host.maintained))
    if host.troubles:
        echo(say("status.troubles", what=say.join([say.named("hole", t) for t in host.troubles])))
    if host.stores:
        echo(say("status.stores", stores=say.join(host.stores)))
    if host.account:
        _account(host.account, host.residue, say)
    if host.waiting_octets:
        echo(say("status.spool", size=size(host.waiting_octets)))
    if host.hours is None:
        echo(say("status.hours_elsewhere"))
    else:
        echo(say("status.strip", strip=strip(host.hours), begin=moment(host.hours[0].from_ns, zone)))
        echo(say("status.strip_key", **_marks()))
    _unseen(host, zone, say)


def _account(account: Mapping[str, Amounts], residue: Amounts, say: Phrases) -> None:
    from agent.cli.screen import WHOLE, Column

    columns = [Column("account", least=WHOLE)]
    columns += [Column(name, right=True) for name in ("octets_out", "octets_in", "flows")]
    rows = table(columns, say)
    for name, amounts in (*account.items(), ("residue", residue)):
        style = "bold red" if name == "residue" and amounts else ""
        numbers = (amounts.octets_out, amounts.octets_in, amounts.flows)
        rows.add_row(_term(name, say), *(f"{n:,}" for n in numbers), style=style)
    console().print(rows)


def _term(name: str, say: Phrases) -> str:
    """``dropped (ring)`` in the language of the reader; the reason stays as it is."""
    plain, bracket, reason = name.partition(" (")
    return say.named("term", plain.replace(" ", "_")) + bracket + reason


def _unseen(host: HostStanding, zone: tzinfo | None, say: Phrases) -> None:
    if not host.unseen:
        echo(say("status.all_observed"))
        return
    echo(say("status.not_observed"))
    for one in host.unseen:
        begin = moment(one.from_ns, zone) if one.from_ns else say("status.before")
        end = moment(one.to_ns, zone) if one.to_ns is not None else say("status.goes_on")
        lost = say("status.unbounded") if one.octets is None else say("status.at_most", size=size(one.octets))
        echo("  " + say("status.hole", begin=begin, end=end, why=say.named("hole", one.reason), lost=lost))


def _receipts(receipts: Sequence[Receipt], zone: tzinfo | None, say: Phrases) -> None:
    from agent.cli.screen import WHOLE, Column
    from agent.detection.coverage import UNBOUNDED

    if not receipts:
        return
    echo(say("status.receipts"))
    rows = table(
        [
            Column("store", least=WHOLE),
            Column("rule", least=WHOLE),
            Column("window", rank=2),
            Column("said"),
            Column("until", rank=1),
            Column("largest_sum", right=True, rank=1),
            Column("lost_at_most", right=True, rank=2),
            Column("why", rank=1),
        ],
        say,
    )
    for one in receipts:
        rows.add_row(
            one.store,
            one.rule,
            one.window,
            say.named("receipt", one.verdict),
            moment(one.last_ns, zone),
            size(one.amount) if one.amount >= 0 else "-",
            say("status.no_bound") if one.lost == UNBOUNDED else size(one.lost),
            say.join([say.named("hole", reason) for reason in one.reasons]) or "-",
        )
    console().print(rows)


def strip(hours: Sequence[HourSeen], *, plain: bool | None = None) -> str:
    """A letter for each hour: whole, in part, not at all."""
    if plain is None:
        from agent.cli.screen import is_plain

        plain = is_plain(console())
    letters = [
        FULL if hour.covered_s == HOUR_S and hour.lost == 0 else (PART if hour.covered_s else NONE)
        for hour in hours
    ]
    return "".join(PLAIN[letter] if plain else letter for letter in letters)


def _marks() -> dict[str, str]:
    from agent.cli.screen import is_plain

    plain = is_plain(console())
    names = {"full": FULL, "part": PART, "none": NONE}
    return {name: PLAIN[letter] if plain else letter for name, letter in names.items()}


# the fleet


def _fleet(
    hosts: Sequence[HostStanding],
    account: Mapping[str, Amounts],
    residue: Amounts,
    now_ns: int,
    limit: int,
    say: Phrases,
) -> None:
    from agent.cli.screen import WHOLE, Column

    if not hosts:
        echo(say("status.no_host"))
        return
    states: dict[str, int] = {}
    for host in hosts:
        states[host.state] = states.get(host.state, 0) + 1
    told = [f"{say.named('status.state', name)} {n:,}" for name, n in sorted(states.items())]
    echo(say("status.hosts", n=len(hosts), states=say.join(told)))
    _account(account, residue, say)
    rows = table(
        [
            Column("host", least=WHOLE),
            Column("state"),
            Column("heard", right=True, rank=2),
            Column("tier", rank=3),
            Column("last_24_h", least=WHOLE, rank=1),
            Column("on_the_way", right=True, rank=2),
            Column("trouble", rank=1),
        ],
        say,
    )
    for host in sorted(hosts, key=_need)[:limit]:
        on_the_way = host.account.get("on the way")
        rows.add_row(
            host.host,
            say.named("status.state", host.state),
            _ago(now_ns - host.heard_ns, say) if host.heard_ns else "-",
            host.tier or "-",
            strip(host.hours or ()),
            size(on_the_way.octets_out) if on_the_way else "-",
            say.join([say.named("hole", t) for t in host.troubles]) or host.maintained or "-",
        )
    console().print(rows)
    if len(hosts) > limit:
        echo(say("status.more", shown=limit, all=len(hosts)))
    echo(say("status.strip_key", **_marks()))


def _need(host: HostStanding) -> tuple[object, ...]:
    """Those that need a look first."""
    lost = any(hour.lost is None for hour in host.hours or ())
    return (not host.residue, not host.troubles, host.state == "talking", not lost, host.host)


def _ago(ns: int, say: Phrases) -> str:
    seconds = max(ns, 0) // 10**9
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return say(f"status.ago_{unit}", n=seconds // length)
    return say("status.ago_s", n=seconds)

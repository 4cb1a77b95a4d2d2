"""The ownership table as a page for people."""

from __future__ import annotations

from collections.abc import Iterator

from agent.policy.holders import Stake, percent, weaker
from agent.policy.owner_rows import OwnerRow
from agent.policy.ownership import Ownership


def page(ownership: Ownership) -> str:
    """The table as a Markdown page. A country in brackets is where the holder is organised."""
    lines = [
        "# Who owns the network at the other end",
        "",
        "<!-- Made by `python -m agent.policy.ownership`; edit agent/policy/ownership.yaml instead. -->",
        "",
        f"Version {ownership.version}. The head of `agent/policy/ownership.yaml` explains fields and marks; the mark",
        "shown is the weaker of the owner's and of the step that leads to it. Not on record is shown as `-`.",
        "",
        "| AS | holder (organised in) | provider | owner, head office, share | lists | mark | checked | flags | source; note |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [f"| {' | '.join(_cells(row))} |" for row in ownership.rows]
    lines += ["", "## Who holds how much of whom", "", *_LAW, ""]
    lines += ["| held | holder, head office | share | votes | counts | mark | checked | source; note |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    lines += [f"| {' | '.join(_stake(stake, ownership))} |" for stake in ownership.graph.stakes]
    return "\n".join(lines) + "\n"


def _cells(row: OwnerRow) -> Iterator[str]:
    flags = [name for name in ("disputed", "review", "state_control") if getattr(row, name)]
    yield ", ".join(map(str, row.asns))
    yield f"{row.organisation} ({row.organised_in or '-'})".replace("|", "\\|")
    yield f"`{row.provider}`"
    share = f", {row.share}" if row.share else ""
    yield f"{row.owner_name} (`{row.owner}`), {row.owner_country or '-'}{share}".replace("|", "\\|")
    yield "; ".join(map(str, row.designations)) or "-"
    yield row.weakest
    yield row.checked.isoformat()
    yield ", ".join(flags).replace("state_control", "state control") or "-"
    yield (row.source + (f"; {row.note}" if row.note else "")).replace("|", "\\|")


_LAW = (
    "A holder with more than half of capital or votes decides, and the ultimate owner is found by going from one to",
    "the next. Beside that, shares are added up as 28 CFR 202.211(a)(1) and (2) do (mark V): a company belongs to a",
    "destination set also when owners that the set names hold 50 % or more of it together, directly or through",
    "companies that they hold 50 % or more of. A share that is not on record adds nothing; neither does a stake that",
    "is disputed or was given up. By 28 CFR 202.256 (mark V) a subsidiary organised in the US is a US person whoever",
    "holds it, so its networks say `review`. This is arithmetic over what is on record, and no finding of law.",
    "",
    "A file of your own wins over this table (setting `ownership:`): an owner by its id, a stake by both its ends, a",
    "network by its number. Its fields are explained at the head of `agent/policy/ownership.yaml`.",
)


def _stake(stake: Stake, ownership: Ownership) -> Iterator[str]:
    of, by = ownership.graph.owners[stake.of], ownership.graph.owners[stake.by]
    yield f"{of.name} (`{of.id}`)".replace("|", "\\|")
    yield f"{by.name} (`{by.id}`), {by.country or '-'}".replace("|", "\\|")
    yield "-" if stake.share is None else percent(stake.share)
    yield "-" if stake.votes is None else percent(stake.votes)
    yield "decides" if stake.counts and stake.decides else "yes" if stake.counts else "no"
    yield weaker(stake.mark, by.mark)
    yield stake.checked.isoformat()
    yield (stake.source + (f"; {stake.note}" if stake.note else "")).replace("|", "\\|")

"""``sekisho flows``: query the archive."""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from agent.cli.common import Options, console, example, moment, place, point_ns, size, table
from agent.core.clock import SystemClock
from agent.core.flow import FlowBatch

GROUPS = {
    "owner": ("remote_owner", "remote_owner_country"),
    "country": ("remote_country",),
    "network": ("remote_as_org", "remote_country"),
    "store": ("store",),
    "remote": ("remote_address",),
    "process": ("process",),
}
AMOUNTS = ("octets_out", "octets_in", "flows")


@click.command(epilog=example("flows"))
@click.option(
    "--since",
    default="1h",
    show_default=True,
    metavar="WHEN",
    help="A span (2h, 7d) or a time (2026-11-18T16:00).",
)
@click.option("--until", metavar="WHEN", help="The same; default now.")
@click.option("--store", help="Rows of one store.")
@click.option("--remote", metavar="CIDR", help="Rows of one remote address or network.")
@click.option("--by", "group", type=click.Choice(list(GROUPS)), help="Sum by this instead of listing rows.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10_000_000))
@click.option(
    "--archive",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the archive. Default: state_dir/archive.",
)
@click.option("--json", "as_json", is_flag=True, help="JSON lines.")
@click.pass_obj
def command(
    options: Options,
    since: str,
    until: str | None,
    store: str | None,
    remote: str | None,
    group: str | None,
    limit: int,
    archive: Path | None,
    as_json: bool,
) -> None:
    """List or sum the flows of the archive, newest first or most octets first."""
    from agent.store.flows import read_flows

    settings = options.load().settings
    now_ns = SystemClock().now_ns()
    try:
        network = ipaddress.ip_network(remote, strict=False) if remote else None
    except ValueError:
        raise click.UsageError(
            f"--remote {remote}: expected an address or network such as 203.0.113.0/24"
        ) from None
    batches = read_flows(
        archive or settings.state_dir / "archive",
        since_ns=point_ns(since, "--since", now_ns, settings.zone),
        until_ns=point_ns(until, "--until", now_ns, settings.zone) if until else None,
        store=store,
        remote=network,
        limit=None if group else limit,
    )
    if group:
        sums: dict[tuple[Any, ...], list[int]] = {}
        for batch in batches:
            _add(sums, batch, GROUPS[group])
        ranked = sorted(sums.items(), key=lambda item: -item[1][0])[:limit]
        _print_sums(GROUPS[group], ranked, as_json=as_json)
    else:
        rows = [row for batch in batches for row in batch.rows()]
        _print_rows(sorted(rows, key=lambda row: -int(row["end_ns"]))[:limit], settings.zone, as_json=as_json)


def _add(sums: dict[tuple[Any, ...], list[int]], batch: FlowBatch, names: tuple[str, ...]) -> None:
    parts: list[NDArray[np.uint64]] = []
    for name in names:
        data = batch[name]
        parts += [data[:, 0], data[:, 1]] if data.ndim == 2 else [data.astype(np.uint64)]
    distinct, first, inverse = np.unique(
        np.stack(parts, axis=1), axis=0, return_index=True, return_inverse=True
    )
    inverse = inverse.reshape(-1)
    amounts = [np.zeros(len(distinct), np.int64) for _ in AMOUNTS]
    for total, name in zip(amounts, AMOUNTS, strict=True):
        np.add.at(total, inverse, batch[name])
    for place_in, row in enumerate(batch.take(first).rows()):
        had = sums.setdefault(tuple(row[name] for name in names), [0] * len(AMOUNTS))
        for index, total in enumerate(amounts):
            had[index] += int(total[place_in])


def _print_sums(
    names: tuple[str, ...], ranked: list[tuple[tuple[Any, ...], list[int]]], *, as_json: bool
) -> None:
    if as_json:
        for key, amounts in ranked:
            click.echo(
                json.dumps(dict(zip((*names, *AMOUNTS), (*key, *amounts), strict=True)), ensure_ascii=False)
            )
        return
    rows = table(
        [
            *(name.removeprefix("remote_").replace("_", " ") for name in names),
            ("out", "right"),
            ("in", "right"),
            ("flows", "right"),
        ]
    )
    for key, (out, into, flows) in ranked:
        rows.add_row(
            *(str(part) if part is not None else "-" for part in key), size(out), size(into), f"{flows:,}"
        )
    console().print(rows if ranked else "no flow in that time")


def _print_rows(found: list[dict[str, Any]], zone: Any, *, as_json: bool) -> None:
    if as_json:
        for row in found:
            click.echo(json.dumps(row, ensure_ascii=False))
        return
    rows = table(
        [
            "end",
            "local",
            "remote",
            "place",
            "network",
            "owner on record",
            "store",
            ("out", "right"),
            ("in", "right"),
        ]
    )
    for row in found:
        rows.add_row(
            moment(row["end_ns"], zone),
            _end(row["local_address"], row["local_port"]),
            _end(row["remote_address"], row["remote_port"]),
            place(row["remote_country"]),
            row["remote_as_org"] or "-",
            row["remote_owner"] or "-",
            row["store"] or "-",
            size(row["octets_out"]),
            size(row["octets_in"]),
        )
    console().print(rows if found else "no flow in that time")


def _end(address: str, port: int | None) -> str:
    shown = f"[{address}]" if ":" in address and port is not None else address
    return shown if port is None else f"{shown}:{port}"

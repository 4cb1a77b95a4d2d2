"""What stands in the JSON of each command: its shape and its keys. docs/cli.md prints it; a test holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from agent.cli.exercises import SCENARIOS

_AMOUNTS: Final = {
    "octets_out": "sent by this end, octets at the IP layer",
    "octets_in": "received by this end",
    "flows": "flows that began",
}
_TIME: Final = "nanoseconds since 1970, UTC"


_DATABASE: Final = {
    "kind": "country, network, country_witness, network_witness, providers or list",
    "name": "such as dbip-country-lite",
    "file": "its file: a name in state_dir/databases, or a path of the settings",
    "version": "UTC day on which it was built, or undated; null if it cannot be read",
    "built_s": "the same in seconds since 1970, or null",
    "age_days": "whole days since it was built, or null",
    "sha256": "hash of the file",
    "lineage": "who first gathered what it says, or null: two of one lineage are one witness",
    "source": "package, path or address it came from",
    "licence": "its terms",
    "attribution": "what must be said of its maker",
    "named_in": "installed, or settings",
    "installed_ns": f"{_TIME}, or null",
    "sha256_ok": "whether the file is the one that was installed; null for those of the settings",
    "fault": "why it cannot be read, or empty",
}
_COPY: Final = {
    "made_ns": _TIME,
    "source": "the state file, or the address of the database, that was copied",
    "schema_version": "of its tables",
    "sha256": "of the copy",
    "octets": "of the copy",
    "rows": "table -> rows",
}
_ACTION: Final = {
    "id": "a number that grows",
    "case_id": "such as 2026-1118-07",
    "kind": "ack, assign, comment, close or reopen",
    "who": "the person",
    "note": "what was noted",
    "verdict": "expected, unexpected, mistaken, exercise or unknown; null for what is no closing",
    "time_ns": _TIME,
    "assignee": "of an assignment, to whom; else empty",
}


_MAINTENANCE: Final = {
    "id": "a number that grows",
    "host": "its name; empty for all hosts",
    "from_ns": _TIME,
    "until_ns": _TIME,
    "reason": "why",
    "who": "the person",
    "second": "who else knows of it, or empty",
    "ended_ns": "when it was ended before its time, or 0",
    "ended_by": "the person who did, or empty",
}


@dataclass(frozen=True, slots=True)
class Document:
    """The JSON of one command."""

    shape: str
    keys: Mapping[str, str]


DOCUMENTS: Final[Mapping[str, Document]] = {
    "check": Document(
        "one document",
        {
            "lines": "list of {what, state, detail, mend}; state is ok, note or missing",
            "not_seen": "what capture on this host cannot see by its nature, as sentences",
            "bypass": "list of {kind, what, why, seen_by}: what was found here that sends past capture",
        },
    ),
    "db install": Document(
        "a list of what was put in place (empty with --if-missing where it is)", _DATABASE
    ),
    "db update": Document("a list of what was put in place", _DATABASE),
    "db status": Document("a list of databases and lists, installed ones first", _DATABASE),
    "init": Document(
        "one document",
        {
            "files": "list of paths written; empty with --print",
            "policy": "the text of the policy",
            "listening": "list of {port, process, executable, unit, guess, container, pod, by}; unknown is empty",
        },
    ),
    "assets suggest": Document(
        "one document",
        {
            "host": "this host",
            "yaml": "the text to paste",
            "listening": "list as of `init`, each with `store`: the store that it is of already, or empty",
        },
    ),
    "assets hosts": Document(
        "one document",
        {
            "yaml": "the text to paste",
            "hosts": "list of {host, source, expected}; source is kubernetes or libvirt",
        },
    ),
    "db verify": Document(
        "a list of databases",
        {"name": "its name", "ok": "whether it is as installed", "fault": "what is wrong, or empty"},
    ),
    "up": Document(
        "a line for each alert or event",
        {
            "record": "notice",
            "id": "the same each time the notice is sent",
            "kind": "opened, severity_raised, pack_added, closed or event",
            "time_ns": _TIME,
            "host": "of which it tells",
            "case": "the case as in `cases show`, or null",
            "event": "something about sekisho itself {name, severity, detail}, or null",
            "account": "octets captured, dropped and excluded by this run",
            "lost_frames": "frames lost by this run",
            "simulated": "whether it is an exercise",
        },
    ),
    "top": Document(
        "a line for each reading",
        {
            "since_ns": "when the look began",
            "time_ns": _TIME,
            **_AMOUNTS,
            "internal_octets_out": "part of octets_out that stayed inside",
            "destinations": "list of {country, network, names, provider, owner, owner_country, stores, octets_out, octets_in, "
            "flows, octets_out_per_s_10s, octets_out_per_s_60s}, in the order of --sort",
            "account": "where every captured octet went",
        },
    ),
    "replay": Document(
        "one document",
        {
            "account": "where every captured octet went",
            "cases": "list of cases as in `cases show`",
            "destinations": "list of {country, network, names, provider, owner, owner_country, stores, octets_out, octets_in, flows}",
            "policy": "version of the policy in force",
            "complete": "whether the data was read to its end",
            "faults": "collector -> why it ended early",
            "left_out": "file -> why it was not read",
        },
    ),
    "status": Document(
        "one document",
        {
            "source": "who knows: detector, agent or alone (a program that decides on its own host)",
            "time_ns": _TIME,
            "account": "term of the path -> {flows, octets_out, octets_in}, of all hosts shown",
            "residue": "what no term explains {flows, octets_out, octets_in}; all 0 unless something is wrong",
            "hosts": "list of {host, state, agent_id, run_id, heard_ns, complete_ns, tier, version, clock_offset_ns, account, "
            "residue, hours, unseen, troubles, stores, maintained, no_agent, waiting_octets}; hours: the last 24 as {from_ns, covered_s, "
            "lost, reasons}, or null; unseen: {from_ns, to_ns, reason, octets}; lost and octets null: nothing bounds them",
        },
    ),
    "ledger backup": Document("one document", _COPY),
    "ledger restore": Document("one document", _COPY),
    "ledger verify": Document(
        "a line for each check",
        {
            "name": "what was looked at, such as days_not_summed",
            "faults": "how many are not as they must be",
            "looked_at": "rows that were looked at",
            "examples": "at most five of the faults",
            "holds": "whether there are none",
        },
    ),
    "maintenance start": Document("one document", _MAINTENANCE),
    "maintenance end": Document("one document", _MAINTENANCE),
    "maintenance list": Document("a line for each maintenance", _MAINTENANCE),
    "cases list": Document(
        "a line for each case",
        {
            "id": "such as 2026-1118-07",
            "revision": "counts its changes",
            "state": "open, acknowledged or closed: what people did",
            "traffic_state": "ongoing or stopped",
            "severity": "1 informational, 2 low, 3 medium, 4 high, 5 critical",
            "tenant": "whose data",
            "store": "its register entry",
            "destination": "place, network, operator and owner of the other end, each with its source",
            "traffic": "what was measured",
            "findings": "each rule that found it",
            "opened_ns": _TIME,
            "updated_ns": _TIME,
            "approvals": "approved transfers of the store: id, standing (held, overrun, expired, …), approver, cap and use",
            "acknowledged_by": "person, or empty",
            "assigned_to": "person, or empty",
            "closed_by": "person, or empty",
            "closing_note": "why",
            "not_seen": "what this host could not see",
            "local_view": "true where the store's own host told it, from its own rows alone",
        },
    ),
    "cases show": Document(
        "one document",
        {
            "case": "as a line of `cases list`",
            "actions": "what people did, first to last, each as in `cases ack`",
            "deliveries": "list of {sink, state, error}: where it was sent",
        },
    ),
    "cases ack": Document("one document", _ACTION),
    "cases assign": Document("one document", _ACTION),
    "cases comment": Document("one document", _ACTION),
    "cases reopen": Document("one document", _ACTION),
    "cases close": Document(
        "one document",
        {
            **_ACTION,
            "proposal": "only with --verdict expected: {yaml, approval, would_have_held_back: {findings, held, days, over_cap}}; null where none can be narrow",
        },
    ),
    "approvals list": Document(
        "a line for each approval",
        {
            "id": "its id; further keys as in [registers](registers.md#approvals-approved-transfers)",
            "used_at_most": "content octets on the UTC days that its window may touch; null for one that names networks",
            "overrun": "true where more than its cap left in a window that is not over yet",
            "ends_in_days": "negative: it has ended",
            "due": "list of review, ending, ended, overrun",
        },
    ),
    "approvals sweep": Document(
        "one document",
        {
            "pairs": "list of {store, entity, processes, initiator, largest_day, days}",
            "yaml": "the proposals",
            "left_out": "reason (case, store, end, approved) -> number of pairs",
            "file": "where they were written; null with --dry-run, or where there are none",
        },
    ),
    "flows": Document(
        "a line for each row, whose keys are the columns of [the flow schema](flow-schema.md) (and community_id, with --community-id); with --by or --total a line "
        "for each group: the columns it is grouped by (minute, hour and day as local time with its offset), and",
        {
            **_AMOUNTS,
            "packets_out": "packets sent by this end",
            "packets_in": "packets received",
            "content_octets_out": "octets_out less IP and transport headers",
            "rows": "rows of the archive",
            "start_ns": "earliest start, nanoseconds since 1970, UTC",
            "end_ns": "latest end",
            "over_time": "{start_ns, step_ns, octets_out: […]}; null beyond 2,000 groups",
        },
    ),
    "who": Document(
        "a line for each address",
        {
            "address": "as asked",
            "country": "where it is said to be, or null",
            "asn": "origin autonomous system, or null",
            "as_org": "its registered organisation, or null",
            "owner": "who owns the network on record, with source, date and mark",
            "names": "host names that this host's traffic gave it, that of most octets first; null if not looked for",
        },
    ),
    "agent enrol": Document(
        "one document",
        {
            "state": "enrolled, refused or pending",
            "reason": "why it was refused, or null",
            "agent_id": "this agent",
            "public_key": "its public key in hexadecimal",
            "proven": "whether the answer is known to be the detector's",
        },
    ),
    "agent tripwire test": Document(
        "one document",
        {
            "enabled": "whether the tripwire is switched on",
            "after_s": "how long Kafka must be away before it tells",
            "rules": "rules that it has, each as {rule, window, threshold_octets}",
            "stores": "stores of this host",
            "sinks": "list of {sink, delivered, error}",
        },
    ),
    "enrolment token": Document(
        "one document",
        {
            "token": "the token; it is shown this once",
            "id": "its name, no secret",
            "expires_ns": _TIME,
            "uses": "how many agents it enrols",
            "agent_id": "the one agent that it is for, or null",
        },
    ),
    "enrolment list": Document(
        "one document",
        {
            "identities": "list of {agent_id, host, how, pinned_ns, public_key, token}; how is first, enrolled or revoked",
            "tokens": "list of {id, state, uses, used, expires_ns, agent_id, made_by, made_ns, note}; state is valid, "
            "used_up, expired or revoked",
        },
    ),
    "enrolment revoke": Document(
        "one document",
        {"kind": "agent or token", "subject": "its id", "note": "why", "who": "the person"},
    ),
    "owners check": Document(
        "one document",
        {
            "version": "of the table that the files give",
            "unmet": "a sentence for each canary with another answer",
        },
    ),
    "owners diff": Document(
        "one document",
        {
            "before": "version of the table in force",
            "after": "version with the files",
            "networks": "list of {asn, organisation, before, after}: what is on record of the owner",
            "pairs": "list of {store, asn, as_org, entity_before, entity_after, country_before, country_after, first_day, "
            "last_day, content_octets_out}: sums of the ledger that move",
            "appear": "list of {rule, store, entity, first_day, content_octets_out, threshold_octets}: rules whose amount "
            "is passed with the files and not without",
            "vanish": "the same, the other way round",
            "unmet": "a sentence for each canary with another answer",
        },
    ),
    "policy check": Document(
        "one document",
        {
            "policy": "version",
            "commit": "git commit of the files; +changed behind it if they differ; empty outside of git",
            "stores": "list of the register's entries",
            "forwarders": "the same of forwarders",
            "sites": "the same of own sites",
            "entities": "the same of legal entities",
            "approvals": "the same of approved transfers",
            "expected_hosts": "the same of hosts that are to be heard",
            "rules": "list of rules that are awake, each with its pack",
            "awake": "packs in force",
            "asleep": "packs not in force",
        },
    ),
    "policy test": Document(
        "one document",
        {
            "tests": "list of {pack, rule, name, passed, expected, found, why, largest_octets}",
            "untested": "pack/rule of every rule that has no test",
        },
    ),
    "policy explain": Document(
        "one document",
        {
            "packs": "list of {awake, why, missing, pack}: the pack as its file has it, with every fact's section and mark; "
            "missing holds, by store, what an estimate of persons lacks",
            "rule": "the rule that was asked for, or null",
            "owners": "of that rule, by the table of owners in force: {version, networks, review}; null for a rule of all ends",
            "due": "with --from, of a pack: list of {report, starts, within, only_if, unless, days, ends, zone, mark}; else null",
        },
    ),
    "policy diff": Document(
        "one document",
        {
            "old": "version of the one policy",
            "new": "version of the other",
            "differences": "list of {kind, id, what, fields}; what is added, removed or changed, fields a list of "
            "{name, old, new}",
            "wakes": "packs that wake",
            "falls_asleep": "packs that fall asleep",
        },
    ),
    "policy backtest": Document(
        "one document",
        {
            "since_ns": _TIME,
            "until_ns": _TIME,
            "look_up": "stored or today: whose answers on stores, places and networks were used",
            "rows": "rows that were read, those of the warm-up too",
            "rows_of_stores": "those that were of a store when they were counted",
            "not_observed": "list of {from_ns, until_ns}: hours of which no row of any host is held",
            "windows_cut": "list of {rule, window, whole_from_ns}: rules of the new policy whose sums lack rows until then",
            "stores_differ": "whether rows kept a store that a policy may give to another",
            "old": "{policy, findings, cases, days}: cases opened by severity; days a list of {day, cases, messages}",
            "new": "the same of the other policy",
            "appear": "findings of the new policy that meet none of the old: see jsonl in alerts.md",
            "vanish": "findings of the old policy that meet none of the new",
            "changed": "list of {old, new}: the same finding with another severity",
        },
    ),
    **{
        f"simulate {name}": Document(
            "one document",
            {
                "exercise": "always true: nothing of it exists",
                "scenario": "its id",
                "title": "in the language of the settings",
                "story": "what happens in it",
                "ask": "what those who take part are asked",
                "store": "the store that sends",
                "messages": "what people would be told, each with exercise: true; see alerts.md",
            },
        )
        for name in SCENARIOS
    },
    "config show": Document(
        "one document", {"(setting)": "its value; with --origin {value, origin}. Secrets are (hidden)"}
    ),
}

"""Examples that end each command's help."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, ...]] = {
    "up": ("sudo sekisho up", "sudo sekisho up --plain | tee alerts.txt", "sekisho up --or-replay"),
    "replay": (
        "sekisho replay capture.pcap",
        "sekisho replay --policy policy.yaml --local 10.0.0.0/8 day1.pcap day2.pcapng",
        "sekisho replay --sample",
        "sekisho replay --fail-on medium capture.pcap   # exit code 3 when there are findings",
    ),
    "check": ("sekisho check", "sekisho check --json"),
    "init": ("sekisho init", "sekisho init --dir /etc/sekisho"),
    "who": ("sekisho who 8.8.8.8 2001:db8::1", "sekisho who --json 203.0.113.7"),
    "top": ("sudo sekisho top", "sudo sekisho top --for 10s --plain"),
    "flows": (
        "sekisho flows --since 2h",
        "sekisho flows --since 1d --by owner",
        "sekisho flows --store ehr-main --remote 203.0.113.0/24 --json",
    ),
    "cases": (
        "sekisho cases list --open",
        "sekisho cases show 2026-1118-07",
        'sekisho cases ack 2026-1118-07 --note "asked the data team"',
        'sekisho cases close 2026-1118-07 --verdict expected --note "restore test, ticket 4412"',
    ),
    "policy": ("sekisho policy check policy.yaml", "sekisho policy schema > policy.schema.json"),
    "db": (
        "sekisho db install",
        "sekisho db install --country my-country.mmdb --network my-asn.mmdb",
        "sekisho db status",
        "sekisho db verify",
    ),
    "config": ("sekisho config show --origin", "SEKISHO_LANGUAGE=ja sekisho config show"),
}

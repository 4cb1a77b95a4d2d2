"""Examples that end each command's help. A test runs each of them; what it needs stands in ``tests/unit/test_cli_help.py``."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, ...]] = {
    "sekisho": (
        "sekisho check                # what this host can do",
        "sekisho db install           # countries and networks",
        "sekisho init                 # settings and policy",
        "sudo sekisho up              # watch",
        "sekisho replay capture.pcap  # the same on a file",
    ),
    "up": (
        "sudo sekisho up",
        "sudo sekisho up --plain | tee alerts.txt",
        "sudo sekisho up --json >> alerts.jsonl",
        "sekisho up --or-replay",
    ),
    "agent": (
        "sudo sekisho agent",
        "sudo sekisho agent --detach",
        "sudo sekisho agent enrol --token-file token",
        "sudo sekisho agent tripwire test",
    ),
    "agent enrol": (
        "sudo sekisho agent enrol --token-file token",
        "sudo sekisho agent enrol --token-file token --wait 300 --json",
        "sudo sekisho agent enrol --token-file token --new-key",
    ),
    "agent tripwire": ("sudo sekisho agent tripwire test",),
    "agent tripwire test": ("sudo sekisho agent tripwire test", "sudo sekisho agent tripwire test --json"),
    "enrolment": (
        "sekisho enrolment token",
        "sekisho enrolment list",
        'sekisho enrolment revoke AGENT_ID --note "host was taken down"',
    ),
    "enrolment token": (
        "sekisho enrolment token --valid 24h",
        "sekisho enrolment token --uses 200 --valid 7d --note rollout",
        "sekisho enrolment token --agent AGENT_ID   # a host that was built anew",
    ),
    "enrolment list": ("sekisho enrolment list", "sekisho enrolment list --tokens --json"),
    "enrolment revoke": ('sekisho enrolment revoke AGENT_ID --note "host was taken down"',),
    "detect": ("sekisho detect",),
    "archive": (
        "sekisho archive",
        "sekisho --set archiver.directory=/srv/flows archive",
    ),
    "republish": (
        "sekisho --set republish.ocsf=true republish",
        "sekisho --set republish.json_lines=true republish",
    ),
    "replay": (
        "sekisho replay --sample",
        "sekisho replay capture.pcap",
        "sekisho replay --policy policy.yaml --local 10.0.0.0/8 day1.pcap day2.pcapng",
        "sekisho replay --state kept capture.pcap   # then: sekisho --state-dir kept flows --since 30d",
        "sekisho replay --names capture.pcap   # name the other ends from DNS answers and TLS server names",
        "sekisho replay --fail-on medium capture.pcap   # exit code 3 when there are findings",
        "zcat capture.pcap.gz | sekisho replay --json -",
    ),
    "check": ("sekisho check", "sekisho check --json"),
    "init": (
        "sekisho init --print",
        "sekisho init --print --json",
        "sekisho init",
        "sekisho init --dir /etc/sekisho",
    ),
    "who": (
        "sekisho who 8.8.8.8 2001:db8::1",
        "sekisho who --json 203.0.113.7",
        "sekisho who --names 7d 203.0.113.7",
    ),
    "top": (
        "sudo sekisho top",
        "sudo sekisho top --once",
        "sudo sekisho top --json --every 60s >> minutes.jsonl",
    ),
    "status": ("sekisho status", "sekisho status --host db-1", "sekisho status --json"),
    "ledger": (
        "sekisho ledger backup monday.db",
        "sekisho ledger verify monday.db",
        "sekisho ledger restore monday.db --overwrite",
    ),
    "ledger backup": (
        "sekisho ledger backup monday.db",
        "sekisho ledger backup newest.db --overwrite --json",
    ),
    "ledger restore": ("sekisho ledger restore monday.db --overwrite",),
    "ledger verify": (
        "sekisho ledger verify                # the state itself",
        "sekisho ledger verify monday.db      # a copy",
        "sekisho ledger verify --json",
    ),
    "maintenance": (
        'sekisho maintenance start --reason "new disks" --host db-1 --until 2h --second "Aoi Mori"',
        "sekisho maintenance list",
        "sekisho maintenance end 1",
    ),
    "maintenance start": (
        'sekisho maintenance start --reason "new disks" --host db-1 --until 2h --second "Aoi Mori"',
        'sekisho maintenance start --reason "move to the new hall" --until 8h --second "Aoi Mori"',
    ),
    "maintenance end": ("sekisho maintenance end 1",),
    "maintenance list": ("sekisho maintenance list", "sekisho maintenance list --since 90d --json"),
    "flows": (
        "sekisho flows --since 2h",
        "sekisho flows --since yesterday --until today --by owner,country",
        "sekisho flows --since 7d --store ehr-main --by day --sort time",
        "sekisho flows --since 24h --country CN --country RU --by store,remote --limit 20",
        "sekisho flows --since 2026-11-18T07:00Z --network AS64500 --min-octets 100MB",
        "sekisho flows --since 30d --remote 203.0.113.0/24 --total",
        "sekisho flows --since 30d --by store,owner --csv totals.csv",
        "sekisho flows --since 1h --process rclone --json",
        "sekisho flows --since 24h --host 'db-*' --by host,owner",
        "sekisho flows --since 1h --port 5432 --community-id",
    ),
    "cases": (
        "sekisho cases list --open",
        "sekisho cases show 2026-1118-07",
        'sekisho cases ack 2026-1118-07 --note "asked the data team"',
        'sekisho cases close 2026-1118-07 --verdict expected --note "restore test, ticket 4412"',
    ),
    "cases list": ("sekisho cases list --open", "sekisho cases list --since 30d --store ehr-main --json"),
    "cases show": ("sekisho cases show 2026-1118-07", "sekisho cases show 2026-1118 --language ja"),
    "cases assign": ('sekisho cases assign 2026-1118-07 --to "B. Person" --by "A. Person"',),
    "cases comment": ('sekisho cases comment 2026-1118-07 --note "the vendor calls back at 15:00"',),
    "cases reopen": ('sekisho cases reopen 2026-1118-07 --note "ticket 4412 names another host"',),
    "approvals": ("sekisho approvals list", "sekisho approvals sweep --dry-run"),
    "approvals list": ("sekisho approvals list --due", "sekisho approvals list --json"),
    "approvals sweep": (
        "sekisho approvals sweep --dry-run",
        "sekisho approvals sweep --since 14d --output day0.yaml.proposed",
    ),
    "cases ack": ('sekisho cases ack 2026-1118-07 --note "asked the data team"',),
    "cases close": (
        'sekisho cases close 2026-1118-07 --verdict expected --note "restore test, ticket 4412"',
    ),
    "assets": ("sekisho assets suggest", "sekisho assets hosts --libvirt"),
    "assets suggest": (
        "sudo sekisho assets suggest",
        "sudo sekisho assets suggest >> assets.yaml   # then say what stands as TODO",
        "sekisho assets suggest --all --json",
    ),
    "assets hosts": (
        "sekisho assets hosts --kubernetes nodes.json   # kubectl get nodes -o json > nodes.json",
        "sekisho assets hosts --libvirt",
    ),
    "policy": (
        "sekisho policy check policy.yaml",
        "sekisho policy test",
        "sekisho policy explain bulk-external",
        "sekisho policy diff HEAD~1",
    ),
    "policy check": (
        "sekisho policy check",
        "sekisho policy check policy.yaml --overrides overrides.yaml",
        "sekisho policy check --json policy.yaml",
    ),
    "policy test": (
        "sekisho policy test",
        "sekisho policy test policy.yaml packs/ --strict",
        "sekisho policy test --rule bulk-external --json",
    ),
    "policy explain": (
        "sekisho policy explain",
        "sekisho policy explain us-dsp",
        "sekisho policy explain operator/bulk-external --language ja",
    ),
    "policy diff": (
        "sekisho policy diff HEAD~1",
        "sekisho policy diff old/ new/ --json",
        "sekisho policy diff HEAD~1 HEAD --exit-code",
    ),
    "policy schema": ("sekisho policy schema", "sekisho policy schema --pack -o pack.schema.json"),
    "owners": (
        "sekisho owners check ownership.yaml",
        "sekisho owners diff ownership.yaml --canaries canaries.yaml",
    ),
    "owners check": (
        "sekisho owners check ownership.yaml",
        "sekisho owners check --canaries canaries.yaml --json",
    ),
    "owners diff": (
        "sekisho owners diff ownership.yaml",
        "sekisho owners diff ownership.yaml --since 90d --json",
    ),
    "db": (
        "sekisho db install",
        "sekisho db install --country my-country.mmdb --network my-asn.mmdb",
        "sekisho db status",
        "sekisho db verify",
    ),
    "db install": (
        "sekisho db install",
        "sekisho db install --country my-country.mmdb --network my-asn.mmdb",
        "sekisho db install --if-missing",
    ),
    "db update": ("sekisho db update",),
    "db status": ("sekisho db status", "sekisho db status --json"),
    "db verify": ("sekisho db verify", "sekisho db verify --json"),
    "kafka": (
        "sekisho --set kafka.servers=127.0.0.1:9092 kafka check",
        "sekisho --set kafka.servers=127.0.0.1:9092 kafka topics create",
    ),
    "kafka check": (
        "sekisho --set kafka.servers=127.0.0.1:9092 kafka check",
        "sekisho --set kafka.servers=127.0.0.1:9092 kafka check --json",
    ),
    "kafka topics": ("sekisho --set kafka.servers=127.0.0.1:9092 kafka topics create",),
    "kafka topics create": (
        "sekisho --set kafka.servers=127.0.0.1:9092 kafka topics create",
        "sekisho --set kafka.servers=127.0.0.1:9092 kafka topics create --partitions 48 --replication 3",
    ),
    "simulate": ("sekisho simulate fleet --hosts 20 --seconds 10 --dry-run",),
    "simulate fleet": (
        "sekisho simulate fleet --hosts 20 --seconds 10 --dry-run",
        "sekisho simulate fleet --hosts 20 --seconds 10 --incidents 2 --truth truth.json --to-files messages",
        "sekisho --set kafka.servers=127.0.0.1:9092 simulate fleet --hosts 1000 --minutes 10 --incidents 5 "
        "--truth truth.json --write-policy policy.yaml",
        "sekisho --set kafka.servers=127.0.0.1:9092 --set kafka.topics.flows=sekisho.simulated.flows.v1 "
        "--set policy=policy.yaml --state-dir trial detect   # a detector of its own",
    ),
    "config": ("sekisho config show --origin", "SEKISHO_LANGUAGE=ja sekisho config show"),
    "config show": ("sekisho config show --origin", "sekisho --set language=ja config show --json"),
    "completion": (
        "sekisho completion bash > ~/.local/share/bash-completion/completions/sekisho",
        "sekisho completion zsh > ~/.zfunc/_sekisho   # with fpath+=~/.zfunc before compinit in ~/.zshrc",
        "sekisho completion fish > ~/.config/fish/completions/sekisho.fish",
    ),
}

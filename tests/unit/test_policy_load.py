"""Policy files, overrides and packs, joined and checked."""

from __future__ import annotations

from datetime import date
from ipaddress import ip_network
from pathlib import Path

import jsonschema
import pytest
import yaml

from agent.core.errors import PolicyError
from agent.core.finding import Severity
from agent.policy.load import Listening, load, schema, starter
from agent.policy.model import Override, Policy

TODAY = date(2026, 11, 21)

WHOLE = """\
version: 1
tenant: hospital
sites:
  - {id: main, networks: [192.0.2.0/24, 2001:db8::/32]}
stores:
  - id: ehr
    name: Patient records
    categories: [personal_health]
    recognise: {hosts: [this], ports: [5432]}
  - id: ehr-backup
    categories: [personal_health]
    copy_of: ehr
    recognise: {addresses: [192.0.2.9]}
destinations:
  - {id: watched, owner_countries: [no, CN], asns: [64500], networks: [203.0.113.0/24]}
rules:
  - {id: mine, stores: [ehr], destinations: [watched], over: 5 MB, window: 1h, severity: high}
overrides:
  - {network: 203.0.113.0/25, owner_country: CN, source: contract}
"""


def policy_of(folder: Path, *texts: str, overrides: tuple[Path, ...] = (), today: date = TODAY) -> Policy:
    files = []
    for number, text in enumerate(texts):
        file = folder / f"{number}.yaml"
        file.write_text(text)
        files.append(file)
    return load(files, overrides=overrides, today=today)


def faults_of(folder: Path, *texts: str, overrides: tuple[Path, ...] = ()) -> list[str]:
    with pytest.raises(PolicyError) as raised:
        policy_of(folder, *texts, overrides=overrides)
    return [str(fault).replace(f"{folder}/", "") for fault in raised.value.faults]


def store(name: str, recognise: str, rest: str = "") -> str:
    return f"  - {{id: {name}, categories: [research], recognise: {{{recognise}}}{rest}}}\n"


def test_whole_policy(tmp_path: Path) -> None:
    """A file with every kind of entry is joined with the operator pack."""
    policy = policy_of(tmp_path, WHOLE)
    assert policy.tenant == "hospital"
    assert [s.id for s in policy.stores] == ["ehr", "ehr-backup"]
    assert [(pack, rule.id, rule.over) for pack, rule in policy.rules] == [
        ("operator", "bulk-external", 10**9),
        ("operator", "bulk-restricted-owner", 10**8),
        ("operator", "mine", 5 * 10**6),
    ]
    watched = policy.destination("watched")
    assert watched is not None
    assert watched.owner_countries == ("NO", "CN")
    assert policy.overrides == (
        Override(network=ip_network("203.0.113.0/25"), owner_country="CN", source="contract"),
    )
    assert policy.awake == ("operator",)


def test_version_is_of_everything_read(tmp_path: Path) -> None:
    """The version is 12 hex digits, the same for the same files, another when any file changes."""
    overrides = tmp_path / "o.csv"
    overrides.write_text("network,country\n198.51.100.0/24,DE\n")
    first = policy_of(tmp_path, WHOLE, overrides=(overrides,)).version
    again = policy_of(tmp_path, WHOLE, overrides=(overrides,)).version
    overrides.write_text("network,country\n198.51.100.0/24,FR\n")
    changed = {
        policy_of(tmp_path, WHOLE, overrides=(overrides,)).version,
        policy_of(tmp_path, WHOLE + "\n# remark\n").version,
        policy_of(tmp_path).version,
    }
    assert first == again
    assert len(bytes.fromhex(first)) == 6
    assert len(changed | {first}) == 4


def test_folder_of_files(tmp_path: Path) -> None:
    """A folder stands for its .yaml and .yml files by name, hidden ones left out; an empty one is a fault."""
    (tmp_path / "b.yaml").write_text("stores:\n" + store("b", "ports: [2]"))
    (tmp_path / "a.yml").write_text("stores:\n" + store("a", "ports: [1]"))
    (tmp_path / ".c.yaml").write_text("nonsense: 1")
    (tmp_path / "notes.txt").write_text("nonsense")
    assert [s.id for s in load([tmp_path, tmp_path / "b.yaml"], today=TODAY).stores] == ["a", "b"]
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(PolicyError, match=r"empty: holds no policy file \(put a file"):
        load([empty], today=TODAY)


def test_faults_of_all_files_and_kinds_at_once(tmp_path: Path) -> None:
    """What is wrong in one entry, between entries and between files comes in one list, by file and line."""
    first = """\
sites:
  - {id: main, networks: [10.0.0.1/8]}
stores:
  - {id: a, categories: [personal_helth], recognise: {hosts: [this]}}
  - {id: b, categories: [research], recognise: {}}
  - {id: c, categories: [research], recognise: {hosts: [db1]}, copy_of: zzz}
rules:
  - {id: r, over: lots}
  - {id: s, over: 1 GB, stores: [a, e], destinations: [elsewhere]}
"""
    second = "tenant: other\nstores:\n" + store("c", "hosts: [db2]") + "attestations:\n"
    second += "  - {pack: us-dps, entity: X, by: Y, on: 2027-01-01}\n"
    assert faults_of(tmp_path, first + "tenant: mine\n", second) == [
        "0.yaml:2: sites[0].networks[0]: `10.0.0.1/8` has host bits set (the network is 10.0.0.0/8; the one"
        " address is 10.0.0.1)",
        "0.yaml:4: stores[0].categories[0]: `personal_helth` is none of the choices (did you mean"
        " `personal_health`?)",
        "0.yaml:5: nothing tells the traffic of store `b` from other traffic (write `hosts: [this]` if it is on"
        " this host)",
        "0.yaml:6: `c` is a copy of `zzz`, which is no store (known here: a, b, c)",
        "0.yaml:8: rules[0].over: expected a size such as 500 MB, 1.5 GB or 2 GiB",
        "0.yaml:9: rule `s` names store `e`, which is not there (known here: a, b, c)",
        "0.yaml:9: rule `s` names destination set `elsewhere`, which is not there (known here: restricted-owners)",
        "1.yaml:1: another tenant than at 0.yaml:10 (one policy is of one tenant)",
        "1.yaml:3: store `c` is given twice, first at 0.yaml:6 (rename or remove one)",
        "1.yaml:5: there is no pack `us-dps` (did you mean `us-dsp`?)",
        "1.yaml:5: the date 2027-01-01 lies ahead (attest on the day itself)",
    ]


@pytest.mark.parametrize(
    ("one", "other", "common"),
    [
        ("ports: [5432]", "hosts: [this], ports: [80, 5432]", "port 5432"),
        ("hosts: [db1], ports: [1]", "hosts: [DB1.example.org], ports: [1]", "port 1"),
        ("addresses: [192.0.2.0/24]", "addresses: [192.0.2.7]", "everything that leaves the same place"),
        ("hosts: [db1]", "hosts: [db1]", "everything that leaves the same place"),
        ("processes: [postgres]", "processes: [mysqld, postgres]", "process postgres"),
        ("units: [a.service]", "units: [a.service]", "unit a.service"),
        ("containers: [abc]", "containers: [abcdef]", "container abcdef"),
        ("pods: [prod/db-*]", "pods: [prod/db-0]", "everything that leaves the same place"),
    ],
)
def test_stores_that_overlap(tmp_path: Path, one: str, other: str, common: str) -> None:
    """Two stores in one place that nothing tells apart are a fault that names both places."""
    said = faults_of(tmp_path, "stores:\n" + store("a", one) + store("b", other))
    advice = "take it out of one, name other hosts or ports, or make them one store"
    assert said == [f"0.yaml:3: stores `b` and `a` (0.yaml:2) both claim {common} ({advice})"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ports: [5432]", "ports: [3306]"),
        ("hosts: [db1]", "hosts: [db2]"),
        ("hosts: [db1.example.org]", "hosts: [db1.example.com]"),
        ("hosts: [db1], ports: [5432]", "hosts: [db2], ports: [5432]"),
        ("addresses: [192.0.2.0/28]", "addresses: [192.0.2.16/28]"),
        ("addresses: [192.0.2.0/28]", "addresses: [2001:db8::/32]"),
        ("hosts: [this]", "hosts: [this], ports: [5432]"),
        ("pods: [prod/db-0]", "pods: [prod/db-01]"),
        ("pods: [prod/db-*]", "pods: [prod/web-*]"),
    ],
)
def test_stores_that_do_not_overlap(tmp_path: Path, one: str, other: str) -> None:
    """Stores in different places, or told apart by a name, are no fault."""
    policy = policy_of(tmp_path, "stores:\n" + store("a", one) + store("b", other))
    assert [s.id for s in policy.stores] == ["a", "b"]


def test_copies_in_a_circle(tmp_path: Path) -> None:
    """Stores that are copies of each other are a fault at each of them."""
    text = "stores:\n" + store("a", "ports: [1]", ", copy_of: b") + store("b", "ports: [2]", ", copy_of: a")
    assert faults_of(tmp_path, text) == [
        "0.yaml:2: is a copy of itself: a -> b -> a (name the original)",
        "0.yaml:3: is a copy of itself: b -> a -> b (name the original)",
    ]


def test_rule_on_a_copy(tmp_path: Path) -> None:
    """A rule that names a copy would never see a row, and is told which store to name."""
    text = "stores:\n" + store("a", "ports: [1]") + store("b", "ports: [2]", ", copy_of: a")
    text += "rules:\n  - {id: r, stores: [b], over: 1 GB}\n"
    assert faults_of(tmp_path, text) == [
        "0.yaml:5: rule `r` names `b`, whose traffic counts for `a` (name `a`)"
    ]


def test_own_network_as_destination(tmp_path: Path) -> None:
    """A destination network inside an own site can never be a destination."""
    text = "sites: [{id: s, networks: [192.0.2.0/24]}]\ndestinations: [{id: d, networks: [192.0.2.8/29]}]\n"
    (said,) = faults_of(tmp_path, text)
    assert said.startswith("0.yaml:2: 192.0.2.8/29 lies in your own site `s`")


def test_shipped_rule_is_changed_by_its_id(tmp_path: Path) -> None:
    """A rule with a shipped id changes only the keys it holds; `enabled: false` takes it away."""
    text = "rules:\n  - {id: bulk-external, over: 5 GB}\n  - {id: bulk-restricted-owner, enabled: false}\n"
    ((pack, rule),) = policy_of(tmp_path, text).rules
    assert (pack, rule.id, rule.over, rule.any_of.first_seen) == (
        "operator",
        "bulk-external",
        5 * 10**9,
        True,
    )
    assert faults_of(tmp_path, "rules:\n  - {id: bulk-external, ovr: 5 GB}\n") == [
        "0.yaml:2: rules[0]: unknown key `ovr` (did you mean `over`?)"
    ]


def test_shipped_destination_set_is_replaced_by_its_id(tmp_path: Path) -> None:
    """A set with a shipped id stands in its place as a whole."""
    policy = policy_of(tmp_path, "destinations: [{id: restricted-owners, owners: [huawei]}]\n")
    assert [(d.id, d.owners, d.owner_countries) for d in policy.destinations] == [
        ("restricted-owners", ("huawei",), ())
    ]


def test_attested_pack_is_awake(tmp_path: Path) -> None:
    """us-dsp sleeps until a person attests it, and then only within its dates; its rules may be changed before."""
    rule = "rules: [{id: us-dsp-octet-floor, over: 200 MB}]\n"
    attested = rule + "attestations: [{pack: us-dsp, entity: Example Inc., by: A. Person, on: 2025-01-02}]\n"
    asleep, awake = policy_of(tmp_path, rule), policy_of(tmp_path, attested)
    early = policy_of(tmp_path, attested, today=date(2025, 4, 7))
    assert [p.awake for p in (asleep, awake, early)] == [("operator",), ("operator", "us-dsp"), ("operator",)]
    assert [(p, r.over, r.severity) for p, r in awake.rules if r.id == "us-dsp-octet-floor"] == [
        ("us-dsp", 2 * 10**8, Severity.MEDIUM)
    ]
    assert (asleep.destination("us-dsp-countries"), bool(awake.destination("us-dsp-countries"))) == (
        None,
        True,
    )


def test_rule_on_a_set_of_a_pack_asleep(tmp_path: Path) -> None:
    """A rule that names a set of a sleeping pack is told so."""
    (said,) = faults_of(tmp_path, "rules: [{id: r, over: 1 GB, destinations: [us-dsp-countries]}]\n")
    assert said == (
        "0.yaml:1: rule `r` names destination set `us-dsp-countries`, which is part of pack `us-dsp` and asleep"
        " (attest `us-dsp`, or write a set of your own)"
    )


def test_historic_pack_attested(tmp_path: Path) -> None:
    """A historic pack binds nobody now: attesting it is a fault."""
    (said,) = faults_of(tmp_path, "attestations: [{pack: de-9b, entity: X, by: Y, on: 2026-01-01}]\n")
    assert said == "0.yaml:1: pack `de-9b` is historic and binds nobody now (remove the attestation)"


def test_attested_with_a_word_that_is_not_asked(tmp_path: Path) -> None:
    """A word that the pack does not ask about an entity, and one entity attested twice, are faults."""
    text = (
        "attestations:\n"
        "  - {pack: au-soci, entity: X, by: Y, on: 2026-01-01, words: [part_2b]}\n"
        "  - {pack: au-soci, entity: X, by: Z, on: 2026-01-02}\n"
    )
    assert faults_of(tmp_path, text) == [
        "0.yaml:2: `part_2b` is none of the pack's words (did you mean `part_2b_applies`?)",
        "0.yaml:3: `X` is attested for `au-soci` twice, first at 0.yaml:2 (keep one of them)",
    ]


def test_overrides_in_csv(tmp_path: Path) -> None:
    """A CSV file gives the overrides that its YAML form would; empty fields are unknown, # begins a comment."""
    file = tmp_path / "o.csv"
    file.write_text(
        "network,country,asn,as_org,owner_country,anycast,checked,note\n"
        "# from the contract\n"
        '198.51.100.0/24,de,64500,"Example, Ltd",,true,2026-10-01,\n'
        "2001:db8:1::/48,,,,CN,,,\n"
    )
    assert policy_of(tmp_path, overrides=(file,)).overrides == (
        Override(
            network=ip_network("198.51.100.0/24"),
            country="DE",
            asn=64500,
            as_org="Example, Ltd",
            anycast=True,
            checked=date(2026, 10, 1),
        ),
        Override(network=ip_network("2001:db8:1::/48"), owner_country="CN"),
    )


def test_faults_of_overrides(tmp_path: Path) -> None:
    """A wrong column, field, network or one given twice over several files is a fault with its line."""
    header, fields, twice, empty = (
        tmp_path / f"{name}.csv" for name in ("header", "fields", "twice", "empty")
    )
    header.write_text("netwrk,country\n198.51.100.0/24,DE\n")
    fields.write_text("network,country\n198.51.100.1/24,Germany\n198.51.100.0/24,DE,x\n")
    twice.write_text("network,country\n203.0.113.0/24,DE\n203.0.113.0/24,FR\n")
    empty.write_text("\n")
    again = tmp_path / "again.yaml"
    again.write_text("overrides:\n  - {network: 203.0.113.0/24}\n")
    assert faults_of(tmp_path, overrides=(header, fields, empty, twice, again)) == [
        "again.yaml:2: the network 203.0.113.0/24 is given twice, first at twice.csv:2 (keep one of them)",
        "empty.csv: is empty (the first line is network,country,asn,as_org,provider,owner,owner_country,"
        "organised_in,anycast,source,checked,note)",
        "fields.csv:3: has 3 fields, the header has 2 (put text with a comma in quotes)",
        "header.csv:1: unknown column `netwrk` (did you mean `network`?)",
        "header.csv:1: the column `network` is missing (the first line is network,country,asn,as_org,provider,"
        "owner,owner_country,organised_in,anycast,source,checked,note)",
        "twice.csv:3: the network 203.0.113.0/24 is given twice, first at twice.csv:2 (keep one of them)",
    ]
    fields.write_text("network,country\n198.51.100.1/24,Germany\n")
    assert faults_of(tmp_path, overrides=(fields,)) == [
        "fields.csv:2: overrides[0].network: `198.51.100.1/24` has host bits set (the network is 198.51.100.0/24;"
        " the one address is 198.51.100.1)",
        "fields.csv:2: overrides[0].country: `GERMANY` is not written as expected (ISO 3166-1 alpha-2)",
    ]


def test_missing_policy_file(tmp_path: Path) -> None:
    """A policy file that is not there is a fault, never an empty policy."""
    with pytest.raises(PolicyError, match=r"none\.yaml: cannot be read: No such file or directory"):
        load([tmp_path / "none.yaml"], today=TODAY)


def test_top_of_a_file_is_keys(tmp_path: Path) -> None:
    """A policy file that is a list is told what was expected."""
    assert faults_of(tmp_path, "- a\n") == ["0.yaml:1: expected keys such as `stores:` and `sites:`"]


def test_schema_accepts_what_load_accepts() -> None:
    """The JSON Schema takes a whole policy and refuses an unknown key."""
    made = schema()
    jsonschema.Draft202012Validator.check_schema(made)
    data = yaml.safe_load(WHOLE.replace("[no, CN]", "[NO, CN]").replace("NO", '"NO"'))
    jsonschema.validate(data, made)
    jsonschema.validate({"rules": [{"id": "bulk-external", "enabled": False}]}, made)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"storse": []}, made)


def test_rules_read_stores_that_share_a_host(tmp_path: Path) -> None:
    """A row that belongs to a store only by its host is read by the rules of every store on that host."""
    text = "stores:\n" + store("a", "ports: [1]") + store("b", "hosts: [this], ports: [2]")
    text += store("c", "hosts: [db2]") + "rules:\n  - {id: r, stores: [b], over: 1}\n"
    policy = policy_of(tmp_path, text)
    rule = next(rule for _, rule in policy.rules if rule.id == "r")
    asked = [("b", "port"), ("a", "same_host"), ("a", "port"), ("a", None), ("c", "same_host"), ("zz", None)]
    assert [policy.reads(rule, name, basis) for name, basis in asked] == [
        True,
        True,
        False,
        True,
        False,
        False,
    ]
    assert (policy.sharing("a"), policy.sharing("c")) == (("b",), ())


@pytest.mark.parametrize(
    "facts",
    [
        [],
        [Listening(22, "sshd", "/usr/sbin/sshd", "ssh.service")],
        [
            Listening(5432, "postgres", unit="postgresql.service", guess="PostgreSQL"),
            Listening(5432, "postgres", unit="postgresql.service", guess="PostgreSQL"),
            Listening(5433, "postgres", unit="other.service", guess="PostgreSQL"),
            Listening(445, "docker-proxy", guess="SMB file server"),
            Listening(3306, "docker-proxy", guess='My"SQL\n\\'),
            Listening(80, "ng\ninx: [", unit="#\n- x"),
        ],
    ],
)
def test_starter_loads(tmp_path: Path, facts: list[Listening]) -> None:
    """What `sekisho init` writes loads without a fault, and watches each port that may be of a data store once."""
    policy = policy_of(tmp_path, starter(facts))
    ports = [port for s in policy.stores for port in s.recognise.ports]
    assert sorted(ports) == sorted({f.port for f in facts if f.guess})

"""The registers: stores, forwarders, sites, legal entities and approvals, joined and checked."""

from __future__ import annotations

import ipaddress
import os
import subprocess
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core import address
from agent.core.address import Network
from agent.core.errors import PolicyError
from agent.policy.load import load
from agent.policy.meeting import Places, StoreIndex
from agent.policy.model import Attestation, Policy, Recognition, Rule, Store
from agent.policy.overlaps import common_claim
from agent.policy.repository import commit_of, marks

TODAY = date(2026, 11, 21)

ENTITIES = """\
entities:
  - id: clinic
    name: Example Clinic
    names: [例示病院]
    roles: [controller]
    country: JP
    regimes: [{pack: us-dsp, by: A. Person, on: 2026-11-02}]
    contacts: [{role: on-call, reach: ext. 4412, language: ja}]
    calendar: {time_zone: Asia/Tokyo, holidays: [2026-11-23]}
"""
STORES = """\
stores:
  - id: ehr
    categories: [personal_health]
    recognise: {hosts: [db-1], ports: [5432]}
    groups: [clinical]
    entity: clinic
    facility: Hall 2
    subjects: 180000
    subjects_by: Records office
    subjects_on: 2026-07-01
    record_octets: [1 kB, 20 kB]
    records_per_subject: [1, 40]
    compression: [0.1, 1.2]
    records_on_ports: [5432]
    records_by: A. Person
"""
FORWARDERS = """\
forwarders:
  - {id: proxy, role: proxy, recognise: {hosts: [proxy-1], ports: [3128]}, outside: [198.51.100.7], log: squid}
"""
APPROVAL = """\
approvals:
  - id: backup
    stores: [clinical]
    destination: {owners: [aws]}
    basis: contract 2026-17
    approver: A. Person
    cap: 50 GB
    valid_from: 2026-11-01
    valid_to: 2027-03-31
"""


def written(folder: Path, *texts: str) -> Policy:
    for number, text in enumerate(texts):
        (folder / f"{number}.yaml").write_text(text)
    return load([folder], today=TODAY)


def faults(folder: Path, *texts: str) -> list[str]:
    with pytest.raises(PolicyError) as raised:
        written(folder, *texts)
    return [str(fault).replace(f"{folder}/", "") for fault in raised.value.faults]


def test_registers_of_one_folder_are_joined(tmp_path: Path) -> None:
    """Files of a folder give one policy; what an entity's entry says of regimes wakes the pack as an attestation does."""
    policy = written(tmp_path, ENTITIES, STORES, FORWARDERS, APPROVAL)
    (ehr,), (proxy,), (clinic,), (backup,) = (
        policy.stores,
        policy.forwarders,
        policy.entities,
        policy.approvals,
    )
    assert (ehr.record_octets, ehr.records_per_subject, ehr.compression) == (
        (1_000, 20_000),
        (1, 40),
        (0.1, 1.2),
    )
    assert (proxy.role, proxy.log, [str(n) for n in proxy.outside]) == ("proxy", "squid", ["198.51.100.7/32"])
    assert (clinic.country, clinic.calendar.time_zone) == ("JP", "Asia/Tokyo")
    assert (backup.cap, backup.window, backup.stores) == (50 * 10**9, "24h", ("clinical",))
    assert policy.attestations == (
        Attestation(pack="us-dsp", entity="clinic", by="A. Person", on=date(2026, 11, 2)),
    )
    assert policy.awake == ("operator", "us-dsp")
    assert Policy.model_validate(policy.model_dump(mode="json")) == policy


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (
            (APPROVAL.replace("    valid_to: 2027-03-31\n", ""), STORES, ENTITIES),
            ["0.yaml:2: approvals[0]: `valid_to` is missing (it says: last day on which it holds, UTC)"],
        ),
        (
            (APPROVAL.replace("    cap: 50 GB\n", "").replace("    approver: A. Person\n", ""), STORES, ENTITIES),
            [
                "0.yaml:2: approvals[0]: `approver` is missing (it says: who approved it, by name)",
                "0.yaml:2: approvals[0]: `cap` is missing (it says: content octets in each `window`; more than this tells people again)",
            ],
        ),
        (
            (APPROVAL.replace("{owners: [aws]}", "{}"), STORES, ENTITIES),
            ["0.yaml:4: approvals[0].destination: names no other end (name an entity, owners, providers, asns or networks)"],
        ),
        (
            (APPROVAL.replace("2027-03-31", "2026-10-31"), STORES, ENTITIES),
            ["0.yaml:2: approvals[0]: ends 2026-10-31, before it begins (2026-11-01) (give `valid_from` and `valid_to` in order)"],
        ),
        (
            (APPROVAL.replace("2027-03-31", "2099-12-31"), STORES, ENTITIES),
            ["0.yaml:9: ends 2099-12-31, in more than five years (give an end at which somebody looks again)"],
        ),
        (
            (APPROVAL + "    provisional: true\n", STORES, ENTITIES),
            ["0.yaml:2: approvals[0]: is provisional for 150 days (a provisional approval stands for 30 days at most)"],
        ),
        (
            (APPROVAL + "    approved_on: 2026-12-01\n", STORES, ENTITIES),
            ["0.yaml:10: the date 2026-12-01 lies ahead (give the day on which it was approved)"],
        ),
        (
            (APPROVAL.replace("[clinical]", "[clinicl]"), STORES, ENTITIES),
            ["0.yaml:3: approval `backup` names store `clinicl`, which is not there (did you mean `clinical`?)"],
        ),
        (
            (STORES.replace("personal_health", "personal_helth"), ENTITIES),
            ["0.yaml:3: stores[0].categories[0]: `personal_helth` is none of the choices (did you mean `personal_health`?)"],
        ),
        (
            (STORES.replace("entity: clinic", "entity: clinik"), ENTITIES),
            ["0.yaml:6: there is no legal entity `clinik` (did you mean `clinic`?)"],
        ),
        (
            (STORES.replace("2026-07-01", "2027-07-01"), ENTITIES),
            ["0.yaml:10: the date 2027-07-01 lies ahead (give the day on which it was stated)"],
        ),
        (
            (STORES.replace("[1 kB, 20 kB]", "[20 kB, 1 kB]").replace("[0.1, 1.2]", "[0.1]"), ENTITIES),
            [
                "0.yaml:11: stores[0].record_octets: expected the smaller first, such as [1, 20]",
                "0.yaml:13: stores[0].compression: expected two values, the least and the most, such as [1, 20]",
            ],
        ),
        (
            (STORES.replace("    records_by: A. Person\n", ""), ENTITIES),
            ["0.yaml:14: nobody attests that what leaves these ports is records (name who does: `records_by`)"],
        ),
        (
            (STORES.replace("[clinical]", "[ehr]"), ENTITIES),
            ["0.yaml:5: group `ehr` bears the name of a store (0.yaml:2) (give the group a name of its own)"],
        ),
        (
            (FORWARDERS + FORWARDERS.partition("\n")[2],),
            ["0.yaml:3: forwarder `proxy` is given twice, first at 0.yaml:2 (rename or remove one)"],
        ),
        (
            (FORWARDERS.replace("{hosts: [proxy-1], ports: [3128]}", "{}").replace("role: proxy", "role: prox"),),
            ["0.yaml:2: forwarders[0].role: `prox` is none of the choices (did you mean `proxy`?)"],
        ),
        (
            (FORWARDERS.replace("{hosts: [proxy-1], ports: [3128]}", "{}"),),
            ["0.yaml:2: nothing tells forwarder `proxy` from other machines (name its `hosts` or `addresses`)"],
        ),
        (
            (ENTITIES.replace("Asia/Tokyo", "Asia/Tokio"),),
            ["0.yaml:9: entities[0].calendar.time_zone: no such time zone; expected a name such as Asia/Tokyo or UTC"],
        ),
        (
            (ENTITIES, "attestations:\n  - {pack: us-dsp, entity: clinica, by: A. Person, on: 2026-11-02}\n"),
            ["1.yaml:2: there is no legal entity `clinica` (did you mean `clinic`?)"],
        ),
        (
            ("sites:\n  - {id: a, networks: [192.0.2.0/24]}\n  - {id: b, networks: [192.0.2.0/24]}\n",),
            ["0.yaml:3: 192.0.2.0/24 is of site `a` (0.yaml:2) already (take it out of one of the two)"],
        ),
    ],
)  # fmt: skip
def test_faults_of_registers(texts: tuple[str, ...], said: list[str], tmp_path: Path) -> None:
    """Each fault names file and line, what is wrong and how to mend it, and nothing besides is told."""
    assert faults(tmp_path, *texts) == said


def test_rules_mean_groups_of_stores(tmp_path: Path) -> None:
    """A rule that names a group reads every store of the group and no other."""
    rules = "rules:\n  - {id: mine, over: 1 MB, stores: [clinical]}\n"
    other = "  - {id: web, categories: [research], recognise: {hosts: [web-1]}}\n"
    policy = written(tmp_path, ENTITIES, STORES + other, rules)
    mine = next(rule for _, rule in policy.rules if rule.id == "mine")
    assert [policy.reads(mine, name) for name in ("ehr", "web")] == [True, False]


# found by keys, not pair by pair

HOSTS = st.sampled_from(["this", "db", "db.a.example", "db.b.example", "DB", "web", "web.a.example"])
NETWORKS = st.sampled_from(["192.0.2.0/24", "192.0.2.128/25", "192.0.2.129", "0.0.0.0/0", "2001:db8::/32", "2001:db8::1", "::/0"])  # fmt: skip
PODS = st.sampled_from(["shop/db", "shop/db-0", "shop/db*", "shop/*", "*", "shop", "other/x*"])
EXECUTABLES = st.sampled_from(["/a/b", "/a/*", "/a/c", "/?/b"])


def few(of: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(of, max_size=2)


PLACES = st.fixed_dictionaries(
    {"hosts": few(HOSTS), "addresses": few(NETWORKS), "pods": few(PODS)},
    optional={
        "ports": few(st.sampled_from([1, 2])),
        "processes": few(st.sampled_from(["a", "b"])),
        "executables": few(EXECUTABLES),
        "containers": few(st.sampled_from(["ab", "abc", "b"])),
    },
).map(Recognition.model_validate)


@given(st.lists(PLACES, min_size=1, max_size=6))
def test_keys_find_what_a_search_of_all_pairs_finds(places: list[Recognition]) -> None:
    """Two stores share a place by the index exactly when their recognitions meet, whichever is asked."""
    stores = tuple(Store(id=f"s{n}", categories=("research",), recognise=p) for n, p in enumerate(places))
    policy = Policy(stores=stores)
    for a in stores:
        meeting = [b.id for b in stores if b is not a and b.recognise.meets(a.recognise)]
        assert list(policy.sharing(a.id)) == meeting
        for chosen in stores:
            rule = Rule(id="r", over=1, stores=(chosen.id,))
            near = chosen is a or chosen.recognise.meets(a.recognise)
            assert policy.reads(rule, a.id, "same_host") == near


@given(st.lists(PLACES, min_size=2, max_size=5))
def test_overlaps_are_found_without_comparing_all_pairs(places: list[Recognition]) -> None:
    """A store is told to overlap exactly when some earlier one is in its place and claims the same there."""
    from agent.policy.document import Document
    from agent.policy.overlaps import overlaps
    from agent.policy.placed import Placed

    document = Document("p.yaml", {})
    placed = [
        Placed(f"s{n}", Store(id=f"s{n}", categories=("research",), recognise=p), document, ("stores", n))
        for n, p in enumerate(places)
    ]
    told = {fault.message.split("`")[1] for fault in overlaps(placed)}
    whole = [p for p in placed if p.value and not p.value.recognise.is_empty()]
    plain = {
        second.id
        for n, second in enumerate(whole)
        for first in whole[:n]
        if first.value and second.value and first.value.recognise.meets(second.value.recognise)
        and common_claim(first.value.recognise, second.value.recognise)
    }  # fmt: skip
    assert told == plain


def test_a_model_copy_is_indexed_anew() -> None:
    """A copy of a policy with other stores answers for those, also when the first was asked before."""
    one, other = (
        Store(id=name, categories=("research",), recognise=Recognition(ports=(1,))) for name in "ab"
    )
    policy = Policy(stores=(one,))
    assert policy.store("a") is one
    assert [policy.model_copy(update={"stores": (other,)}).store(name) for name in "ab"] == [None, other]


def test_a_large_register_is_asked_in_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 3,000 stores no two are compared: what is looked at grows with the stores, not with their pairs."""
    monkeypatch.setattr(Recognition, "meets", lambda *_: pytest.fail("compared a pair"))
    stores = tuple(
        Store(id=f"s{n}", categories=("research",), recognise=Recognition(hosts=(f"db-{n}",), ports=(5432,)))
        for n in range(3_000)
    )
    index = StoreIndex(stores)
    assert [s.id for s in index.on_host("DB-7.example")] == ["s7"]
    assert [s.id for s in index.meeting(stores[9])] == ["s9"]


def test_a_long_chain_of_copies_is_walked_once(tmp_path: Path) -> None:
    """A circle of 2,000 copies is told for each of its stores, with a few of its names."""
    lines = [
        f"  - {{id: s{n}, categories: [research], recognise: {{ports: [{n + 1}]}}, copy_of: s{(n + 1) % 2000}}}\n"
        for n in range(2_000)
    ]
    told = faults(tmp_path, "stores:\n" + "".join(lines))
    assert len(told) == 2_000
    assert (
        told[0]
        == "0.yaml:2: is a copy of itself: s0 -> s1 -> s2 -> s3 -> s4 -> s5 -> s6 -> … -> s0 (name the original)"
    )


# the git work tree


def git(folder: Path, *words: str) -> str:
    plain = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    who = ("-c", "user.name=A. Person", "-c", "user.email=a@example.org")
    done = subprocess.run(
        ["git", *who, "-C", str(folder), *words], check=True, capture_output=True, text=True, env=plain
    )
    return done.stdout.strip()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "policy"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "assets.yaml").write_text("stores: []\n")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "first")
    return folder


def test_the_policy_bears_the_commit_of_its_files(tree: Path) -> None:
    """The commit that the files are of; +changed while a file differs, is new, or is one that git is told to ignore."""
    head = git(tree, "rev-parse", "HEAD")[:12]
    assert load([tree], today=TODAY).commit == head
    (tree / "notes.txt").write_text("not of the policy")
    assert load([tree], today=TODAY).commit == head
    (tree / "assets.yaml").write_text("stores: [] # remark\n")
    assert load([tree], today=TODAY).commit == f"{head}+changed"
    git(tree, "checkout", "-q", "assets.yaml")
    (tree / "more.yaml").write_text("sites: []\n")
    assert load([tree], today=TODAY).commit == f"{head}+changed"
    (tree / ".git/info/exclude").write_text("more.yaml\n")
    assert load([tree], today=TODAY).commit == f"{head}+changed"
    assert load([tree / "assets.yaml"], today=TODAY).commit == head


def test_outside_of_git_there_is_no_commit(
    tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No work tree, files that git does not know, and no git at all: no commit, and no fault."""
    (tmp_path / "alone.yaml").write_text("stores: []\n")
    assert commit_of([tmp_path / "alone.yaml"]) == ""
    (tree / "sub").mkdir()
    (tree / "sub/new.yaml").write_text("sites: []\n")
    assert commit_of([tree / "sub"]) == ""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert load([tree], today=TODAY).commit == ""


def test_a_commit_can_be_seen(tree: Path) -> None:
    """A commit changes a file that is watched, so that a running program takes the new one up."""
    before = [mark.stat().st_mtime_ns for mark in marks([tree]) if mark.exists()]
    git(tree, "commit", "-qm", "second", "--allow-empty")
    assert [mark.stat().st_mtime_ns for mark in marks([tree]) if mark.exists()] != before


def test_settings_of_a_work_tree_start_nothing(tree: Path) -> None:
    """A work tree whose settings name a program to watch files with: it is not run."""
    ran = tree.parent / "ran"
    program = tree.parent / "program"
    program.write_text(f"#!/bin/sh\ntouch {ran}\n")
    program.chmod(0o755)
    git(tree, "config", "core.fsmonitor", str(program))
    assert (
        load([tree], today=TODAY).commit == git(tree, "-c", "core.fsmonitor=false", "rev-parse", "HEAD")[:12]
    )
    assert not ran.exists()


_LENGTHS = st.sampled_from([0, 8, 18, 31, 32])
_NETWORKS = st.one_of(
    st.builds(
        lambda number, length: ipaddress.ip_network((number, length), strict=False),
        st.integers(0, 2**32 - 1).map(ipaddress.IPv4Address),
        _LENGTHS,
    ),
    st.builds(
        lambda number, length: ipaddress.ip_network((number, length), strict=False),
        st.integers(0, 2**128 - 1).map(ipaddress.IPv6Address),
        st.sampled_from([0, 32, 63, 64, 65, 96, 127, 128]),
    ),
)


@given(st.lists(_NETWORKS, min_size=1, max_size=8), st.data())
def test_the_places_of_many_addresses_are_those_of_each(networks: list[Network], data: st.DataObject) -> None:
    """Found by columns, a network is among the places exactly if one of the addresses lies in it."""
    inside = [
        data.draw(st.integers(int(n.network_address), int(n.broadcast_address)).map(type(n.network_address)))
        for n in networks[::2]
    ]
    some = [*map(str, inside), "192.0.2.1", "2001:db8::1", "::ffff:198.51.100.7"]
    addresses = address.parse(some)
    places = Places.of([Recognition(addresses=tuple(networks))])
    wanted = {
        (n.version, n.prefixlen, int(n.network_address))
        for n in networks
        if bool(address.NetworkSet([n]).contains(addresses).any())
    }
    assert {key for _, key in places.at_addresses(addresses)} == wanted

"""What differs between two policies, and policies as they stood at a git revision."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from agent.core.errors import PolicyError
from agent.policy.differences import Difference, differences, woken
from agent.policy.load import load
from agent.policy.model import Policy
from agent.policy.revisions import at_revision
from tests.tools.policy_files import OWN_PACK, git

TODAY = date(2026, 11, 21)
STORE = "stores:\n  - {id: ehr, categories: [personal_health], recognise: {ports: [5432]}}\n"


def policy_of(folder: Path, *texts: str) -> Policy:
    files = []
    for number, text in enumerate(texts):
        file = folder / f"{number}.yaml"
        file.write_text(text)
        files.append(file)
    return load(files, today=TODAY, with_tests=True)


def test_equal_policies_do_not_differ(tmp_path: Path) -> None:
    """Remarks and the order of keys are no difference; the version may be another."""
    old, new = policy_of(tmp_path, STORE), policy_of(tmp_path, "# remark\n" + STORE)
    assert differences(old, new) == ()
    assert old.version != new.version


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (STORE, STORE.replace("5432", "5433"), [("stores", "ehr", "changed", ("recognise.ports",))]),
        ("", "sites: [{id: main, networks: [192.0.2.0/24]}]\n", [("sites", "main", "added", ("networks",))]),
        ("rules: [{id: mine, over: 1 GB}]\n", "", [("rules", "operator/mine", "removed", ("over",))]),
        (
            "",
            "rules: [{id: bulk-external, over: 2 GB, severity: high}]\n",
            [("rules", "operator/bulk-external", "changed", ("over", "severity", "tests"))],
        ),
        (
            "",
            "rules: [{id: us-dsp-octet-floor, enabled: false}]\n",
            [("rules", "us-dsp/us-dsp-octet-floor", "changed", ("enabled", "tests"))],
        ),
        ("tenant: a\n", "tenant: b\n", [("tenant", "", "changed", ("tenant",))]),
        (
            "",
            "destinations: [{id: restricted-owners, owners: [aeza]}]\n",
            [
                (
                    "destinations",
                    "restricted-owners",
                    "changed",
                    ("name", "owners", "owner_countries", "review_counts", "note"),
                )
            ],
        ),
        (
            "",
            "attestations: [{pack: jp-appi, entity: E, by: A, on: 2026-11-02}]\n",
            [("attestations", "jp-appi, E", "added", ("entity", "by", "on"))],
        ),
        (
            "",
            OWN_PACK,
            [
                ("rules", "our-contracts/lab-results", "added", ("categories", "over", "tests")),
                (
                    "packs",
                    "our-contracts",
                    "added",
                    ("version", "title", "state", "needs_attestation", "sources"),
                ),
            ],
        ),
    ],
)
def test_differences(before: str, after: str, expected: list[tuple[object, ...]], tmp_path: Path) -> None:
    """Each entry that was added, removed or changed is told by its id, with the fields that differ."""
    found = differences(policy_of(tmp_path, before), policy_of(tmp_path, after))
    told = [(d.kind, d.id, d.what, tuple(name for name, _, _ in d.fields)) for d in found]
    assert told == expected


def test_a_changed_pack_is_told_fact_by_fact(tmp_path: Path) -> None:
    """Of a pack the smallest part that differs is named, with old and new value."""
    law = (
        "pack: mine\nversion: '1'\ntitle: Mine\nstate: in_force\nsources: [{cite: x, mark: V}]\n"
        "facts: [{id: a, says: A, cite: art 1, mark: V}]\n"
        "thresholds:\n  - {category: biometric, over: 10, cite: art 2, mark: V}\n"
        "  - {category: research, over: 10, cite: art 2, mark: V}\n"
    )
    newer = law.replace("version: '1'", "version: '2'").replace("biometric, over: 10", "biometric, over: 20")
    newer = newer.replace("{id: a, says: A, cite: art 1, mark: V}", "{id: a, says: A, cite: art 1, mark: V2}")
    (found,) = differences(policy_of(tmp_path, law), policy_of(tmp_path, newer))
    assert found == Difference(
        "packs",
        "mine",
        "changed",
        (
            ("version", "1", "2"),
            ("facts[a art 1].mark", "V", "V2"),
            ("thresholds[biometric art 2].over", 10, 20),
        ),
    )


def test_packs_that_wake_and_fall_asleep(tmp_path: Path) -> None:
    """An attestation wakes a pack; without it the pack falls asleep."""
    asleep = policy_of(tmp_path, "")
    awake = policy_of(tmp_path, "attestations: [{pack: jp-appi, entity: E, by: A, on: 2026-11-02}]\n")
    assert woken(asleep, awake) == (("jp-appi",), ())
    assert woken(awake, asleep) == ((), ("jp-appi",))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A work tree with a policy folder of two commits, the second with another threshold and one file more."""
    folder = tmp_path / "work" / "policy"
    folder.mkdir(parents=True)
    git(tmp_path / "work", "init", "-q")
    (folder / "a.yaml").write_text("rules: [{id: mine, over: 1 GB}]\n")
    git(tmp_path / "work", "add", ".")
    git(tmp_path / "work", "commit", "-q", "-m", "first")
    (folder / "a.yaml").write_text("rules: [{id: mine, over: 2 GB}]\n")
    (folder / "b.yaml").write_text("stores: nonsense\n")
    git(tmp_path / "work", "add", ".")
    git(tmp_path / "work", "commit", "-q", "-m", "second")
    return folder


def test_files_of_a_revision(tree: Path) -> None:
    """A folder is read as it stood at a revision, and is gone afterwards."""
    with at_revision("HEAD~1", [tree]) as (then,):
        assert [file.name for file in then.iterdir()] == ["a.yaml"]
        rules = {rule.id: rule.over for _, rule in load([then], today=TODAY).rules}
    assert rules["mine"] == 10**9
    assert not then.exists()


def test_faults_of_a_revision_name_it(tree: Path) -> None:
    """A fault in an old file names the revision and the path in the work tree, not where it was laid."""
    with pytest.raises(PolicyError) as raised, at_revision("HEAD", [tree]) as found:
        load(found, today=TODAY)
    assert {fault.file for fault in raised.value.faults} == {"HEAD:policy/b.yaml"}


@pytest.mark.parametrize("revision", ["HEAD~9", "nothing", "--output=x", "-h", ""])
def test_what_is_no_revision(revision: str, tree: Path) -> None:
    """What git does not know, or what looks like an option of its, is refused."""
    with pytest.raises(PolicyError, match="is no file and no git revision"), at_revision(revision, [tree]):
        pytest.fail("it was read")


def test_a_file_that_was_not_there_yet(tree: Path) -> None:
    """A revision that holds none of the files is refused."""
    with (
        pytest.raises(PolicyError, match=r"holds none of .*b\.yaml"),
        at_revision("HEAD~1", [tree / "b.yaml"]),
    ):
        pytest.fail("it was read")


def test_outside_of_git(tmp_path: Path) -> None:
    """Without a work tree no revision can be named."""
    with pytest.raises(PolicyError, match="stands in no git work tree"), at_revision("HEAD", [tmp_path]):
        pytest.fail("it was read")


def test_no_program_of_the_work_tree_is_run(tree: Path, tmp_path: Path) -> None:
    """Filters, hooks and monitors that a work tree names are not run by reading an old policy."""
    told = tmp_path / "ran"
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\necho ran >> {told}\ncat\n")
    program.chmod(0o755)
    for name in ("filter.x.smudge", "filter.x.clean", "diff.x.textconv", "core.fsmonitor"):
        git(tree, "config", name, str(program))
    (tree.parent / ".gitattributes").write_text("*.yaml filter=x diff=x\n")
    with at_revision("HEAD~1", [tree]) as (then,):
        assert (then / "a.yaml").read_text() == "rules: [{id: mine, over: 1 GB}]\n"
    assert not told.exists()

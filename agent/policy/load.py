"""Policy files, overrides and shipped packs joined into one :class:`~agent.policy.model.Policy`.

All faults of all files are reported at once. Nothing is repaired or guessed. Whoever reloads keeps the last policy
that could be read: this module only raises.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

from agent.core.errors import Fault, PolicyError
from agent.policy import registered
from agent.policy.checks import across, expected_twice
from agent.policy.document import Document
from agent.policy.model import (
    Approval,
    Attestation,
    DestinationSet,
    ExpectedHost,
    Forwarder,
    LegalEntity,
    Override,
    Pack,
    Policy,
    PolicyFile,
    Rule,
    Site,
    Store,
)
from agent.policy.overrides import read_overrides, repeated_networks
from agent.policy.packfiles import (
    OWN_PACK,
    PackFile,
    attestation_faults,
    is_pack,
    shipped_packs,
    standing,
    with_own,
)
from agent.policy.placed import entries, inner, repeated
from agent.policy.repository import commit_of
from agent.policy.servers import Listening
from agent.policy.starter import starter
from agent.policy.yamlfile import read, validate

__all__ = ["OWN_PACK", "Listening", "load", "pack_schema", "schema", "shipped_packs", "starter"]

ENDINGS = (".yaml", ".yml")
_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def load(
    paths: Sequence[Path], *, overrides: Sequence[Path] = (), today: date, with_tests: bool = False
) -> Policy:
    """The policy that these files give. A path may be a folder: every ``.yaml`` and ``.yml`` in it, by name. A file
    whose top holds ``pack:`` is a pack.

    ``overrides`` are YAML or CSV files of what is known better about some networks. ``today`` decides which packs
    are within their dates. ``with_tests``: the rules keep the tests that stand beside them, which nobody but
    ``sekisho policy test`` reads. Raises :class:`PolicyError` with every fault found.
    """
    with _without_collection():
        return _loaded(paths, overrides, today, with_tests=with_tests)


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    """A register of 100,000 stores is millions of objects that all stay: looking for rubbish among them again and again
    takes two thirds of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _loaded(paths: Sequence[Path], overrides: Sequence[Path], today: date, *, with_tests: bool) -> Policy:
    faults: list[Fault] = []
    read_in = _documents(paths, faults)
    known_packs = with_own(shipped_packs(), [d for d in read_in if is_pack(d)], today, faults)
    documents = [_patched(d, known_packs) for d in read_in if not is_pack(d)]
    whole, known = _whole(documents, overrides, faults)
    written = _Written(documents, whole)
    packs, awake = _packs(written, known_packs, today, with_tests=with_tests)
    faults.extend(_tenants(documents))
    faults.extend(repeated_networks(known))
    attested = [(p.document, p.keys, p.value) for p in written.attestations if p.value]
    faults.extend(attestation_faults(attested, {p.pack: p for p in packs}, today))
    faults.extend(expected_twice(written.expected_hosts))
    faults.extend(_faults_across(written, packs, awake))
    faults.extend(_register_faults(written, today))
    if faults:
        raise PolicyError(sorted(dict.fromkeys(faults), key=lambda f: (f.file, f.line)))
    return Policy(
        tenant=next((d.data["tenant"] for d in documents if "tenant" in d.data), "default"),
        sites=tuple(p.value for p in written.sites if p.value),
        stores=tuple(p.value for p in written.stores if p.value),
        destinations=_destinations(written, packs, awake),
        rules=_rules(written, packs, awake, with_tests=with_tests),
        overrides=tuple(o for _, found in known for o in found),
        packs=packs,
        awake=tuple(sorted(awake)),
        attestations=tuple(p.value for p in written.attestations if p.value),
        expected_hosts=tuple(p.value for p in written.expected_hosts if p.value),
        forwarders=tuple(p.value for p in written.forwarders if p.value),
        entities=tuple(p.value for p in written.entities if p.value),
        approvals=tuple(p.value for p in written.approvals if p.value),
        commit=commit_of([*paths, *overrides], [Path(d.name) for d in read_in]),
        version=_version(known_packs, [*documents, *(d for d, _ in known if d not in documents)]),
    )


def schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a policy file, for editors and other tools."""
    made = PolicyFile.model_json_schema()
    made["$schema"] = _DIALECT
    made["title"] = "sekisho policy file"
    # An entry with a shipped rule's id may hold only the keys that it changes.
    made["$defs"]["Rule"]["required"] = ["id"]
    return made


def pack_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a pack."""
    made = Pack.model_json_schema()
    made["$schema"] = _DIALECT
    made["title"] = "sekisho pack"
    return made


class _Written:
    """What the operator's own files hold, entry by entry."""

    def __init__(self, documents: Sequence[Document], whole: Mapping[str, PolicyFile]) -> None:
        self.sites = entries(documents, "sites", Site, whole)
        self.stores = entries(documents, "stores", Store, whole)
        self.destinations = entries(documents, "destinations", DestinationSet, whole)
        self.rules = entries(documents, "rules", Rule, whole)
        self.forwarders = entries(documents, "forwarders", Forwarder, whole)
        self.entities = entries(documents, "entities", LegalEntity, whole)
        self.approvals = entries(documents, "approvals", Approval, whole)
        self.expected_hosts = entries(documents, "expected_hosts", ExpectedHost, whole)
        self.attestations = [
            *entries(documents, "attestations", Attestation, whole),
            *inner(self.entities, "regimes", _attested),
        ]


def _attested(entity: LegalEntity) -> list[Attestation]:
    """What an entity's own entry says of the regimes that bind it."""
    return [
        Attestation(pack=b.pack, entity=entity.id, by=b.by, on=b.on, words=b.words) for b in entity.regimes
    ]


def files_of(path: Path) -> list[Path]:
    """The files that a path of the settings stands for: itself, or those in a folder, by name. Raises ``OSError``."""
    if not path.is_dir():
        return [path]
    return sorted(f for f in path.iterdir() if f.suffix in ENDINGS and not f.name.startswith("."))


def _documents(paths: Sequence[Path], faults: list[Fault]) -> list[Document]:
    seen: dict[Path, Path] = {}
    for path in paths:
        try:
            inside = files_of(path)
            seen |= {file.resolve(): file for file in inside if file.resolve() not in seen}
        except (
            OSError,
            RuntimeError,
        ) as error:  # RuntimeError: pathlib, of symbolic links that go in a circle
            reason = error.strerror if isinstance(error, OSError) else "its symbolic links go in a circle"
            faults.append(
                Fault(str(path), 0, f"cannot be read: {reason}", "check the path and its permissions")
            )
            continue
        if not inside:
            faults.append(Fault(str(path), 0, "holds no policy file", "put a file that ends in .yaml there"))
    documents = []
    for path in seen.values():
        try:
            document = read(path, kind=PolicyError)
            if not isinstance(document.data, dict):
                raise PolicyError(document.fault((), "expected keys such as `stores:` and `sites:`"))
            documents.append(document)
        except PolicyError as error:
            faults.extend(error.faults)
    return documents


def _whole(
    documents: Sequence[Document], overrides: Sequence[Path], faults: list[Fault]
) -> tuple[dict[str, PolicyFile], list[tuple[Document, tuple[Override, ...]]]]:
    """The files that can be read as they are, by name; and what is known better about some networks, by the file that
    says so: policy files first."""
    whole, known = {}, []
    for document in documents:
        try:
            whole[document.name] = validate(PolicyFile, document, kind=PolicyError)
            known.append((document, whole[document.name].overrides))
        except PolicyError as error:
            faults.extend(error.faults)
    for path in overrides:
        try:
            known.append(read_overrides(path))
        except PolicyError as error:
            faults.extend(error.faults)
    return whole, known


def _faults_across(written: _Written, packs: Sequence[Pack], awake: set[str]) -> Iterable[Fault]:
    return across(
        written.stores,
        written.sites,
        written.destinations,
        written.rules,
        shipped_sets={d.id: d for pack in packs if pack.pack in awake for d in pack.destinations},
        asleep_sets={d.id: pack.pack for pack in packs if pack.pack not in awake for d in pack.destinations},
        home={rule.id: pack.pack for pack in packs for rule in pack.rules},
    )


def _register_faults(written: _Written, today: date) -> Iterator[Fault]:
    yield from repeated("forwarder", written.forwarders)
    yield from repeated("legal entity", written.entities)
    yield from repeated("approval", written.approvals)
    yield from registered.entities(written.entities, written.attestations)
    yield from registered.answering(written.stores, written.entities)
    yield from registered.answering(written.forwarders, written.entities)
    yield from registered.answering(written.sites, written.entities)
    yield from registered.stores(written.stores, today)
    yield from registered.forwarders(written.forwarders)
    yield from registered.sites(written.sites)
    yield from registered.approvals(written.approvals, written.stores, today)


def _destinations(written: _Written, packs: Sequence[Pack], awake: set[str]) -> tuple[DestinationSet, ...]:
    """Those of the packs awake; the operator's own win."""
    sets = {d.id: d for pack in packs if pack.pack in awake for d in pack.destinations}
    sets.update((p.id, p.value) for p in written.destinations if p.value)
    approvals = [p.value for p in written.approvals if p.value]
    sets.update((a.set_id, a.destination.as_set(a.set_id)) for a in approvals)
    return tuple(sets.values())


def _rules(
    written: _Written, packs: Sequence[Pack], awake: set[str], *, with_tests: bool
) -> tuple[tuple[str, Rule], ...]:
    """(pack, rule) of every rule that is enabled: the packs awake, then the operator's own."""
    shipped = {rule.id for pack in packs for rule in pack.rules}
    rules = [(pack.pack, rule) for pack in packs if pack.pack in awake for rule in pack.rules]
    own = [p.value for p in written.rules if p.value and p.id not in shipped]
    rules += [(OWN_PACK, rule if with_tests else untested(rule)) for rule in own]
    rules += [(OWN_PACK, p.value.cap_rule()) for p in written.approvals if p.value]
    return tuple((pack, rule) for pack, rule in rules if rule.enabled)


def untested(rule: Rule) -> Rule:
    """The rule without the tests beside it: they change nothing that it finds."""
    return rule.model_copy(update={"tests": ()}) if rule.tests else rule


def _patched(document: Document, packs: Sequence[PackFile]) -> Document:
    """A rule with a pack's rule's id changes that rule: keys that it leaves out are taken from there, but for its
    tests, which hold for the rule as it was.
    """
    rules = document.data.get("rules")
    if not isinstance(rules, list):
        return document
    shipped = {
        rule["id"]: {key: value for key, value in rule.items() if key != "tests"}
        for pack_document, _ in packs
        for rule in pack_document.data.get("rules") or ()
        if isinstance(rule, dict) and "id" in rule
    }
    merged = [
        {**shipped[rule["id"]], **rule} if isinstance(rule, dict) and rule.get("id") in shipped else rule
        for rule in rules
    ]
    return replace(document, data={**document.data, "rules": merged})


def _tenants(documents: Sequence[Document]) -> Iterator[Fault]:
    first: Document | None = None
    for document in documents:
        if "tenant" not in document.data:
            continue
        first = first or document
        if document.data["tenant"] != first.data["tenant"]:
            where = f"{first.name}:{first.line_of(('tenant',))}"
            yield document.fault(
                ("tenant",), f"another tenant than at {where}", "one policy is of one tenant"
            )


def _packs(
    written: _Written, known: Sequence[PackFile], today: date, *, with_tests: bool
) -> tuple[tuple[Pack, ...], set[str]]:
    """Every pack with the operator's changes to its rules, and the ids of those awake today."""
    changed: Mapping[str, Rule] = {p.id: p.value for p in written.rules if p.value}
    attested = [p.value for p in written.attestations if p.value]
    packs = []
    for _, pack in known:
        rules = tuple(changed.get(rule.id, rule) for rule in pack.rules)
        rules = rules if with_tests else tuple(map(untested, rules))
        packs.append(pack.model_copy(update={"rules": rules}))
    return tuple(packs), {p.pack for p in packs if standing(p, attested, today).awake}


def _version(packs: Sequence[PackFile], documents: Sequence[Document]) -> str:
    digests = [d.digest for d, _ in packs] + [d.digest for d in documents]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()[:12]

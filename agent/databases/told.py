"""The facts of one address in words: a line for each, in the order in which a person asks for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

from agent.databases.book import AddressFacts, Listing, Witness
from agent.policy.model import Override
from agent.words import Phrases
from agent.words.owners import stakes

_PASSING_ON = ("vpn", "tor", "relay")
_MOVING = ("anycast", "cdn")


@dataclass(frozen=True, slots=True)
class Line:
    """One fact as a person reads it."""

    what: str
    value: str
    source: str = ""


def told(facts: AddressFacts, say: Phrases) -> Iterator[Line]:
    """Every fact with its source; what is not known is said to be so."""
    return _Telling(facts, say).lines()


class _Telling:
    def __init__(self, facts: AddressFacts, say: Phrases) -> None:
        self._facts, self._say = facts, say

    def lines(self) -> Iterator[Line]:
        facts = self._facts
        if facts.special:
            yield self._line("special", self._special(), self._special_source())
        if facts.override:
            yield self._line("override", self._stated(facts.override), self._dated(facts.override))
        if facts.flags:
            yield self._line("kind", self._say.join(facts.flags), self._flagged_by())
        if doubt := self._doubt():
            yield self._line("doubt", doubt)
        yield self._place()
        yield self._network()
        if facts.cloud:
            said = self._say("who.also").join(self._listing(g) for g in facts.listings if g.provider)
            named = " ".join(v for v in (facts.cloud, facts.cloud_region, facts.cloud_service) if v)
            yield self._line("listed", named, said)
        yield self._operator()
        yield self._owner()
        for stake in stakes(self._facts.owner.chain, self._say):
            yield self._line("stake", stake, self._facts.ownership)

    def _line(self, label: str, value: str, source: str = "") -> Line:
        return Line(self._say(f"who.label.{label}"), value, source)

    def _special(self) -> str:
        return self._say.named("special", self._facts.special or "")

    def _special_source(self) -> str:
        network, _, rest = self._facts.special_source.partition("; ")
        if (self._facts.special or "").startswith("anycast"):
            version = rest.removesuffix(", not verified")
            return self._say("who.anycast_source", network=network, version=version)
        return self._say("who.iana_source", network=network) if network else ""

    def _flagged_by(self) -> str:
        facts = self._facts
        by = [self._listing(g) for g in facts.listings if g.flags]
        if facts.special and facts.special.startswith("anycast"):
            by.append(self._special_source())
        if facts.override and facts.override.anycast:
            by.append(self._dated(facts.override))
        return self._say("who.also").join(by)

    def _doubt(self) -> str:
        """What the kind of address says about where the data goes."""
        flags = self._facts.flags
        if hidden := [flag for flag in flags if flag in _PASSING_ON]:
            return self._say("who.relayed", flags=self._say.join(hidden))
        return self._say("who.cdn") if "cdn" in flags else ""

    def _place(self) -> Line:
        facts, say = self._facts, self._say
        witness = facts.witnesses.get("country")
        said = [self._said(witness, witness.country) if witness else say("who.no_country_database")]
        if witness and witness.registered_country and witness.registered_country != witness.country:
            said.append(say("who.holder", country=witness.registered_country))
        if second := facts.witnesses.get("country_witness"):
            said.append(self._said(second, second.country))
        if facts.override and facts.override.country and facts.country:
            said.insert(0, self._dated(facts.override))
        value = self._where()
        if witness and second and _differ(witness.country, second.country) and facts.country:
            value = say("who.disagree", value=value)
        return self._line("place", value, say("who.also").join(said))

    def _where(self) -> str:
        facts, say = self._facts, self._say
        if facts.country:
            confidence = say(f"confidence.{facts.location_confidence}")
            return say("who.place", country=facts.country, confidence=confidence)
        if facts.special:
            return say("who.none", why=self._special())
        moving = [flag for flag in facts.flags if flag in _MOVING]
        return say("who.none", why=say.join(moving)) if moving else say("who.unknown")

    def _network(self) -> Line:
        facts = self._facts
        witness = facts.witnesses.get("network")
        said = [self._said(witness, _asn(witness)) if witness else self._say("who.no_network_database")]
        if second := facts.witnesses.get("network_witness"):
            said.append(self._said(second, _asn(second)))
        if facts.override and (facts.override.asn or facts.override.as_org):
            said.insert(0, self._dated(facts.override))
        number = f"AS{facts.asn}" if facts.asn is not None else ""
        value = " ".join(v for v in (number, facts.as_org) if v) or self._say("who.unknown")
        if witness and second and _differ(witness.asn, second.asn):
            value = self._say("who.disagree", value=value)
        return self._line("network", value, self._say("who.also").join(said))

    def _operator(self) -> Line:
        fact, say = self._facts.owner, self._say
        if not fact.provider:
            return self._line("operator", say("who.not_on_record"), self._facts.ownership)
        value = fact.provider_name or fact.provider
        if fact.organisation:
            value = say("who.organisation", name=value, organisation=fact.organisation)
        if fact.organised_in:
            value = say("who.organised_in", name=value, country=fact.organised_in)
        return self._line("operator", value, self._facts.ownership)

    def _owner(self) -> Line:
        facts, fact, say = self._facts, self._facts.owner, self._say
        if not fact.owner and not fact.owner_country:
            return self._line("owner", say("who.not_on_record"), facts.ownership)
        country = fact.owner_country or say("who.country_unknown")
        flags = [say(f"who.{name}") for name in ("disputed", "review", "stale") if getattr(fact, name)]
        value = say(
            "who.owner_flagged" if flags else "who.owner",
            owner=fact.owner or say("who.unnamed"),
            country=say("who.share", country=country, share=fact.share) if fact.share else country,
            confidence=say(f"confidence.{facts.owner_confidence}"),
            flags=say.join(flags),
        )
        source = say("who.checked", source=fact.source, day=fact.checked) if fact.checked else fact.source
        mark = say("who.mark", mark=fact.mark, meaning=say.named("mark", fact.mark)) if fact.mark else ""
        parts = [source, mark, *fact.designations, fact.note]
        return self._line("owner", value, self._say("who.also").join(part for part in parts if part))

    def _said(self, witness: Witness, what: str | None) -> str:
        key = "who.says" if what else "who.says_nothing"
        lineage = witness.lineage or self._say("unknown")
        return self._say(key, source=witness.source, lineage=lineage, what=what, prefix=witness.prefix)

    def _listing(self, listing: Listing) -> str:
        place = " ".join(v for v in (listing.provider, listing.region, listing.service) if v)
        said = self._say("who.also").join(v for v in (place, self._say.join(listing.flags)) if v)
        key = "who.listing_from" if listing.origin else "who.listing"
        return self._say(key, source=listing.source, said=said, origin=listing.origin)

    def _dated(self, override: Override) -> str:
        checked: date | None = override.checked
        if not checked:
            return override.source
        return self._say("who.checked", source=override.source, day=checked)

    def _stated(self, override: Override) -> str:
        skip = {"network", "source", "checked", "note"}
        given = override.model_dump(mode="json", exclude=skip, exclude_none=True, exclude_defaults=True)
        parts = [f"{name.replace('_', ' ')} {value}" for name, value in given.items()]
        told = f"{override.network}: {', '.join(parts) or self._say('who.nothing')}"
        return self._say("who.also").join([told, override.note]) if override.note else told


def _asn(witness: Witness) -> str | None:
    return f"AS{witness.asn}" if witness.asn else None


def _differ(one: object, other: object) -> bool:
    """Whether two databases disagree, where both say something."""
    return bool(one and other and one != other)

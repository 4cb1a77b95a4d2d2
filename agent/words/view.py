"""What a notice says: the facts of a case or an event, worded, for the one template that puts them in order.

Every text of the notice is made harmless (:mod:`agent.words.escape`) before anything is worded, so that no later
line can forget it. What may stand in a title is decided here: a country only where a source has one, a parent only
with source, date and mark, and never from a record that is unverified, disputed, stale or to be reviewed.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import tzinfo

from agent.core.finding import (
    Case,
    Confidence,
    Destination,
    Event,
    Finding,
    Notice,
    NoticeKind,
    OwnerFact,
    Share,
    StoreFact,
    Traffic,
)
from agent.words import units
from agent.words.approvals import approval_line
from agent.words.escape import shown, shown_in
from agent.words.owners import stakes
from agent.words.phrases import Phrases
from agent.words.relays import relay_lines

UNKNOWN = "?"
TOP = 3
MAX_FINDINGS = 4
ADDRESSES_COUNTED = 1_000
"""From here on a count of addresses is a lower bound."""


def harmless(notice: Notice) -> Notice:
    """The same notice with every outside text on one line and without control characters."""
    return Notice.model_validate(shown_in(notice.model_dump()))


class EventView:
    """The words of a notice about sekisho itself."""

    def __init__(self, notice: Notice, say: Phrases, zone: tzinfo | None) -> None:
        self._say, self._notice = say, notice
        self.event = notice.event or Event(name="event")
        self.moment = beside(units.moment(notice.time_ns, zone), say)
        plain = self.event.name.replace("_", " ")
        self.what = say(f"event.{self.event.name}") if f"event.{self.event.name}" in say else plain

    @property
    def title(self) -> str:
        """``[LOW] sekisho on db-01: the new settings were refused``."""
        return f"{_tag(self._notice, self._say)} {self._headline}"

    @property
    def pager(self) -> str:
        """One line without a name from outside, for a service outside."""
        said = self._say("pager.event", severity=_severity(self._notice, self._say), title=self.what)
        return _marked(said, self._notice, self._say)

    @property
    def advice(self) -> str:
        """What to do next."""
        key = f"event_advice.{self.event.name}"
        return self._say(key if key in self._say else "event_advice.other")

    @property
    def _headline(self) -> str:
        return self._say("event_title", host=self._notice.host, what=self.what)


class CaseView:
    """The words of a notice about a case."""

    event = None

    def __init__(self, notice: Notice, case: Case, say: Phrases, zone: tzinfo | None) -> None:
        self._notice, self._say, self._zone = notice, say, zone
        self.case = case
        self.store: StoreFact = case.store
        self.to: Destination = case.destination
        self.traffic: Traffic = case.traffic
        self.findings = case.findings[:MAX_FINDINGS]
        self.findings_more = len(case.findings) - len(self.findings)
        self._host = case.store.host or notice.host

    # title, pager, case line

    @property
    def title(self) -> str:
        """What was measured, in one line."""
        core = self._say(
            self._core,
            size=units.size(self.traffic.octets_out),
            host=self._host,
            store=self.store.name or self.store.id,
            categories=self._categories(self.store.categories),
            where=self._where,
        )
        title = f"{_tag(self._notice, self._say)} {self._say(f'title.{self._notice.kind}', core=core)}"
        return self._say("title_local", title=title) if self.case.local_view else title

    @property
    def _core(self) -> str:
        if any(s.value == "relay" for s in self.traffic.bases[:1]):
            return "title.core_relayed"
        return "title.core_estimated" if self.traffic.estimated else "title.core"

    @property
    def told_before(self) -> tuple[str, ...]:
        """What hosts told by themselves, once each."""
        told = {one.id: one for finding in self.case.findings for one in finding.told_before}
        first = sorted(told.values(), key=lambda one: (one.time_ns, one.id))[:MAX_FINDINGS]
        return tuple(
            self._say("told_before", host=one.host, moment=self.moment(one.time_ns), id=one.id)
            for one in first
        )

    @property
    def last_line(self) -> str:
        """Where to look further."""
        if self.case.local_view:
            return self._say("last_line_local", id=self.case.findings[0].id)
        return self._say("last_line", id=self.case.id)

    @property
    def pager(self) -> str:
        """One line without names, places or amounts, for a service outside."""
        severity = _severity(self._notice, self._say)
        state = self._say(f"pager.{self._notice.kind}")
        said = self._say("pager.case", severity=severity, id=self.case.id, state=state)
        return _marked(said, self._notice, self._say)

    @property
    def case_line(self) -> str:
        """Id, update, state, times."""
        first, last = self.traffic.first_ns, self.traffic.last_ns
        packs = self._say.join(sorted(self.case.packs))
        return self._say(
            "case_line.text",
            id=self.case.id,
            n=self.case.revision,
            state=self._say(f"case_line.{self._notice.kind}", packs=packs),
            range=self.range(first, last),
            span=span(last - first, self._say),
            opened=units.same_day_clock(self.case.opened_ns, first, self._zone)
            or self.moment(self.case.opened_ns),
        )

    # measured

    @property
    def initiators(self) -> str:
        """Which side opened the flows."""
        return self.top(
            [
                s.model_copy(update={"value": self._word("initiator", s.value)})
                for s in self.traffic.initiators
            ]
        )

    @property
    def process(self) -> str | None:
        """The process that sent most, if one is known."""
        return next((s.value for s in self.traffic.processes if s.value not in (UNKNOWN, "")), None)

    @property
    def remote(self) -> str:
        """The addresses that took most."""
        n = max(self.to.address_count, len(self.to.addresses), 1)
        key = "measured.remote_capped" if n >= ADDRESSES_COUNTED else "measured.remote"
        return self._say(key, addresses=self.top(self.to.addresses), n=units.Number(n))

    def top(self, shares: Sequence[Share]) -> str:
        """The first few values, with their content octets where there is more than one."""
        if not shares:
            return self._say("unknown")
        names = [self._say("unknown") if s.value in (UNKNOWN, "") else s.value for s in shares]
        if len(shares) == 1:
            return names[0]
        sizes = [units.size(s.content_octets_out) for s in shares]
        items = self._say.join(
            [self._say("item", name=n, size=z) for n, z in zip(names[:TOP], sizes, strict=False)]
        )
        more = len(shares) - TOP
        return self._say("items_more", items=items, n=more) if more > 0 else items

    # inferred

    @property
    def bases(self) -> list[str]:
        """For each basis, why its rows belong to the store."""
        several = len(self.traffic.bases) > 1
        lines = []
        for s in self.traffic.bases:
            part = self._say("inferred.part", size=units.size(s.content_octets_out)) if several else ""
            key = f"inferred.basis.{s.value}"
            if key in self._say and s.value != "other":
                lines.append(self._say(key, part=part))
            else:
                basis = self._word("", s.value)
                lines.append(self._say("inferred.basis.other", basis=basis, part=part))
        return lines

    @property
    def relays(self) -> list[str]:
        """Each way over other hosts, leg by leg: what was observed of each, and how far it may be the same data."""
        return [line for relay in self.traffic.relays[:TOP] for line in relay_lines(self, relay, self._say)]

    # where to

    @property
    def location(self) -> str:
        """Where the addresses are said to be."""
        if not self._countries:
            return self._say("to.location_unknown")
        shares = self.to.countries
        whole = sum(s.content_octets_out for s in shares)
        countries = [
            self._say(
                "country_share",
                country=self._say.country(s.value),
                share=units.percent(s.content_octets_out, whole),
            )
            if len(shares) > 1
            else self._say.country(s.value)
            for s in shares[:TOP]
        ]
        items = self._say.join(countries)
        if len(shares) > TOP:
            items = self._say("items_more", items=items, n=len(shares) - TOP)
        return self._say(
            "to.location",
            countries=items,
            sources=self._say.join(self.to.location_sources) or self._say("to.no_source"),
            confidence=self._confidence(self.to.location_confidence),
        )

    @property
    def doubts(self) -> str:
        """The four doubts by name, never one product: amount, link, location, owner."""
        say, relays = self._say, self.traffic.relays
        link = "possible" if relays else "direct"
        if any(relay.matched_octets for relay in relays):
            link = "matched"
        return say(
            "inferred.doubts",
            amount=say("inferred.amount_estimated" if self.traffic.estimated else "inferred.amount_measured"),
            link=say(f"inferred.link_{link}"),
            location=self._confidence(self.to.location_confidence),
            owner=self._confidence(self.to.owner_confidence),
        )

    @property
    def names(self) -> str:
        """The host names that were claimed for the addresses, each once."""
        names = list(dict.fromkeys(named.name for named in self.to.names))
        items = self._say.join(names[:TOP])
        more = len(names) - TOP
        return self._say("items_more", items=items, n=more) if more > 0 else items

    @property
    def relayed(self) -> bool:
        """Whether some of the addresses only pass traffic on, so that the true destination is not known."""
        return any(flag in self.to.flags for flag in ("vpn", "tor", "relay"))

    @property
    def operator(self) -> str:
        """Who runs the network, and in which country that organisation is organised."""
        owner = self.to.owner
        name = owner.provider_name or owner.organisation or owner.provider
        if owner.provider_name and owner.organisation and owner.organisation != owner.provider_name:
            name = f"{owner.organisation} / {owner.provider_name}"
        if not name:
            return self._say("to.operator_unknown")
        if not owner.organised_in:
            return self._say("to.operator_unplaced", name=name)
        return self._say("to.operator", name=name, country=self._say.country(owner.organised_in))

    @property
    def parent(self) -> str:
        """Ultimate parent on record; nothing of it without source, date and mark."""
        owner = self.to.owner
        if not owner.owner:
            return self._say("to.parent_unknown")
        if not self.owner_on_record:
            return self._say("to.parent_unsourced")
        return self._say(
            "to.parent",
            owner=owner.owner,
            country=self._say.country(owner.owner_country),
            share=self._say("to.parent_share", share=owner.share) if owner.share else "",
            source=owner.source,
            mark=owner.mark,
            meaning=self._word("mark", owner.mark),
            checked=owner.checked,
            confidence=self._confidence(self.to.owner_confidence),
        )

    @property
    def stakes(self) -> list[str]:
        """Who holds how much of whom above the network's holder, as recorded; the nearest ones."""
        return stakes(self.to.owner.chain[:TOP], self._say)

    @property
    def owner_on_record(self) -> bool:
        """Whether the ownership record has all that must stand beside a company's name."""
        owner = self.to.owner
        return bool(owner.owner and owner.source and owner.checked and owner.mark)

    @property
    def _owner_in_title(self) -> bool:
        owner: OwnerFact = self.to.owner
        doubted = owner.mark == "K" or owner.disputed or owner.stale or owner.review
        return bool(self.owner_on_record and owner.owner_country and not doubted)

    @property
    def _countries(self) -> list[str]:
        return [s.value for s in self.to.countries if s.value not in (UNKNOWN, "")]

    @property
    def _where(self) -> str:
        owner = self.to.owner
        if self._owner_in_title:
            return self._say(
                "where.owned",
                place=self._place,
                country=self._say.country(owner.owner_country),
                source=shown(owner.source, 80),
                mark=owner.mark,
                checked=owner.checked,
            )
        listed = next((d for f in self.case.findings for d in f.destinations), None)
        if listed:
            return self._say("where.listed", place=self._place, list=listed)
        return self._say("where.plain", place=self._place)

    @property
    def _place(self) -> str:
        known = self._countries
        if not known:
            return self._say("place.unknown")
        country = self._say.country(known[0])
        if len(known) < len(self.to.countries):
            return self._say("place.partly", country=country)
        if len(known) > 1:
            one = len(known) == 2
            return self._say(
                "place.several_one" if one else "place.several", country=country, n=len(known) - 1
            )
        confidence = self.to.location_confidence
        if confidence in (Confidence.NONE, Confidence.LOW):
            return self._say("place.doubted", country=country, confidence=self._confidence(confidence))
        return self._say("place.in", country=country)

    # why now

    def rule(self, finding: Finding) -> str:
        """Rule, version, label, threshold and window of a finding."""
        name = (
            finding.rule if finding.rule.startswith(f"{finding.pack}/") else f"{finding.pack}/{finding.rule}"
        )
        if finding.measure != "content":
            return self._say(
                "why.rule_measured",
                rule=name,
                version=finding.rule_version.removeprefix("v"),
                categories=self._say.join(finding.categories or self.store.categories)
                or self._say("unknown"),
                n=units.exact(finding.threshold_octets),
                measure=self._word("measure", finding.measure),
                window=self._word("window", finding.window),
            )
        return self._say(
            "why.rule_listed" if finding.destinations else "why.rule",
            rule=name,
            version=finding.rule_version.removeprefix("v"),
            categories=self._say.join(finding.categories or self.store.categories) or self._say("unknown"),
            list=self._say.join(finding.destinations),
            size=units.size(finding.threshold_octets),
            exact=units.exact(finding.threshold_octets),
            window=self._word("window", finding.window),
        )

    def largest(self, finding: Finding) -> str:
        """The largest sum of a window."""
        exact = units.exact(finding.content_octets_out)
        if finding.measure != "content":
            return self._say("why.largest_measured", n=exact, measure=self._word("measure", finding.measure))
        return self._say("why.largest", size=units.size(finding.content_octets_out), exact=exact)

    def first_seen(self, finding: Finding) -> str:
        """That there was no earlier egress, within the days observed and no further."""
        if not finding.first_seen:
            return ""
        if finding.observed_days < 1:
            return self._say("why.no_history")
        return self._say("why.first_seen", n=finding.observed_days)

    def estimate(self, finding: Finding) -> str:
        """Between how many persons, from what; or what the register lacks for it."""
        told = finding.estimate
        if told is None:
            return ""
        if told.state is None:
            missing = self._say.join([self._word("estimate_input", name) for name in told.missing])
            return self._say("why.no_estimate", over=units.exact(told.over), missing=missing)
        return self._say(
            "why.estimate",
            state=self._word("estimate_state", told.state),
            lowest=units.exact(told.lowest or 0),
            highest=units.exact(told.highest or 0),
            over=units.exact(told.over),
            subjects=units.exact(told.subjects or 0),
            record=self._between(told.record_octets),
            records=self._between(told.records_per_subject),
            wire=self._between(told.wire_per_octet),
            attested=self._say("why.records_attested" if told.attested else "why.records_not_attested"),
        )

    @staticmethod
    def _between(pair: tuple[float, float] | None) -> str:
        return "-".join(f"{end:g}" for end in pair or ())

    @property
    def approvals(self) -> list[str]:
        """How each approved transfer of the store stands to this one."""
        return [approval_line(fact, self._say) for fact in self.case.approvals]

    def reasons(self, finding: Finding) -> list[str]:
        """Further reasons, and what lowered or raised the severity; an unknown key is printed as it is."""
        told = ("first_seen", "share_of_store")
        return [self._word("reason", r) for r in finding.reasons if r not in told] + [
            self._word("severity_reason", r) for r in finding.severity_reasons
        ]

    # coverage, next

    @property
    def account(self) -> str:
        """Octets captured, dropped and excluded by this run, and frames lost."""
        frames = units.exact(self._notice.lost_frames)
        account = {k.removesuffix("_octets"): units.exact(v) for k, v in self._notice.account.items()}
        if "captured" not in account:
            return self._say("coverage.frames", frames=frames)
        terms = {k: account.get(k, self._say("unknown")) for k in ("captured", "dropped", "excluded")}
        return self._say("coverage.account", frames=frames, **terms)

    @property
    def steps(self) -> list[str]:
        """What to do next, in order."""
        say, store = self._say, self.store
        preserve = (
            say("next.preserve_process", host=self._host, process=self.process)
            if self.process
            else say("next.preserve", host=self._host)
        )
        ring = (
            say("next.ring", contact=store.contact)
            if store.contact
            else say("next.ring_unknown", store=store.name or store.id)
        )
        steps = [ring]
        if store.runbook:
            steps.append(say("next.runbook", runbook=store.runbook))
        steps += [
            preserve,
            say("next.log", range=self.range(self.traffic.first_ns, self.traffic.last_ns)),
            say("next.containment"),
            say("next.legal"),
        ]
        if self._notice.kind is NoticeKind.CLOSED:
            steps.append(say("next.close", id=self.case.id))
        return steps

    def moment(self, time_ns: int) -> str:
        """One time, local and UTC."""
        return beside(units.moment(time_ns, self._zone), self._say)

    def range(self, first_ns: int, last_ns: int) -> str:
        """Two times, local and UTC."""
        return beside(units.time_range(first_ns, last_ns, self._zone), self._say)

    @property
    def unseen(self) -> list[str]:
        """What this host could not see; keys of the phrases ``not_seen`` are worded, other texts stand as they are."""
        return [self._word("not_seen", what) for what in self.case.not_seen]

    def _categories(self, categories: Sequence[str]) -> str:
        return self._say.join([self._word("category", c) for c in categories]) or self._say("unknown")

    def _confidence(self, confidence: Confidence) -> str:
        return self._say(f"confidence.{confidence}")

    def _word(self, group: str, word: str) -> str:
        return self._say("unknown") if word in (UNKNOWN, "") else self._say.named(group, word)


def beside(pair: tuple[str, str], say: Phrases) -> str:
    """A local time with UTC beside it, once where both are the same."""
    local, utc = pair
    return utc if local == utc else say("beside", local=local, utc=utc)


def span(ns: int, say: Phrases) -> str:
    """``3 h 02 min``: the two largest units of a span in nanoseconds."""
    days, hours, minutes, seconds = units.span_parts(ns)
    if days:
        return say("span.days", days=days, hours=hours)
    if hours:
        return say("span.hours", hours=hours, minutes=minutes)
    if minutes:
        return say("span.minutes", minutes=minutes, seconds=seconds)
    return say("span.seconds", seconds=seconds)


def _severity(notice: Notice, say: Phrases) -> str:
    return say(f"severity.{notice.severity.name.lower()}")


def _is_simulated(notice: Notice) -> bool:
    return notice.simulated or (notice.case is not None and any(f.simulated for f in notice.case.findings))


def _marked(text: str, notice: Notice, say: Phrases) -> str:
    """The text of a pager, where nothing else would say that it is an exercise."""
    return say("pager.simulated", text=text) if _is_simulated(notice) else text


def _tag(notice: Notice, say: Phrases) -> str:
    return say("tag_simulated" if _is_simulated(notice) else "tag", severity=_severity(notice, say))

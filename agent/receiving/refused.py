"""Batches that were refused and are an agent's own for certain: each stands in its account as dead, and so in no gap.

What counts is the signature. A batch explains a hole of an agent's numbers only where a key signed it that is, or once
was, that agent's: else whoever may write to the topic could hide what is missing. So batches of an agent that is not
enrolled yet are kept with the key that signed them, and count from the day on which that key is enrolled.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from agent.core.accounts import Amounts
from agent.receiving.checking import Refused, Sealed
from agent.receiving.gaps import MOST_PIECES
from agent.store.coverage import RunKey
from agent.store.inputs import Dead, DeadKey, Pin
from agent.store.sequences import Intervals, Stream

MOST_STRANGERS: Final = 20_000
"""Streams kept of keys that belong to no agent: anybody may make these. What is beyond is a gap once its key is enrolled."""
MOST_SUM: Final = 1 << 62
"""Octets that a row can take; more nobody sends, but anybody may write."""
Ended = Mapping[str, frozenset[bytes]]


class Refusals:
    """Refused batches by stream, key and reason. Not thread-safe."""

    def __init__(self, known: Mapping[DeadKey, Dead]) -> None:
        self._streams: dict[Stream, dict[DeadKey, Dead]] = {}
        self.put(known)

    def hear(
        self, refused: Iterable[Refused], came: Iterable[Sealed], trusted: Mapping[str, frozenset[bytes]]
    ) -> dict[DeadKey, Dead]:
        """What changes with these, for :meth:`put` once it is committed; ``came``: batches that are decided now.

        ``trusted``: agent -> keys that are or were its own.
        """
        changed: dict[DeadKey, Dead] = {}
        for one in refused:
            header = one.header
            if header is None or not one.key:
                continue
            stream = header.batch_id[:3]
            if self._is_dead(stream, one.key, header.sequence, changed):
                continue
            ours = one.key in trusted.get(header.agent_id, ())
            if not ours and stream not in self._streams and len(self._streams) >= MOST_STRANGERS:
                continue
            dead = self._of((*stream, one.key, one.reason), changed)
            if dead.sequences.pieces >= MOST_PIECES:
                continue
            dead.sequences.add(header.sequence)
            if one.amounts is None or not _fits(dead.amounts + one.amounts):
                dead.unread.add(header.sequence)
            else:
                dead.amounts += one.amounts
        for sealed in came:
            self._revive(sealed, changed)
        return changed

    def put(self, changed: Mapping[DeadKey, Dead]) -> None:
        """These are committed."""
        for key, dead in changed.items():
            self._streams.setdefault(key[:3], {})[key] = dead

    def of(
        self, stream: Stream, keys: frozenset[bytes], changed: Mapping[DeadKey, Dead] | None = None
    ) -> Intervals:
        """Batches of a stream that were refused though one of these keys had signed them."""
        found = Intervals()
        for key, dead in {**self._streams.get(stream, {}), **(changed or {})}.items():
            if key[:3] == stream and key[3] in keys:
                for first, last in dead.sequences:
                    found.add_range(first, last)
        return found

    def _of(self, key: DeadKey, changed: dict[DeadKey, Dead]) -> Dead:
        """The entry, apart and among the changes."""
        if key not in changed:
            known = self._streams.get(key[:3], {}).get(key)
            changed[key] = known.copy() if known else Dead()
        return changed[key]

    def _is_dead(self, stream: Stream, key: bytes, sequence: int, changed: Mapping[DeadKey, Dead]) -> bool:
        kept = {**self._streams.get(stream, {}), **changed}
        return any(k[:4] == (*stream, key) and sequence in dead.sequences for k, dead in kept.items())

    def _revive(self, sealed: Sealed, changed: dict[DeadKey, Dead]) -> None:
        """A batch that was refused came again and was taken: it is decided, and dead no more."""
        stream, sequence = sealed.header.batch_id[:3], sealed.header.sequence
        for key in {**self._streams.get(stream, {}), **changed}:
            if key[:3] != stream:
                continue
            dead = changed.get(key) or self._streams[stream][key]
            if sequence not in dead.sequences:
                continue
            dead = self._of(key, changed)
            dead.sequences.discard(sequence)
            if not dead.unread.discard(sequence):
                dead.amounts -= sealed.batch.amounts()


def _fits(amounts: Amounts) -> bool:
    return max(amounts.as_dict().values()) <= MOST_SUM


def by_run(
    dead: Mapping[DeadKey, Dead], pins: Mapping[str, Pin], ended: Ended
) -> dict[RunKey, dict[str, Amounts | None]]:
    """What was refused of each run, by reason; None: of some of it nobody could read how much it is."""
    found: dict[RunKey, dict[str, Amounts | None]] = {}
    for (agent, run, _, public, reason), one in dead.items():
        own = agent in pins and pins[agent].public_key == public
        if not (own or public in ended.get(agent, ())) or not len(one.sequences):
            continue
        reasons = found.setdefault((agent, run), {})
        before = reasons.get(reason, Amounts())
        reasons[reason] = None if before is None or len(one.unread) else before + one.amounts
    return found

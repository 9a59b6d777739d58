"""What ActionPiece merges on: a user as alternating states and context slots.

``[state, slot, state, slot, ..., state]``: a state holds the tokens of one event as a set, the slot between two states
at most one token that holds features of both sides. Slots start empty. A token is an int; larger ones are newer.

A merged pair goes where its parts were: both in one state, into the state; from a state and a slot beside it, or from
two states around an empty slot, into the slot. Then
  an emptied state takes over the token of the slot before it, if there is one;
  an empty state before an empty slot is deleted with that slot.
So a state emptied towards its right, with nothing in the slot before it, stays empty until the state after it is
emptied too: in between, the token in its slot has neighbours on the right only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

EMPTY = -1
INSIDE = -1  # site kind of a pair within one state
Span = tuple[int, int]


class StateList:
    """One user's states and slots.

    states: tokens of each state, the newest merge first. slots: ``slots[i]`` lies between states ``i`` and ``i + 1``,
    ``EMPTY`` or a token. state_spans, slot_spans: first and last event whose features they hold.
    """

    __slots__ = ("states", "slots", "state_spans", "slot_spans")

    def __init__(self, events: Sequence[Sequence[int]]) -> None:
        self.states: list[list[int]] = [list(event) for event in events]
        self.slots: list[int] = [EMPTY] * max(len(self.states) - 1, 0)
        self.state_spans: list[Span] = [(i, i) for i in range(len(self.states))]
        self.slot_spans: list[Span] = [(i, i + 1) for i in range(len(self.slots))]

    def tokens(self) -> Iterator[tuple[int, Span]]:
        """Tokens from left to right, each with its span of events."""
        for i, state in enumerate(self.states):
            for token in state:
                yield token, self.state_spans[i]
            if i < len(self.slots) and self.slots[i] != EMPTY:
                yield self.slots[i], self.slot_spans[i]

    def n_tokens(self) -> int:
        return sum(map(len, self.states)) + sum(slot != EMPTY for slot in self.slots)

    def affected(self, i: int) -> tuple[int, int]:
        """First and last state whose tokens or neighbours a merge into slot ``i`` can change."""
        return (i - 1 if i and not self.states[i - 1] else i), i + 1

    def merge_inside(self, i: int, u: int, v: int, w: int) -> None:
        """Replace ``u`` and ``v`` of state ``i`` by ``w``, put first."""
        self.states[i] = [w] + [t for t in self.states[i] if t != u and t != v]

    def merge_into_slot(self, i: int, left: int, right: int, w: int) -> int:
        """Put ``w`` into slot ``i``, taking ``left`` out of state ``i`` and ``right`` out of ``i + 1`` (or ``EMPTY``).

        Returns how many states were deleted, all of them at or before ``i``.
        """
        states, slots, spans = self.states, self.slots, self.state_spans
        first, last = self.slot_spans[i]  # of an empty slot: replaced below, since both sides give a token
        if left != EMPTY:
            states[i].remove(left)
            first = spans[i][0]
        if right != EMPTY:
            states[i + 1].remove(right)
            last = spans[i + 1][1]
        slots[i], self.slot_spans[i] = w, (first, last)
        if not states[i + 1]:
            self._take_over(i + 1)
        if left != EMPTY and not states[i] and i and slots[i - 1] != EMPTY:
            self._take_over(i)
        deleted = 0
        for j in (i, i - 1):
            if j >= 0 and not states[j] and slots[j] == EMPTY:
                del states[j], slots[j], spans[j], self.slot_spans[j]
                deleted += 1
        return deleted

    def _take_over(self, i: int) -> None:
        """Move the token of the slot before state ``i`` into the (empty) state."""
        self.states[i], self.state_spans[i] = [self.slots[i - 1]], self.slot_spans[i - 1]
        self.slots[i - 1] = EMPTY


def find_pair(sequence: StateList, u: int, v: int, start: int) -> tuple[int, int, int] | None:
    """First place from state ``start`` on where ``u`` and ``v`` can merge, scanning left to right.

    Returns ``(i, INSIDE, INSIDE)`` for state ``i``, or ``(i, left, right)`` for slot ``i`` as ``merge_into_slot`` takes
    them, or ``None``.
    """
    states, slots = sequence.states, sequence.slots
    for i in range(start, len(states)):
        state = states[i]
        has_u, has_v = u in state, v in state
        if has_u and has_v and u != v:
            return i, INSIDE, INSIDE
        if i == len(slots):
            return None
        slot = slots[i]
        if slot == EMPTY:
            after = states[i + 1]
            if has_u and v in after:
                return i, u, v
            if has_v and u in after:
                return i, v, u
        elif slot in (u, v):
            other = v if slot == u else u
            if other in state:
                return i, other, EMPTY
            if other in states[i + 1]:
                return i, EMPTY, other
    return None

"""Which trials of a study count, which are pending, and what must be queued: a pure reading of the trials.

A study is shared by workers that may die at any moment, so nothing here relies on two steps happening together. Every
rule is a function of what the storage holds, and trials are ordered by the number that the storage gave them:

- A trial with a *slot* ("default", "grid 3", "retry 7") is one of a kind: of several with the same slot the lowest number
  counts, the others are surplus. Two workers may therefore queue the same retry without harm.
- A trial is allowed to run when fewer than N counting trials have lower numbers. A worker that was overtaken between
  looking and asking gives its trial back as surplus. The rule is monotone in the number, so that workers who apply it
  at the same time agree, without a lock that would have to work on every storage.
- A failed trial is followed by one retry; after that, or when its settings were refused, it has failed for good.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna.trial import FrozenTrial, TrialState

SLOT, OWNER, REASON, SURPLUS = "slot", "worker", "reason", "surplus"
ATTEMPT, RETRY_OF, SECONDS, REFUSED, GIVEN_BACK = "attempt", "retry_of", "seconds", "refused", "given_back"
DEFAULT_SLOT = "default"
ATTEMPTS = 2
DIED = "its worker died"


def attempt(trial: FrozenTrial) -> int:
    """1 for a first attempt, 2 for the retry."""
    return int(trial.user_attrs.get(ATTEMPT, 1))


def began(trial: FrozenTrial) -> bool:
    """Whether a worker took the trial and did not give it back."""
    return OWNER in trial.user_attrs and GIVEN_BACK not in trial.user_attrs


def needs_retry(trial: FrozenTrial) -> bool:
    """Whether a failed trial is to be followed by another one with the same parameters."""
    return (
        trial.state == TrialState.FAIL
        and REFUSED not in trial.user_attrs
        and (not began(trial) or attempt(trial) < ATTEMPTS)
    )


def retry_slot(number: int) -> str:
    return f"retry {number}"


def reason(trial: FrozenTrial) -> str:
    """Why a trial failed; one whose worker was killed could not say."""
    return str(trial.user_attrs.get(REASON, DIED))


@dataclass(frozen=True)
class TrialStates:
    """Numbers of the trials by what they are; ``followed`` failed and were tried again, ``unfollowed`` will be."""

    complete: tuple[int, ...] = ()
    pruned: tuple[int, ...] = ()
    failed: tuple[int, ...] = ()
    running: tuple[int, ...] = ()
    waiting: tuple[int, ...] = ()
    followed: tuple[int, ...] = ()
    unfollowed: tuple[int, ...] = ()
    surplus: tuple[int, ...] = ()
    slots: frozenset[str] = frozenset()
    seconds: float = 0.0
    by_number: Mapping[int, FrozenTrial] = field(default_factory=dict, repr=False)

    @property
    def finished(self) -> int:
        """Trials that are over for good."""
        return len(self.complete) + len(self.pruned) + len(self.failed)

    @property
    def counting(self) -> tuple[int, ...]:
        """Trials that take one of the N places."""
        return tuple(sorted((*self.complete, *self.pruned, *self.failed, *self.running, *self.waiting, *self.unfollowed)))

    def has_place(self, number: int, trials: int) -> bool:
        """Whether trial ``number`` is among the first ``trials`` counting ones."""
        return number in self.running and sum(1 for n in self.counting if n < number) < trials

    def may_ask(self, trials: int) -> bool:
        """Whether a worker may ask for a trial now."""
        return self.finished + len(self.running) < trials

    def states(self) -> dict[str, int]:
        """Counts by state, for tables; surplus trials and those that were tried again are counted apart."""
        names = ("complete", "pruned", "failed", "running", "waiting", "followed", "surplus")
        counts = {name: len(getattr(self, name)) for name in names}
        return {("retried" if name == "followed" else name): n for name, n in counts.items()}


def read_trial_states(trials: Sequence[FrozenTrial]) -> TrialStates:
    """Sort the trials of a study into a states."""
    found: dict[str, list[int]] = {}
    slots: set[str] = set()
    failing: list[FrozenTrial] = []
    names = {
        TrialState.COMPLETE: "complete",
        TrialState.PRUNED: "pruned",
        TrialState.RUNNING: "running",
        TrialState.WAITING: "waiting",
    }
    ordered = sorted(trials, key=lambda t: t.number)
    for trial in ordered:
        slot = trial.user_attrs.get(SLOT)
        if SURPLUS in trial.user_attrs or (slot is not None and slot in slots):
            found.setdefault("surplus", []).append(trial.number)
            continue
        if slot is not None:
            slots.add(str(slot))
        if trial.state != TrialState.FAIL:
            found.setdefault(names[trial.state], []).append(trial.number)
        elif needs_retry(trial):
            failing.append(trial)
        else:
            found.setdefault("failed", []).append(trial.number)
    for trial in failing:
        found.setdefault("followed" if retry_slot(trial.number) in slots else "unfollowed", []).append(trial.number)
    seconds = sum(float(t.user_attrs.get(SECONDS, 0.0)) for t in ordered)
    return TrialStates(
        **{name: tuple(numbers) for name, numbers in found.items()},
        slots=frozenset(slots),
        seconds=seconds,
        by_number={t.number: t for t in ordered},
    )


def missing_slots(
    states: TrialStates, planned: Mapping[str, Mapping[str, Any]]
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """What must be queued: (parameters, user attributes) of every planned slot and every retry that has no trial yet."""
    wanted: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (dict(values), {SLOT: slot}) for slot, values in planned.items() if slot not in states.slots
    ]
    for number in states.unfollowed:
        trial = states.by_number[number]
        values = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        wanted.append(
            (
                values,
                {
                    SLOT: retry_slot(number),
                    RETRY_OF: number,
                    "retry_reason": reason(trial),
                    ATTEMPT: attempt(trial) + (1 if began(trial) else 0),
                },
            )
        )
    return wanted

"""The worker's loop with a cheap objective: retries, refusals, pruning, interruptions, surplus trials, limits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState, create_trial

from sidbench.benchmark.sweeps.heartbeat import LockLiveness
from sidbench.benchmark.sweeps.space import Choices, Interval, Space
from sidbench.benchmark.sweeps.strategies import make_pruner, make_sampler
from sidbench.benchmark.sweeps.trial_states import (
    ATTEMPT,
    OWNER,
    REFUSED,
    SLOT,
    SURPLUS,
    TrialStates,
    missing_slots,
    read_trial_states,
    reason,
)
from sidbench.benchmark.sweeps.worker import Objective, Outcome, Refused, Report, WorkPlan, work
from sidbench.datasets.foundation.errors import InputError, NonFiniteLoss, StageError

SPACE = Space(
    {"tokenizer.x": Interval(-1.0, 1.0), "tokenizer.k": Choices((1, 2, 4))}, {"tokenizer.x": 0.5, "tokenizer.k": 1}
)


def plan(trials: int, seconds: float = 0.0, slots: dict[str, Any] | None = None) -> WorkPlan:
    return WorkPlan(SPACE, trials, seconds, {"default": dict(SPACE.default)} if slots is None else slots, 0.01)


def new_study(pruner: str = "none", directions: tuple[str, ...] = ("maximize",), sampler: str = "random") -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        directions=list(directions), sampler=make_sampler(sampler, 0), pruner=make_pruner(pruner, len(directions), 5)
    )


def quality(values: dict[str, Any], report: Report) -> Outcome:
    return Outcome((-((values["tokenizer.x"] - 0.3) ** 2),), {"note": values["tokenizer.k"]})


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., TrialStates]:
    def go(study: optuna.Study, what: WorkPlan, objective: Objective = quality) -> TrialStates:
        return work(study, what, objective, LockLiveness(tmp_path / "workers", 0.1), lambda line: None)

    return go


def test_the_default_is_trial_0_and_exactly_n_trials_finish(run: Callable[..., TrialStates]) -> None:
    study = new_study()
    assert run(study, plan(5)).finished == 5
    assert study.trials[0].params == SPACE.default and study.trials[0].user_attrs["note"] == 1
    assert run(study, plan(5)).finished == 5 == len(study.trials)  # again: nothing is left to do
    assert run(study, plan(8)).finished == 8 == len(study.trials)  # more: only the new ones
    assert run(study, plan(3)).finished == 8  # fewer: none is taken away
    assert len({tuple(t.params.items()) for t in study.trials}) == 8


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_an_interrupted_sweep_suggests_what_an_undisturbed_one_does(sampler: str, run: Callable[..., TrialStates]) -> None:
    whole, parts = new_study(sampler=sampler), new_study(sampler=sampler)
    run(whole, plan(12))
    for trials in (3, 9):
        run(parts, plan(trials))
    parts.sampler = make_sampler(sampler, 0)  # a later command has a sampler of its own
    run(parts, plan(12))
    assert [t.params for t in whole.trials] == [t.params for t in parts.trials]
    assert new_study(sampler=sampler).ask().suggest_float("a", 0, 1) != whole.trials[1].params["tokenizer.x"]


def test_a_failed_trial_is_tried_again_once_with_the_same_parameters(run: Callable[..., TrialStates]) -> None:
    seen: list[float] = []

    def fails(values: dict[str, Any], report: Report) -> Outcome:
        seen.append(values["tokenizer.x"])
        if values["tokenizer.x"] == 0.5 or len(seen) == 3:  # the default always, the next new one once
            raise StageError("no luck")
        return quality(values, report)

    study = new_study()
    states = run(study, plan(4), fails)
    assert states.finished == 4 and len(states.failed) == 1 and len(states.complete) == 3
    assert seen.count(0.5) == 2 and len(seen) == 6  # 4 trials, one retry each for two of them
    assert len(states.followed) == 2
    last = states.by_number[states.failed[0]]
    assert last.user_attrs[ATTEMPT] == 2 and reason(last) == "no luck" and last.params["tokenizer.x"] == 0.5


@pytest.mark.parametrize("error", [Refused("these do not fit"), NonFiniteLoss("loss became nan")])
def test_what_would_fail_again_is_not_tried_again(error: Exception, run: Callable[..., TrialStates]) -> None:
    calls: list[int] = []

    def refuses(values: dict[str, Any], report: Report) -> Outcome:
        calls.append(1)
        raise error

    states = run(new_study(), plan(3), refuses)
    assert len(calls) == 3 == len(states.failed) and not states.followed
    assert all(t.user_attrs[REFUSED] and reason(t) == str(error) for t in states.by_number.values())


def test_a_value_that_is_no_number_is_a_failure(run: Callable[..., TrialStates]) -> None:
    states = run(new_study(), plan(2), lambda values, report: Outcome((float("nan"),)))
    assert len(states.failed) == 2 and "no number" in reason(states.by_number[0])


@pytest.mark.parametrize("error", [InputError("cache folder", got="read-only"), KeyboardInterrupt()])
def test_what_stops_the_sweep_gives_the_trial_back_without_spending_an_attempt(
    error: BaseException, run: Callable[..., TrialStates]
) -> None:
    study, stops = new_study(), [False, True, True]

    def objective(values: dict[str, Any], report: Report) -> Outcome:
        if stops and stops.pop(0):
            raise error
        return quality(values, report)

    for _ in range(2):
        with pytest.raises(type(error)):
            run(study, plan(3), objective)
    states = run(study, plan(3), objective)
    assert len(states.complete) == 3 and not states.failed
    given = [t for t in study.trials if "given_back" in t.user_attrs]
    again = [t for t in study.trials if t.user_attrs.get("retry_of") is not None]
    assert len(given) == 2 and all(t.user_attrs.get(ATTEMPT, 1) == 1 for t in again)
    assert {t.params["tokenizer.x"] for t in given} == {again[-1].params["tokenizer.x"]}


def test_pruning_saves_epochs_and_takes_a_place(run: Callable[..., TrialStates]) -> None:
    epochs: dict[float, int] = {}

    def curve(values: dict[str, Any], report: Report) -> Outcome:
        good = values["tokenizer.x"]
        for epoch in range(1, 11):
            epochs[good] = epoch
            report(epoch, good * epoch)
        return Outcome((good * 10,))

    study = new_study("median")
    states = run(study, plan(20), curve)
    assert states.finished == 20 and len(states.pruned) >= 3 and not states.failed
    for number in states.pruned:
        assert 4 <= epochs[states.by_number[number].params["tokenizer.x"]] < 10
    assert sum(epochs.values()) < 0.85 * 200
    best = max(study.trials, key=lambda t: t.params["tokenizer.x"])
    assert best.number in states.complete  # the best one is never pruned


def test_the_wilcoxon_pruner_ends_a_trial_that_is_worse_on_every_seed(run: Callable[..., TrialStates]) -> None:
    seeds_run: list[int] = []

    def over_seeds(values: dict[str, Any], report: Report) -> Outcome:
        level = 1.0 if values["tokenizer.x"] == 0.5 else 0.0
        for seed in range(8):
            seeds_run.append(seed)
            report(seed, level + 0.01 * seed)
        return Outcome((level,))

    states = run(new_study("wilcoxon"), plan(4), over_seeds)
    assert len(states.complete) == 1 and len(states.pruned) == 3
    assert len(seeds_run) == 8 + 3 * 4  # one-sided p of four equal signs is 1/16 < 0.1


def test_several_objectives_are_never_pruned(run: Callable[..., TrialStates]) -> None:
    def two(values: dict[str, Any], report: Report) -> Outcome:
        for epoch in range(5):
            report(epoch, -100.0 * values["tokenizer.x"])
        return Outcome((values["tokenizer.x"], float(values["tokenizer.k"])))

    study = new_study("median", ("maximize", "minimize"))
    states = run(study, plan(10), two)
    assert len(states.complete) == 10 and not study.trials[3].intermediate_values
    front = {t.number for t in study.best_trials}
    points = {t.number: t.values for t in study.trials}
    beaten = {n for n, (x, k) in points.items() if any(a >= x and b <= k and (a, b) != (x, k) for a, b in points.values())}
    assert front == set(points) - beaten


def test_no_trial_begins_after_the_seconds_are_spent(run: Callable[..., TrialStates]) -> None:
    import time

    def slow(values: dict[str, Any], report: Report) -> Outcome:
        time.sleep(0.1)
        return quality(values, report)

    states = run(new_study(), plan(50, seconds=0.25), slow)
    assert 1 <= len(states.complete) <= 3 and states.seconds >= 0.25


def test_a_trial_whose_worker_died_before_it_had_a_name_is_run_by_another(run: Callable[..., TrialStates]) -> None:
    study = new_study()
    study.enqueue_trial({"tokenizer.x": 0.25, "tokenizer.k": 4})
    study.ask()  # and the worker is killed here
    states = run(study, plan(2, slots={}))
    assert len(states.complete) == 2 and not states.failed
    again = next(t for t in study.trials if t.user_attrs.get("retry_of") == 0)
    assert again.params == {"tokenizer.x": 0.25, "tokenizer.k": 4} and again.user_attrs[ATTEMPT] == 1


def test_a_trial_that_others_took_over_meanwhile_is_dropped(run: Callable[..., TrialStates]) -> None:
    study = new_study()

    def asleep(values: dict[str, Any], report: Report) -> Outcome:
        running = [t for t in study.trials if t.state == TrialState.RUNNING]
        if running[0].number == 0:
            study.tell(0, state=TrialState.FAIL)  # another worker thought this one dead
        return quality(values, report)

    states = run(study, plan(2), asleep)
    assert len(states.complete) == 2 and states.followed == (0,) and study.trials[0].value is None


# -- the states, by property --------------------------------------------------------------------------------------
STATES = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING, TrialState.WAITING]


@st.composite
def histories(draw: st.DrawFn) -> list[optuna.trial.FrozenTrial]:
    made = []
    for number in range(draw(st.integers(0, 12))):
        state = draw(st.sampled_from(STATES))
        attributes: dict[str, Any] = {}
        if state != TrialState.WAITING and draw(st.booleans()):
            attributes[OWNER] = "w"
        if draw(st.integers(0, 3)) == 0:
            attributes[SLOT] = draw(st.sampled_from(["default", "grid 1", "retry 0", "retry 1", "retry 2"]))
        if draw(st.integers(0, 5)) == 0:
            attributes[SURPLUS] = "late"
        if draw(st.integers(0, 2)) == 0:
            attributes[ATTEMPT] = 2
        trial = create_trial(state=state, value=1.0 if state == TrialState.COMPLETE else None, user_attrs=attributes)
        trial.number = number
        made.append(trial)
    return made


@settings(deadline=None)
@given(histories(), st.integers(1, 12))
def test_every_trial_has_one_role_and_at_most_n_have_a_place(trials: list[optuna.trial.FrozenTrial], wanted: int) -> None:
    states = read_trial_states(trials)
    roles = [*states.counting, *states.followed, *states.surplus]
    assert sorted(roles) == list(range(len(trials)))
    placed = [n for n in states.running if states.has_place(n, wanted)]
    assert len(placed) <= wanted
    # Monotone: whoever stands behind one without a place has none either, whatever the order of asking.
    refused = [n for n in states.running if n not in placed]
    assert all(p < r for p in placed for r in refused)
    slots = [t.user_attrs[SLOT] for n, t in states.by_number.items() if SLOT in t.user_attrs and n not in states.surplus]
    assert len(slots) == len(set(slots))


@settings(deadline=None)
@given(histories())
def test_queueing_what_is_missing_twice_changes_nothing_the_second_time(trials: list[optuna.trial.FrozenTrial]) -> None:
    planned = {"default": {"x": 1}, "grid 1": {"x": 2}}
    states = read_trial_states(trials)
    queued = list(trials)
    for _ in range(2):  # two workers queue at the same time
        for parameters, attributes in missing_slots(states, planned):
            trial = create_trial(state=TrialState.WAITING, user_attrs=attributes, system_attrs={"fixed_params": parameters})
            trial.number = len(queued)
            queued.append(trial)
    again = read_trial_states(queued)
    assert missing_slots(again, planned) == []
    assert not again.unfollowed and again.finished == states.finished
    assert len(again.counting) <= len(states.counting) + 2  # a retry takes the place of what it follows

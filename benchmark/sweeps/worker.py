"""The loop of one worker: bury the dead, queue what is missing, take a trial, run it, say how it went.

The objective is handed in, so the loop knows nothing about training.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from sidbench.benchmark.store.failures import cause
from sidbench.benchmark.sweeps.heartbeat import Heartbeat
from sidbench.benchmark.sweeps.space import Space
from sidbench.benchmark.sweeps.suggest import suggest
from sidbench.benchmark.sweeps.trial_states import (
    GIVEN_BACK,
    OWNER,
    REASON,
    REFUSED,
    RETRY_OF,
    SECONDS,
    SURPLUS,
    TrialStates,
    missing_slots,
    read_trial_states,
)
from sidbench.datasets.foundation.errors import InputError, NonFiniteLoss, SidbenchError

POLL_SECONDS = 1.0


class Pruned(SidbenchError):
    """The pruner ended this trial. A ``SidbenchError``, so that it passes through stages as it is."""


class Refused(SidbenchError):
    """The settings of a trial do not fit together; trying again would change nothing."""


@dataclass(frozen=True)
class Outcome:
    """What an objective found: one value per objective, and facts for the trial (JSON-able)."""

    values: tuple[float, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)


Report = Callable[[int, float], None]
Objective = Callable[[dict[str, Any], Report], Outcome]


@dataclass(frozen=True)
class WorkPlan:
    """When a study is finished, and what must stand in it.

    trials: how many must be finished. seconds: no trial is begun after this sum of trial seconds, 0 for no limit.
    slots: slot -> stored parameters that are tried before anything is suggested.
    """

    space: Space
    trials: int
    seconds: float = 0.0
    slots: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    poll_seconds: float = POLL_SECONDS


def work(
    study: Study, plan: WorkPlan, objective: Objective, heartbeat: Heartbeat, tell: Callable[[str], None]
) -> TrialStates:
    """Work until the study is finished, also by others, or its seconds are spent; returns the final states.

    Raises ``InputError`` and whatever else stops a sweep as a whole; the trial at hand is given back.
    """
    waiting = False
    with heartbeat.alive():
        while True:
            if buried := heartbeat.bury(study, study.get_trials(deepcopy=False)):
                tell(f"{study.study_name}: took over {buried} trial(s) whose worker died")
            states = _queued(study, plan)
            spent = 0 < plan.seconds <= states.seconds
            if states.finished >= plan.trials or (spent and not states.running):
                return states
            if spent or not states.may_ask(plan.trials):
                if not waiting:
                    tell(f"{study.study_name}: waiting for {len(states.running)} trial(s) of other workers")
                waiting = True
                time.sleep(plan.poll_seconds)
                continue
            waiting = False
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Heartbeat of storage")
                trial = study.ask()
            with heartbeat.working(trial._trial_id):
                if _claim(study, plan, trial, heartbeat.worker):
                    _run(study, plan, trial, objective, tell)


def _queued(study: Study, plan: WorkPlan) -> TrialStates:
    """The states, after queueing what is missing in it."""
    states = read_trial_states(study.get_trials(deepcopy=False))
    missing = missing_slots(states, plan.slots)
    for parameters, attributes in missing:
        source = states.by_number.get(attributes.get(RETRY_OF, -1))
        # A retry continues from the checkpoints of the first attempt, which will not report these steps again.
        reported = dict(source.intermediate_values) if source is not None else {}
        study.add_trial(
            create_trial(
                state=TrialState.WAITING,
                user_attrs=attributes,
                intermediate_values=reported,
                system_attrs={"fixed_params": parameters},
            )
        )
    return read_trial_states(study.get_trials(deepcopy=False)) if missing else states


def _claim(study: Study, plan: WorkPlan, trial: Trial, worker: str) -> bool:
    """Put this worker's name on a trial; False when another worker was faster and the places are taken."""
    trial.set_user_attr(OWNER, worker)
    states = read_trial_states(study.get_trials(deepcopy=False))
    if states.has_place(trial.number, plan.trials):
        return True
    trial.set_user_attr(SURPLUS, "asked for when the places were taken")
    _finish(study, trial, TrialState.FAIL)
    return False


def _run(study: Study, plan: WorkPlan, trial: Trial, objective: Objective, tell: Callable[[str], None]) -> None:
    start = time.monotonic()
    title = f"{study.study_name} trial {trial.number}"
    try:
        values = suggest(trial, plan.space)
        tell(f"{title}: {', '.join(f'{n}={_short(v)}' for n, v in values.items())}")
        outcome = objective(values, _reporter(study, trial))
        if not all(math.isfinite(v) for v in outcome.values):
            raise Refused(f"the objective is {', '.join(map(str, outcome.values))}, no number")
    except Pruned:
        told = _finish(study, trial, TrialState.PRUNED, seconds=time.monotonic() - start)
        tell(f"{title}: pruned" if told else f"{title}: was taken over by another worker")
    except (Refused, NonFiniteLoss) as error:
        _fail(study, trial, error, tell, start, {REFUSED: True})
    except (InputError, KeyboardInterrupt) as error:
        _fail(study, trial, error, tell, start, {GIVEN_BACK: True})
        raise
    except (SidbenchError, OSError) as error:
        _fail(study, trial, error, tell, start, {})
    else:
        for name, value in outcome.facts.items():
            _note(trial, name, value)
        told = _finish(study, trial, TrialState.COMPLETE, outcome.values, time.monotonic() - start)
        shown = ", ".join(f"{v:.6g}" for v in outcome.values)
        tell(
            f"{title}: {shown} in {time.monotonic() - start:.0f} s"
            if told
            else f"{title}: was taken over by another worker; its result is dropped"
        )


def _fail(
    study: Study, trial: Trial, error: BaseException, tell: Callable[[str], None], start: float, marks: Mapping[str, Any]
) -> None:
    told = cause(error)
    for name, value in {REASON: told, **marks}.items():
        _note(trial, name, value)
    _finish(study, trial, TrialState.FAIL, seconds=time.monotonic() - start)
    tell(f"{study.study_name} trial {trial.number}: {'given back' if GIVEN_BACK in marks else 'failed'}: {told}")


def _reporter(study: Study, trial: Trial) -> Report:
    """Forwards intermediate values to the pruner, which sees a step once; with several objectives nobody prunes."""
    known = set(study._storage.get_trial(trial._trial_id).intermediate_values)

    def report(step: int, value: float) -> None:
        if len(study.directions) > 1 or not math.isfinite(value):
            return
        try:
            if step not in known:
                known.add(step)
                trial.report(value, step)
            if trial.should_prune():
                raise Pruned(f"trial {trial.number} was pruned at step {step}")
        except UpdateFinishedTrialError as error:
            raise Pruned(f"trial {trial.number} was taken over") from error

    return report


def _note(trial: Trial, name: str, value: Any) -> None:
    try:
        trial.set_user_attr(name, value)
    except UpdateFinishedTrialError:
        optuna.logging.get_logger(__name__).debug("trial %d is finished already", trial.number)


def _finish(
    study: Study, trial: Trial, state: TrialState, values: tuple[float, ...] | None = None, seconds: float | None = None
) -> bool:
    """Tell the storage; False when the trial had been finished by a worker that thought this one dead."""
    if seconds is not None:
        _note(trial, SECONDS, seconds)
    try:
        study.tell(trial, values, state)
    except (UpdateFinishedTrialError, ValueError):
        stored: FrozenTrial = study._storage.get_trial(trial._trial_id)
        if not stored.state.is_finished():
            raise
        # A database may have lost its answer after doing what it was told.
        return stored.state == state and (values is None or tuple(stored.values or ()) == values)
    return True


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)

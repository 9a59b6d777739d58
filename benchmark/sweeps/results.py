"""What a study found: effort, best trial, the default beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import optuna
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial

from sidbench.benchmark.sweeps.storage import JOURNAL, open_storage, sweeps_folder
from sidbench.benchmark.sweeps.trial_states import DEFAULT_SLOT, SECONDS, SLOT, TrialStates, read_trial_states, reason
from sidbench.datasets.foundation.errors import unknown_name

SHOWN = (
    "tokenizer",
    "recommenders",
    "dataset",
    "data_hash",
    "budget",
    "collisions",
    "objectives",
    "sampler",
    "pruner",
    "seed",
    "seeds",
    "fixed",
    "space",
)


@dataclass(frozen=True)
class StudyResult:
    """A study as it stands. default, best: complete trials, absent while there is none; of several objectives ``front``
    holds the trials that no other one beats, and ``best`` is absent."""

    name: str
    attributes: dict[str, Any]
    states: TrialStates
    default: FrozenTrial | None
    best: FrozenTrial | None
    front: tuple[FrozenTrial, ...]
    maximise: tuple[bool, ...]

    @property
    def improvement(self) -> float | None:
        """Relative gain of the best trial over the default in the direction of the objective; None where undefined."""
        if self.best is None or self.default is None or self.best.value is None or not self.default.value:
            return None
        gain = (self.best.value - self.default.value) / abs(self.default.value)
        return gain if self.maximise[0] else -gain


def read_result(study: Study) -> StudyResult:
    """The result of a study."""
    trials = study.get_trials(deepcopy=False)
    states = read_trial_states(trials)
    complete = [states.by_number[n] for n in states.complete]
    maximise = tuple(d == StudyDirection.MAXIMIZE for d in study.directions)
    # The default may have needed its retry; both carry the default's parameters.
    first = next((t for t in states.by_number.values() if t.user_attrs.get(SLOT) == DEFAULT_SLOT), None)
    default = None if first is None else next((t for t in complete if t.params == first.params or t is first), None)
    best = None
    if complete and len(maximise) == 1:
        best = (max if maximise[0] else min)(complete, key=lambda t: t.value if t.value is not None else 0.0)
    front = tuple(study.best_trials) if len(maximise) > 1 and complete else ()
    return StudyResult(study.study_name, dict(study.user_attrs), states, default, best, front, maximise)


def load_result(name: str, storage: str = "") -> StudyResult:
    """The study ``name`` of a journal or database. Raises ``InputError`` naming the ones there are."""
    if not storage and not (sweeps_folder() / name / JOURNAL).exists():
        raise unknown_name("sweep", name, study_names(), do="see `bench sweep status`")
    opened = open_storage(storage, name)
    known = [s.study_name for s in optuna.get_all_study_summaries(opened, include_best_trial=False)]
    if name not in known:
        raise unknown_name("sweep", name, known, do="see `bench sweep status`")
    return read_result(optuna.load_study(study_name=name, storage=opened))


def study_names(storage: str = "") -> list[str]:
    """Names of the studies of a database, or of the journals below ``$SIDBENCH_HOME``."""
    if storage:
        return sorted(
            s.study_name for s in optuna.get_all_study_summaries(open_storage(storage, ""), include_best_trial=False)
        )
    return sorted(path.parent.name for path in sweeps_folder().glob(f"*/{JOURNAL}"))


def describe(result: StudyResult) -> dict[str, Any]:
    """A study's outcome as JSON: what it is, effort, default, best or front, and reasons of failures."""
    states, attributes = result.states, result.attributes
    failed = {str(n): reason(states.by_number[n]) for n in (*states.failed, *states.followed, *states.unfollowed)}
    return {
        "study": result.name,
        **{n: attributes.get(n) for n in SHOWN},
        "trials": states.states(),
        "finished": states.finished,
        "seconds": round(states.seconds, 1),
        "default": _trial(result.default),
        "best": _trial(result.best),
        "improvement": result.improvement,
        "front": [_trial(t) for t in result.front],
        "failures": failed,
    }


def _trial(trial: FrozenTrial | None) -> dict[str, Any] | None:
    if trial is None:
        return None
    return {
        "number": trial.number,
        "values": list(trial.values or ()),
        "parameters": dict(trial.params),
        "seconds": trial.user_attrs.get(SECONDS),
        "measured": trial.user_attrs.get("measured", {}),
    }


def as_text(described: dict[str, Any]) -> str:
    """``describe`` for people."""
    states = ", ".join(f"{n} {name}" for name, n in described["trials"].items() if n)
    lines = [
        f"{described['study']}: {states or 'no trials'}; {described['seconds']:.0f} s; objective "
        f"{', '.join(described['objectives'] or ())} (validation)"
    ]
    best, default = described["best"], described["default"]
    if default is not None:
        lines.append(f"  default (trial {default['number']}): {_values(default)}")
    if best is not None:
        gain = described["improvement"]
        lines.append(
            f"  best (trial {best['number']}): {_values(best)}"
            + ("" if gain is None else f", {gain:+.2%} against the default")
        )
        lines += [f"    {name} = {value}" for name, value in best["parameters"].items()]
    for trial in described["front"]:
        settings = " ".join(f"{n.partition('.')[2]}={v}" for n, v in trial["parameters"].items())
        lines.append(f"  front, trial {trial['number']}: {_values(trial)}  {settings}")
    lines += [f"  trial {number} failed: {why}" for number, why in described["failures"].items()]
    return "\n".join(lines) + "\n"


def _values(trial: dict[str, Any]) -> str:
    return ", ".join(f"{v:.6g}" for v in trial["values"])

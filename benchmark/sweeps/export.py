"""Every trial of a study as JSON or CSV: for archives and for other tools, without the names of machines."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from optuna.trial import FrozenTrial

from sidbench.benchmark.sweeps.results import StudyResult
from sidbench.benchmark.sweeps.trial_states import ATTEMPT, OWNER, REASON, RETRY_OF, SECONDS, attempt, reason

FORMATS = ("json", "csv")
ROLES = ("complete", "pruned", "failed", "running", "waiting", "followed", "unfollowed", "surplus")
_OWN_COLUMNS = {OWNER, REASON, SECONDS, ATTEMPT, RETRY_OF}


def export_json(result: StudyResult) -> str:
    """The study with all trials, and every attribute but the workers' names."""
    roles = {number: role for role in ROLES for number in getattr(result.states, role)}
    trials = [_trial(t, roles[n]) for n, t in sorted(result.states.by_number.items())]
    return (
        json.dumps({"study": result.name, "attributes": result.attributes, "trials": trials}, indent=1, sort_keys=True)
        + "\n"
    )


def export_csv(result: StudyResult) -> str:
    """One row a trial: number, role, values by objective, seconds, settings, reason."""
    roles = {number: role for role in ROLES for number in getattr(result.states, role)}
    names = sorted({name for t in result.states.by_number.values() for name in t.params})
    objectives = list(result.attributes.get("objectives", ["value"]))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["trial", "role", *objectives, "seconds", "attempt", *names, "reason"])
    for number, t in sorted(result.states.by_number.items()):
        values = list(t.values) if t.values else [""] * len(objectives)
        writer.writerow(
            [
                number,
                roles[number],
                *values,
                t.user_attrs.get(SECONDS, ""),
                attempt(t),
                *[t.params.get(name, "") for name in names],
                _why(t, roles[number]),
            ]
        )
    return out.getvalue()


def _why(trial: FrozenTrial, role: str) -> str:
    return reason(trial) if role in ("failed", "followed", "unfollowed") else ""


def _trial(trial: FrozenTrial, role: str) -> dict[str, Any]:
    return {
        "number": trial.number,
        "role": role,
        "state": trial.state.name.lower(),
        "parameters": dict(trial.params),
        "values": list(trial.values) if trial.values else None,
        "intermediate": {str(step): value for step, value in sorted(trial.intermediate_values.items())},
        "seconds": trial.user_attrs.get(SECONDS),
        "attempt": attempt(trial),
        "retry_of": trial.user_attrs.get(RETRY_OF),
        "reason": _why(trial, role),
        "facts": {name: value for name, value in sorted(trial.user_attrs.items()) if name not in _OWN_COLUMNS},
    }

"""One study of a sweep, opened: data read, space built, study found or made, and its identity checked."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning
from optuna.storages import BaseStorage
from optuna.study import Study

from sidbench.benchmark.plugins.identity import plugin_version
from sidbench.benchmark.plugins.names import base_of
from sidbench.benchmark.runs.plan import plan_run
from sidbench.benchmark.runs.spec import RunSpec
from sidbench.benchmark.runtime.local import LocalRuntime
from sidbench.benchmark.runtime.reporter import Reporter
from sidbench.benchmark.sweeps.heartbeat import Heartbeat, heartbeat_of
from sidbench.benchmark.sweeps.objective import OBJECTIVES, RunObjective
from sidbench.benchmark.sweeps.request import SweepRequest, study_names
from sidbench.benchmark.sweeps.space import Space, build_space, split_overrides
from sidbench.benchmark.sweeps.storage import BEAT_SECONDS, open_storage, sweeps_folder
from sidbench.benchmark.sweeps.strategies import GRID, check_sampler, make_pruner, make_sampler
from sidbench.benchmark.sweeps.suggest import as_parameters, grid_points
from sidbench.benchmark.sweeps.trial_states import DEFAULT_SLOT, TrialStates
from sidbench.benchmark.sweeps.worker import WorkPlan, work
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.hashing import hash_json

# What two commands that share a study must agree on; the rest (trials, workers, pruner) may differ from call to call.
BINDING = (
    "tokenizer",
    "recommenders",
    "dataset",
    "data_hash",
    "budget",
    "collisions",
    "ties",
    "precision",
    "objectives",
    "space",
    "default",
    "fixed",
    "seeds",
)


@dataclass(frozen=True)
class Session:
    """An opened study. notes: sentences for the user about its space and its code."""

    study: Study
    plan: WorkPlan
    objective: RunObjective
    heartbeat: Heartbeat
    notes: tuple[str, ...]

    def work(self) -> TrialStates:
        """Work until the study is finished; returns its states."""
        return work(self.study, self.plan, self.objective, self.heartbeat, self.objective.tell)


def open_session(request: SweepRequest, tokenizer: str, reporter: Reporter, threads: int | None = None) -> Session:
    """Read the data of a study and open it.

    Raises ``InputError`` for settings, data and names that cannot be used, and for a study of this name that was made for
    something else; nothing was trained then.
    """
    check_tasks(request)
    config = request.config(tokenizer, threads)
    runtime = LocalRuntime(**config.machine, reporter=reporter)
    if runtime.process_group.size > 1:
        raise InputError(
            "bench sweep",
            got=f"{runtime.process_group.size} processes of one training",
            wanted="one process",
            do="start it without torchrun and use --workers, or one command on each machine",
        )
    asked, fixed = split_overrides(request.overrides)
    base = plan_run(RunSpec(config, fixed, None, request.data_folder), runtime)
    composed = base.composed
    groups = {
        "tokenizer": composed.tokenizer,
        "retriever": composed.retriever,
        "ranker": composed.ranker,
        "collisions": composed.collisions,
    }
    configs = {name: config for name, config in groups.items() if config is not None}
    recommending = ("retriever", "ranker") if "recommender" in request.search else ()
    search = [g for g in (*(("tokenizer",) if "tokenizer" in request.search else ()), *recommending) if g in configs]
    space = build_space(configs, search, request.overrides)
    check_sampler(request.sampler, space, len(request.objectives))
    identity = _identity(request, tokenizer, base.prepared.dataset_hash, space)
    named = {
        n: identity[n]
        for n in ("tokenizer", "recommenders", "dataset", "data_hash", "budget", "collisions", "ties", "precision")
    }
    name = dict(zip(request.tokenizers, study_names(request, [hash_json(named)] * len(request.tokenizers)), strict=True))[
        tokenizer
    ]
    study, storage = open_study(request, name, identity)
    code = {
        tokenizer: plugin_version("tokenizer", tokenizer, base_of(composed.tokenizer)),
        **{r: plugin_version("recommender", r) for r in request.recommenders},
    }
    notes = (*space.notes, *_code_note(study, code))
    plan = WorkPlan(space, request.trials, request.seconds, _slots(request, space))
    if request.sampler == GRID and request.trials > len(plan.slots):
        notes += (f"the grid has {len(plan.slots)} points with the default; the other trials are drawn at random",)
    heartbeat = heartbeat_of(storage, sweeps_folder() / name / "workers", BEAT_SECONDS)
    return Session(study, plan, RunObjective(base, space, request.objectives, request.seeds), heartbeat, notes)


def check_tasks(request: SweepRequest) -> None:
    """Raises ``InputError`` when an objective needs a recommender that was not asked for."""
    from sidbench.benchmark.plugins.registry import installed

    tasks = {str(installed().find("recommender", name).info["task"]) for name in request.recommenders}
    for name in request.objectives:
        task = OBJECTIVES[name][1]
        if task and task not in tasks:
            raise InputError(
                f"--objective {name}",
                got=f"recommenders {', '.join(request.recommenders) or 'none'}",
                wanted=f"one for the {task} task",
                do="add it with --recommender, or change --objective",
            )


def _slots(request: SweepRequest, space: Space) -> dict[str, Mapping[str, Any]]:
    """The default first, and the points of a grid up to the number of trials."""
    slots: dict[str, Mapping[str, Any]] = {DEFAULT_SLOT: as_parameters(space.default, space)}
    if request.sampler == GRID:
        points = grid_points(space, request.seed)
        slots |= {f"grid {i}": point for i, point in enumerate(points[: request.trials - 1])}
    return slots


def _identity(request: SweepRequest, tokenizer: str, data_hash: str, space: Space) -> dict[str, Any]:
    return {
        "tokenizer": tokenizer,
        "recommenders": list(request.recommenders),
        "dataset": request.dataset,
        "data_hash": data_hash,
        "budget": request.budget,
        "collisions": request.collisions,
        "ties": request.ties,
        "precision": request.precision,
        "objectives": list(request.objectives),
        "space": space.describe(),
        "default": as_parameters(space.default, space),
        "fixed": list(space.fixed),
        "seeds": list(request.seeds),
        "seed": request.seed,
        "sampler": request.sampler,
        "pruner": request.pruner,
    }


def open_study(request: SweepRequest, name: str, identity: Mapping[str, Any]) -> tuple[Study, BaseStorage]:
    """The study ``name``, made if it does not exist. Raises ``InputError`` when it was made for something else."""
    storage = open_storage(request.storage, name)
    sampler, pruner = (
        make_sampler(request.sampler, request.seed),
        make_pruner(request.pruner, len(request.objectives), len(request.seeds)),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        try:
            study = optuna.create_study(
                storage=storage,
                study_name=name,
                sampler=sampler,
                pruner=pruner,
                directions=[OBJECTIVES[n][0] for n in request.objectives],
            )
        except DuplicatedStudyError:
            study = optuna.load_study(storage=storage, study_name=name, sampler=sampler, pruner=pruner)
    # A command killed between the two lines above and this one left a study without attributes; every one may add them.
    for key, value in identity.items():
        if key not in study.user_attrs:
            study.set_user_attr(key, value)
    stored = study.user_attrs
    differ = [n for n in BINDING if stored.get(n) != json.loads(json.dumps(identity[n]))]
    if differ:
        raise InputError(
            f"the sweep {name} exists and was made for something else",
            got="; ".join(f"{n}: {_shown(identity[n], stored.get(n))}" for n in differ),
            wanted="; ".join(f"{n}: {_shown(stored.get(n), identity[n])}" for n in differ),
            do="repeat its settings, or start another with --name",
        )
    return study, storage


def _shown(value: Any, other: Any) -> str:
    """A value in one line; of tables only what the other one says differently."""
    if isinstance(value, Mapping) and isinstance(other, Mapping):
        return ", ".join(f"{k}={v}" for k, v in value.items() if other.get(k, ()) != v) or "nothing more"
    return json.dumps(value)


def _code_note(study: Study, code: Mapping[str, str]) -> tuple[str, ...]:
    """Keep the code fingerprints of the first command, and say when a later one runs other code."""
    stored = study.user_attrs.get("code")
    if stored is None:
        study.set_user_attr("code", dict(code))
    changed = sorted(n for n, digest in code.items() if stored is not None and stored.get(n) != digest)
    if not changed:
        return ()
    return (f"the code of {', '.join(changed)} changed since this sweep began; its earlier trials ran the older code",)

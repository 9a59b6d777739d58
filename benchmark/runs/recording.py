"""From a plan and its result to the record and the files beside it: pure, no clock, no disk."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from sidbench.benchmark.config.presets import settings_source
from sidbench.benchmark.metrics.metric import Metric
from sidbench.benchmark.metrics.quantisation import collision_numbers
from sidbench.benchmark.plugins.identity import unit_versions
from sidbench.benchmark.plugins.registry import installed
from sidbench.benchmark.plugins.units import UNITS
from sidbench.benchmark.runs.plan import Plan
from sidbench.benchmark.runs.result import RunResult
from sidbench.benchmark.stages.evaluating import TaskResult
from sidbench.benchmark.stages.oracle import planted_bounds
from sidbench.benchmark.stages.result_frames import sids_frame
from sidbench.benchmark.stages.tokenizing import Quantisation, Tokenized
from sidbench.benchmark.store.comparability import run_key, task_key
from sidbench.benchmark.store.records import (
    DatasetRecord,
    EnvironmentRecord,
    FeaturesRecord,
    PluginRecord,
    RunRecord,
    SidsRecord,
    TaskRecord,
)
from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.foundation.hashing import canonical_json, hash_arrays, hash_json
from sidbench.tokenizers.base import PAD

SIDS_FILE = "sids.parquet"


def users_file(task: str) -> str:
    """Name of the file of a task's users or test events."""
    return f"users_{task}.parquet"


def result_files(plan: Plan, result: RunResult) -> dict[str, bytes]:
    """Name -> content of the files beside a record, from which anyone can recompute its numbers."""
    frames = {users_file(task.task): task.frame for task in result.tasks}
    if result.tokenized is not None:
        frames = {SIDS_FILE: sids_frame(result.tokenized.sids, plan.prepared.dataset.catalog.keys), **frames}
    return {name: _parquet(frame) for name, frame in frames.items()}


def _parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


def build_record(
    plan: Plan, result: RunResult, files: Mapping[str, bytes], environment: EnvironmentRecord, created: str
) -> RunRecord:
    """The record of a run. files: those of ``result_files``. created: ISO time."""
    run, prepared = plan.composed.run, plan.prepared
    info = installed().find("tokenizer", run.tokenizer).info if run.tokenizer is not None else {}
    units = unit_versions(*UNITS)
    tasks = tuple(_task(plan, result, task, files[users_file(task.task)], units) for task in result.tasks)
    protocol = {task: prepared.protocol(task, run.cutoffs) for task in ("retrieval", "ranking")}
    keys = {task.task: task.comparability_key for task in tasks}
    return RunRecord(
        run_id=plan.run_id,
        created=created,
        budget=run.budget,
        seed=run.seed,
        dataset=DatasetRecord(
            name=run.dataset,
            config=_plain(plan.composed.dataset),
            content_hash=prepared.dataset_hash,
            counts=dict(prepared.dataset.card.counts),
            absent=dict(prepared.dataset.card.absent),
            bounds=planted_bounds(plan.composed, prepared, [task.task for task in tasks]),
        ),
        features=None if result.features is None else _features(plan, result.features),
        tokenizer=None if result.tokenized is None else _tokenizer(plan, result.tokenized),
        control=bool(info.get("control", False)),
        sids=None
        if result.tokenized is None or result.quantisation is None or result.features is None
        else _sids(plan, result.tokenized, result.quantisation, result.features),
        tasks=tasks,
        comparability_key=run_key(keys, prepared.dataset_hash, _provenance(result), run.budget, units),
        protocol_key=hash_json(protocol),
        stages=result.stages,
        environment=environment,
        warnings=result.warnings,
        run=_plain(run),
        units=units,
    )


def _plain(config: Any) -> dict[str, Any]:
    return json.loads(canonical_json(config)) if config is not None else {}


def _provenance(result: RunResult) -> str | None:
    """Identity of the features, ``None`` where no tokenizer reads them."""
    return None if result.features is None else result.features.provenance


def _features(plan: Plan, features: ItemFeatures) -> FeaturesRecord:
    return FeaturesRecord(
        config={"features": _plain(plan.composed.features), "behaviour": _plain(plan.composed.behaviour)},
        provenance=features.provenance,
        dims=features.dims(),
        coverage={m: float(a.mean()) for m, a in features.available.items()},
        absent=dict(features.absent),
        richness_proxy=features.richness_proxy,
        notes={n: float(v) for n, v in features.notes.items()},
    )


def _tokenizer(plan: Plan, tokenized: Tokenized) -> PluginRecord:
    name, spec = str(plan.composed.run.tokenizer), plan.spec
    return PluginRecord(
        name=name,
        config=_plain(plan.composed.tokenizer),
        version=tokenized.fitted.code.version,
        code=tokenized.fitted.code.hash,
        n_parameters=tokenized.fitted.facts["n_parameters"],
        diagnostics=tokenized.fitted.facts["diagnostics"],
        deviations=tuple(installed().load("tokenizer", name).info.deviations),
        settings_source=settings_source(spec.preset, spec.overrides),
        curves=tokenized.fitted.curves,
        effort={} if spec.preset is None else dict(spec.preset.effort),
    )


def _sids(plan: Plan, tokenized: Tokenized, quantisation: Quantisation, features: ItemFeatures) -> SidsRecord:
    sids, (metrics, vectors) = tokenized.sids, quantisation
    policy: dict[str, Any] = {}
    if tokenized.resolved is not None:
        report = tokenized.resolved.resolved.report
        before = collision_numbers(tokenized.own.codes, features.train_counts)
        n = tokenized.own.n_items
        metrics = metrics | {f"{name}_before": Metric(value=float(v), n=n) for name, v in before.items() if v is not None}
        policy = {
            "collision_policy": plan.composed.run.collisions,
            "collision_config": _plain(plan.composed.collisions),
            "collision_version": tokenized.resolved.code.version,
            "collision_code": tokenized.resolved.code.hash,
            "collision_report": report.numbers(),
            "collision_costs": report.cost_source,
            "collision_notes": report.notes,
        }
    return SidsRecord(
        code_length=sids.code_length,
        sizes=tuple(int(k) for k in sids.sizes),
        ordered=sids.ordered,
        mean_active=float((sids.codes != PAD).sum(axis=1).mean()),
        content_hash=hash_arrays({"codes": sids.codes, "sizes": sids.sizes}),
        file=SIDS_FILE,
        metrics=metrics,
        vectors=vectors,
        **policy,
    )


def _task(plan: Plan, result: RunResult, task: TaskResult, users: bytes, units: Mapping[str, str]) -> TaskRecord:
    run = plan.composed.run
    protocol = plan.prepared.protocol(task.task, run.cutoffs)
    recommender = PluginRecord(
        name=task.name,
        config=_plain(task.config),
        version=task.fitted.code.version,
        code=task.fitted.code.hash,
        diagnostics={
            **task.fitted.facts["diagnostics"],
            **task.fitted.training_numbers,
            **{n: float(v) for n, v in task.inference.items() if np.isfinite(v)},
        },
        n_parameters=task.fitted.facts["n_parameters"],
        deviations=tuple(installed().load("recommender", task.name).info.deviations),
        curves=task.fitted.curves,
    )
    return TaskRecord(
        task=task.task,
        recommender=recommender,
        protocol=protocol,
        metrics=task.numbers.metrics,
        counts=dict(task.counts),
        users_file=users_file(task.task),
        users_hash=hashlib.sha256(users).hexdigest(),
        undefined=task.numbers.undefined,
        bound_violations=task.violations,
        protocol_key=hash_json(protocol),
        comparability_key=task_key(
            protocol,
            _provenance(result),
            task.name,
            task.config,
            run.budget,
            accumulate=run.accumulate,
            precision=run.precision,
            versions={"recommender": recommender.version, **units},
        ),
    )

"""One run from composed configs to a record: stages in order, metrics, the run's folder.

A run's folder ``<home>/runs/<run id>/`` holds ``record.json``, ``sids.parquet`` and ``users_<task>.parquet``; it is
written beside its place and renamed, so a reader sees a whole run or none.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from sidbench.benchmark.config.compose import ComposedRun
from sidbench.benchmark.metrics.auc import RankingNumbers, ranking_metrics
from sidbench.benchmark.metrics.quantisation import collision_numbers
from sidbench.benchmark.metrics.ranking_at_k import (
    RetrievalNumbers,
    beyond_depth,
    bound_violations,
    retrieval_metrics,
)
from sidbench.benchmark.metrics.strata import item_strata
from sidbench.benchmark.plugins.identity import plugin_version, unit_versions
from sidbench.benchmark.plugins.names import base_of
from sidbench.benchmark.plugins.registry import installed
from sidbench.benchmark.plugins.units import UNITS
from sidbench.benchmark.runs.environment import environment
from sidbench.benchmark.stages.oracle import planted_bounds
from sidbench.benchmark.stages.pipeline import (
    Fitted,
    ResolvedStage,
    StageContext,
    content_hashes,
    encode_items,
    evaluate_ranker,
    evaluate_retriever,
    fit_recommender,
    fit_tokenizer,
    measure_quantisation,
    resolve_collisions,
)
from sidbench.benchmark.stages.prepared import Prepared
from sidbench.benchmark.stages.result_frames import ranking_frame, retrieval_frame, sids_frame
from sidbench.benchmark.store.comparability import run_key, task_key
from sidbench.benchmark.store.paths import RECORD_NAME, runs_folder
from sidbench.benchmark.store.records import (
    DEFAULT_SETTINGS,
    DatasetRecord,
    FeaturesRecord,
    Metric,
    NewerRecord,
    PluginRecord,
    RunRecord,
    SidsRecord,
    TaskRecord,
    read_record,
)
from sidbench.datasets.foundation.disk import storing
from sidbench.datasets.foundation.errors import InputError, StageError
from sidbench.datasets.foundation.hashing import canonical_json, hash_arrays, hash_file, hash_json
from sidbench.datasets.foundation.seeds import Rng
from sidbench.tokenizers.base import PAD, SemanticIds, Tokenizer

NO_SIDS = "none"
NO_POLICY = "none"


def _plain(config: Any) -> dict[str, Any]:
    return json.loads(canonical_json(config)) if config is not None else {}


def run_id(composed: ComposedRun, prepared: Prepared) -> str:
    """Readable name plus a hash of everything that decides the run's numbers; equal runs have equal ids."""
    run = composed.run
    policy = run.collisions != NO_POLICY
    # Settings that came with later releases do not stand in the identity at their defaults, so older ids stay.
    later = {"collisions": NO_POLICY, "accumulate": 1, "compile": False}
    identity = {
        "run": {n: v for n, v in vars(run).items() if n not in later or v != later[n]},
        "dataset": prepared.dataset_hash,
        "features": composed.features if run.tokenizer else None,
        "behaviour": composed.behaviour if run.tokenizer else None,
        "tokenizer": composed.tokenizer,
        "retriever": composed.retriever,
        "ranker": composed.ranker,
        "versions": [
            plugin_version("tokenizer", run.tokenizer, base_of(composed.tokenizer)) if run.tokenizer else "",
            *[plugin_version("recommender", name) for name in run.recommenders],
            plugin_version("recommender", "sasrec"),  # behind the behaviour embeddings
            unit_versions(*UNITS),
        ],
    }
    if composed.tokenizer is not None:
        identity |= content_hashes(composed.tokenizer)
    if policy:
        identity["collisions"] = [composed.collisions, plugin_version("collisions", run.collisions)]
    words = [run.dataset, run.tokenizer or NO_SIDS, *([run.collisions] if policy else []), f"s{run.seed}"]
    return "-".join([*words, hash_json(identity)[:12]])


class RunBuilder:
    """Collects the parts of a record while the stages of one run execute."""

    def __init__(
        self,
        composed: ComposedRun,
        prepared: Prepared,
        context: StageContext,
        command_line: tuple[str, ...],
        settings_source: str = DEFAULT_SETTINGS,
        effort: Mapping[str, float] | None = None,
    ) -> None:
        self.composed, self.prepared, self.context, self.command_line = composed, prepared, context, command_line
        self.run, self.settings_source, self.effort = composed.run, settings_source, dict(effort or {})
        self.id = run_id(composed, prepared)
        self.folder = runs_folder() / self.id
        self.process_group = context.runtime.process_group
        self.temporary = self.folder.with_name(f".{self.id}.{os.getpid()}-{self.process_group.rank}.tmp")
        self.replaced = self.temporary.with_suffix(".old")  # an earlier record on its way out; a reader sees either or none
        self.sids: SemanticIds | None = None
        self.sids_record: SidsRecord | None = None
        self.tokenizer_record: PluginRecord | None = None
        self.fitted: Fitted | None = None
        self.units = unit_versions(*UNITS)
        self.resolved: ResolvedStage | None = None

    def write_below(self, runs: Path) -> None:
        """Put the run's folder below ``runs`` instead of the home's; to be called before ``execute``."""
        self.folder = runs / self.id
        self.temporary = runs / self.temporary.name
        self.replaced = runs / self.replaced.name

    def existing(self) -> RunRecord | None:
        """The record of an earlier equal run, if its folder is there; as the leader sees it. A damaged or older one that
        this release cannot read is told and counts as none.

        Raises ``InputError`` for a record of a newer release, which must not be replaced unasked.
        """
        path = self.folder / RECORD_NAME
        text = self.process_group.broadcast(
            path.read_text(encoding="utf-8", errors="replace")
            if self.process_group.is_main_process and path.exists()
            else None
        )
        try:
            return None if text is None else read_record(text)
        except NewerRecord as error:
            raise InputError(
                f"record of {self.id}",
                got=str(error),
                wanted="a record that this release reads",
                do=f"update sidbench, or replace it: `bench runs rm {self.id}`",
            ) from error
        except ValueError as error:
            self.context.runtime.warn(f"the earlier record of {self.id} could not be read ({error}) and is replaced")
            return None

    def execute(self) -> RunRecord:
        """Run every stage and write the run's folder (of several processes the leader does).

        Raises the first stage's error, or that of a disk that is full or cannot be written; finished stages stay cached.
        """
        with storing(f"run {self.id}", self.folder.parent):
            return self._execute()

    def _execute(self) -> RunRecord:
        shutil.rmtree(self.temporary, ignore_errors=True)
        self.temporary.mkdir(parents=True)
        try:
            if self.run.tokenizer is not None:
                self._tokenize(self.run.tokenizer)
            tasks = []
            if self.composed.retriever_name is not None:
                tasks.append(self._retrieve(self.composed.retriever_name))
            if self.composed.ranker_name is not None:
                tasks.append(self._rank(self.composed.ranker_name))
            record = self._record(tuple(tasks))
            if not self.process_group.is_main_process:
                return record
            (self.temporary / RECORD_NAME).write_text(record.model_dump_json(indent=1))
            self._publish()
        finally:
            shutil.rmtree(self.temporary, ignore_errors=True)
        return record

    def _publish(self) -> None:
        """Rename the finished folder to its place; an earlier one, or that of an equal run of this moment, makes way."""
        while True:
            try:
                os.replace(self.temporary, self.folder)
                return
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            with suppress(FileNotFoundError):  # the other run moves it, too
                os.replace(self.folder, self.replaced)
            shutil.rmtree(self.replaced, ignore_errors=True)

    # -- SIDs ----------------------------------------------------------------------------------------------------
    def _tokenize(self, name: str) -> None:
        features = self.prepared.features
        cls = installed().load("tokenizer", name)
        self.fitted = fit_tokenizer(self.context, name, cls(self.composed.tokenizer), features, self.run.seed)
        self.sids = sids = encode_items(self.context, name, cls(self.composed.tokenizer), self.fitted, features)
        before: dict[str, Metric] = {}
        if self.run.collisions != NO_POLICY:
            before = _collisions_before(sids, features.train_counts)
            self.resolved = self._resolve(self.run.collisions, cls(self.composed.tokenizer), self.fitted, sids)
            self.sids = sids = self.resolved.resolved.sids
        metrics, vectors = measure_quantisation(self.context, self._sids_key, sids, features)
        path = self.temporary / "sids.parquet"
        sids_frame(sids, self.prepared.dataset.catalog.keys).write_parquet(path)
        self.sids_record = SidsRecord(
            code_length=sids.code_length,
            sizes=tuple(int(k) for k in sids.sizes),
            ordered=sids.ordered,
            mean_active=float((sids.codes != PAD).sum(axis=1).mean()),
            content_hash=hash_arrays({"codes": sids.codes, "sizes": sids.sizes}),
            file=path.name,
            metrics=metrics | before,
            vectors=vectors,
            **self._collision_fields(),
        )
        self.tokenizer_record = PluginRecord(
            name=name,
            config=_plain(self.composed.tokenizer),
            version=self.fitted.code.version,
            code=self.fitted.code.hash,
            n_parameters=self.fitted.facts["n_parameters"],
            diagnostics=self.fitted.facts["diagnostics"],
            deviations=tuple(cls.info.deviations),
            settings_source=self.settings_source,
            curves=_curves(self.fitted),
            effort=self.effort,
        )

    def _resolve(self, name: str, tokenizer: Tokenizer, fitted: Fitted, sids: SemanticIds) -> ResolvedStage:
        policy = installed().load("collisions", name)(self.composed.collisions)
        return resolve_collisions(self.context, name, policy, tokenizer, fitted, sids, self.prepared.features, self.run.seed)

    def _collision_fields(self) -> dict[str, Any]:
        """What stands on the record of the SIDs about the policy; nothing without one."""
        if self.resolved is None:
            return {}
        report = self.resolved.resolved.report
        return {
            "collision_policy": self.run.collisions,
            "collision_config": _plain(self.composed.collisions),
            "collision_version": self.resolved.code.version,
            "collision_code": self.resolved.code.hash,
            "collision_report": report.numbers(),
            "collision_costs": report.cost_source,
            "collision_notes": report.notes,
        }

    @property
    def _sids_key(self) -> str:
        if self.fitted is None:
            return NO_SIDS
        return self.fitted.key if self.resolved is None else self.resolved.key

    # -- tasks ---------------------------------------------------------------------------------------------------
    def _retrieve(self, name: str) -> TaskRecord:
        data = self.prepared.retrieval
        cls = installed().load("recommender", name)
        sids, key = self.sids, self._sids_key
        fitted = fit_recommender(
            self.context,
            "retrieval",
            name,
            cls(self.composed.retriever),
            data,
            self.prepared.retrieval_key,
            sids,
            key,
            self.run.seed,
        )
        ranks, inference = evaluate_retriever(self.context, name, cls(self.composed.retriever), fitted, data, sids)
        strata = item_strata(self.prepared.retrieval_counts)[data.test_target]
        numbers = retrieval_metrics(ranks, strata, Rng(0).child("intervals").numpy(), self.run.cutoffs)
        self._tell_depth(name, beyond_depth(ranks, self.run.cutoffs))
        violations = bound_violations({n: m.value for n, m in numbers.metrics.items()})
        if violations:
            raise StageError(
                f"retrieval metrics of {name} break the NDCG-Recall bounds: {', '.join(violations)}. This "
                "cannot happen with one target per user; please report it with the record."
            )
        frame = retrieval_frame(ranks, numbers.per_user, self.prepared, data)
        counts = {"users": len(data.test_target), **{k: int(v) for k, v in self.prepared.retrieval_dropped.items()}}
        return self._task("retrieval", name, cls, fitted, inference, numbers, counts, frame, violations)

    def _tell_depth(self, name: str, missing: Mapping[str, str]) -> None:
        """A warning for the record about cut-offs that have no number because a beam is too short for them."""
        for reason in dict.fromkeys(missing.values()):
            cutoffs = sorted({int(metric.rsplit("_", 1)[1]) for metric, why in missing.items() if why == reason})
            self.context.runtime.warn(
                f"retrieval by {name}: no numbers at {', '.join(f'@{k}' for k in cutoffs)}, since the "
                f"shortest {reason}; raise its cover, or leave these cut-offs out"
            )

    def _rank(self, name: str) -> TaskRecord:
        data = self.prepared.ranking
        if data is None:
            raise InputError(
                f"recommender {name}",
                got=f"dataset {self.run.dataset} without ratings",
                wanted="ratings, which decide the labels of the ranking task",
                do="leave the ranker out: --recommender mtp",
            )
        cls = installed().load("recommender", name)
        fitted = fit_recommender(
            self.context,
            "ranking",
            name,
            cls(self.composed.ranker),
            data,
            self.prepared.ranking_key,
            self.sids,
            self._sids_key,
            self.run.seed,
        )
        scores, inference = evaluate_ranker(self.context, name, cls(self.composed.ranker), fitted, data, self.sids)
        rows = data.rows["test"]
        events = self.prepared.ranking_users
        strata = item_strata(self.prepared.ranking_counts)[rows.item]
        numbers = ranking_metrics(events, rows.label, scores, strata, Rng(0).child("intervals").numpy())
        frame = ranking_frame(scores, self.prepared, rows, events, strata)
        counts = {**{f"{part}_rows": len(r) for part, r in data.rows.items()}, **numbers.counts}
        return self._task("ranking", name, cls, fitted, inference, numbers, counts, frame, ())

    def _task(
        self,
        task: str,
        name: str,
        cls: Any,
        fitted: Fitted,
        inference: dict[str, float],
        numbers: RetrievalNumbers | RankingNumbers,
        counts: dict[str, int],
        frame: Any,
        violations: tuple[str, ...],
    ) -> TaskRecord:
        path = self.temporary / f"users_{task}.parquet"
        frame.write_parquet(path)
        config = self.composed.retriever if task == "retrieval" else self.composed.ranker
        training = {
            f"{log}_{n}": float(v)
            for log, values in fitted.facts["training"].items()
            for n, v in values.items()
            if n in ("steps", "epochs", "wall_seconds", "examples_per_second", "step_ms", "processes")
        }
        diagnostics = {
            **fitted.facts["diagnostics"],
            **training,
            **{n: float(v) for n, v in inference.items() if np.isfinite(v)},
        }
        plugin = PluginRecord(
            name=name,
            config=_plain(config),
            version=fitted.code.version,
            code=fitted.code.hash,
            diagnostics=diagnostics,
            n_parameters=fitted.facts["n_parameters"],
            deviations=tuple(cls.info.deviations),
            curves=_curves(fitted),
        )
        protocol = self.prepared.protocol(task, self.run.cutoffs)
        return TaskRecord(
            task=task,
            recommender=plugin,
            protocol=protocol,
            metrics=numbers.metrics,
            counts=counts,
            users_file=path.name,
            users_hash=hash_file(path),
            undefined=numbers.undefined,
            bound_violations=violations,
            protocol_key=hash_json(protocol),
            comparability_key=task_key(
                protocol,
                self._features_identity(),
                name,
                config,
                self.run.budget,
                accumulate=self.run.accumulate,
                precision=self.run.precision,
                versions={"recommender": fitted.code.version, **self.units},
            ),
        )

    # -- the record ----------------------------------------------------------------------------------------------
    def _features_identity(self) -> str | None:
        return self.prepared.features.provenance if self.run.tokenizer is not None else None

    def _record(self, tasks: tuple[TaskRecord, ...]) -> RunRecord:
        prepared, run = self.prepared, self.run
        info = installed().find("tokenizer", run.tokenizer).info if run.tokenizer is not None else {}
        protocol = {task: prepared.protocol(task, run.cutoffs) for task in ("retrieval", "ranking")}
        stages = {s.key: s for s in self.context.cache.stages}
        return RunRecord(
            run_id=self.id,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            budget=run.budget,
            seed=run.seed,
            dataset=DatasetRecord(
                name=run.dataset,
                config=_plain(self.composed.dataset),
                content_hash=prepared.dataset_hash,
                counts=dict(prepared.dataset.card.counts),
                absent=dict(prepared.dataset.card.absent),
                bounds=planted_bounds(prepared, [t.task for t in tasks], run.cutoffs),
            ),
            features=self._features_record() if run.tokenizer is not None else None,
            tokenizer=self.tokenizer_record,
            control=bool(info.get("control", False)),
            sids=self.sids_record,
            tasks=tasks,
            comparability_key=run_key(
                {t.task: t.comparability_key for t in tasks},
                prepared.dataset_hash,
                self._features_identity(),
                run.budget,
                self.units,
            ),
            units=self.units,
            protocol_key=hash_json(protocol),
            stages=tuple(stages.values()),
            environment=environment(self.context.runtime, self.command_line),
            warnings=tuple(self.context.runtime.reporter.warnings),
            run=_plain(run),
        )

    def _features_record(self) -> FeaturesRecord:
        features = self.prepared.features
        return FeaturesRecord(
            config={"features": _plain(self.composed.features), "behaviour": _plain(self.composed.behaviour)},
            provenance=features.provenance,
            dims=features.dims(),
            coverage={m: float(a.mean()) for m, a in features.available.items()},
            absent=dict(features.absent),
            richness_proxy=features.richness_proxy,
            notes={n: float(v) for n, v in features.notes.items()},
        )


def _curves(fitted: Fitted) -> dict[str, tuple[float, ...]]:
    """Losses and validation values of every training of a fit, for plots."""
    wanted = (("losses", "loss"), ("validations", "validation"))
    return {
        f"{log}_{name}": tuple(float(v) for v in values[key])
        for log, values in fitted.facts["training"].items()
        for key, name in wanted
        if values.get(key)
    }


def _collisions_before(sids: SemanticIds, traffic: np.ndarray) -> dict[str, Metric]:
    """The collision metrics of a tokenizer's own codes, as ``<name>_before``."""
    numbers = collision_numbers(sids.codes, traffic)
    return {f"{name}_before": Metric(value=float(v), n=sids.n_items) for name, v in numbers.items() if v is not None}

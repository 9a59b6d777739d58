"""A record back as the run it came from: pure, so that nothing is read but the record."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidbench.benchmark.config.compose import ComposedRun
from sidbench.benchmark.config.presets import Preset
from sidbench.benchmark.config.run_config import NO_POLICY, RunConfig
from sidbench.benchmark.runs.spec import RunSpec
from sidbench.benchmark.store.records import RunRecord
from sidbench.datasets.foundation.errors import InputError


@dataclass(frozen=True)
class Replay:
    """config: the run's own settings. groups: group -> field -> value of every part."""

    config: RunConfig
    groups: Mapping[str, Mapping[str, Any]]

    def spec(self, record: RunRecord, data_dir: Path | None, rerun: str, command_line: tuple[str, ...]) -> RunSpec:
        """The run as a value; its settings are said to come from the record."""
        others = {group: fields for group, fields in self.groups.items() if group != "tokenizer"}
        preset = Preset(
            "recorded",
            self.config.tokenizer or "none",
            self.config.dataset,
            Path(record.run_id),
            f"record {record.run_id}",
            self.groups.get("tokenizer", {}),
            others=others,
        )
        return RunSpec(self.config, (), preset, data_dir, rerun, command_line)


def replay(record: RunRecord, device: str = "auto", threads: int | None = None) -> Replay:
    """The run that made ``record``.

    device: where to repeat it. threads: ``None`` for those of the record. Raises ``InputError`` for a record without
    settings of its own and for settings that this release does not know.
    """
    if not record.run:
        raise InputError(
            f"record {record.run_id}", got="no run settings", wanted="the settings that it was run with, under `run`"
        )
    settings = dict(record.run)
    known = {f.name for f in dataclasses.fields(RunConfig)}
    if unknown := sorted(set(settings) - known):
        raise InputError(
            f"record {record.run_id}",
            got=f"run settings {', '.join(unknown)}",
            wanted="settings of this release",
            do="update sidbench",
        )
    settings |= {"device": device, "threads": record.environment.threads if threads is None else threads}
    plain: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in settings.items()}
    try:
        config = RunConfig(**plain)
    except (TypeError, InputError) as error:  # a damaged or foreign record may hold values of any type
        raise InputError(
            f"run settings of record {record.run_id}",
            got=str(error),
            wanted="values of the settings' types",
            do="see `bench show`, or take the record from its source again",
        ) from error
    return Replay(config, _groups(record))


def _groups(record: RunRecord) -> dict[str, Mapping[str, Any]]:
    groups: dict[str, Mapping[str, Any]] = {"dataset": record.dataset.config}
    if record.features is not None:
        groups |= record.features.config
    if record.tokenizer is not None:
        groups["tokenizer"] = record.tokenizer.config
    if record.sids is not None and record.sids.collision_policy != NO_POLICY:
        groups["collisions"] = record.sids.collision_config
    names = {"retrieval": "retriever", "ranking": "ranker"}
    return {
        group: fields
        for group, fields in (groups | {names[t.task]: t.recommender.config for t in record.tasks}).items()
        if fields
    }


def later_settings(composed: ComposedRun, groups: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """Settings that the composed run has and the record does not: they came with a later release and stand at defaults."""
    return tuple(
        f"{group}.{f.name} came with a later release than the record; taken: {getattr(config, f.name)}"
        for group, fields in groups.items()
        if (config := getattr(composed, group)) is not None
        for f in dataclasses.fields(config)
        if f.name not in fields
    )

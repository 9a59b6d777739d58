"""Records of frozen boards as format 1 wrote them: the parts that are judged, and the rule of their keys."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.hashing import hash_json
from sidbench.datasets.foundation.paths import plain_name
from sidbench.datasets.foundation.strict_json import parse_json

RECORDS, RECORD = "records", "record.json"


def one_line(error: BaseException) -> str:
    """The message of an exception on one line of at most 200 characters."""
    return " ".join(str(error).split())[:200]


def reason_of(error: BaseException) -> str:
    """Why a file could not be read, on one line; of a value that does not validate, its place and what is wrong."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"[:200]
    return one_line(error)


def _plain(name: str) -> str:
    if not plain_name(name):
        raise ValueError(f"{name[:80]!r} is no plain file name")
    return name


FileName = Annotated[str, AfterValidator(_plain)]


class _Read(BaseModel):
    """Fields that nothing here judges are read over; the manifest holds the hash of the whole file."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class Metric(_Read):
    """A number, how many units it averages, and its 95 % interval where it has one."""

    value: float
    n: int
    low: float | None = None
    high: float | None = None


class Stage(_Read):
    """Wall seconds and peak memory of one stage."""

    name: str
    wall_seconds: float
    peak_memory_bytes: int


class Plugin(_Read):
    """A tokenizer or recommender with all its settings."""

    name: str
    config: dict[str, Any]
    code: str = ""
    n_parameters: int = 0
    diagnostics: dict[str, float] = Field(default_factory=dict)
    deviations: list[str] = Field(default_factory=list)
    settings_source: str = "defaults"
    effort: dict[str, float] = Field(default_factory=dict)


class DatasetPart(_Read):
    """The data a run saw; bounds: task -> metric -> what no model exceeds in expectation."""

    name: str
    content_hash: str
    counts: dict[str, int]
    bounds: dict[str, dict[str, float]] = Field(default_factory=dict)


class FeaturesPart(_Read):
    """The item features a run saw."""

    provenance: str
    dims: dict[str, int]
    coverage: dict[str, float]
    absent: dict[str, str]
    richness_proxy: str


class SidsPart(_Read):
    """The SID table of a run."""

    code_length: int
    sizes: list[int]
    mean_active: float
    metrics: dict[str, Metric]
    vectors: dict[str, list[float]] = Field(default_factory=dict)
    collision_policy: str = "none"
    collision_config: dict[str, Any] = Field(default_factory=dict)
    collision_notes: list[str] = Field(default_factory=list)


class Task(_Read):
    """One task of a run with its protocol, its numbers and its per-user file."""

    task: Literal["retrieval", "ranking"]
    recommender: Plugin
    protocol: dict[str, Any]
    metrics: dict[str, Metric]
    counts: dict[str, int] = Field(default_factory=dict)
    users_file: FileName
    users_hash: str
    comparability_key: str
    protocol_key: str


class Environment(_Read):
    """Where a run was computed, and by which code."""

    device: str
    precision: str
    threads: int
    versions: dict[str, str]
    git_commit: str
    git_dirty: bool
    command_line: list[str]
    accumulate: int = 1


class Record(_Read):
    """One run."""

    schema_version: Literal[1]
    run_id: FileName
    created: str
    budget: str
    seed: int
    dataset: DatasetPart
    features: FeaturesPart | None
    tokenizer: Plugin | None
    control: bool = False
    sids: SidsPart | None
    tasks: list[Task]
    comparability_key: str
    stages: list[Stage]
    environment: Environment
    warnings: list[str] = Field(default_factory=list)

    def task(self, name: str | None) -> Task | None:
        """The part of one task, ``None`` where the run has none."""
        return next((t for t in self.tasks if t.task == name), None)

    def metric(self, name: str, task: str | None) -> Metric | None:
        """A number of a task or, with ``task`` ``None``, of the SID table; ``None`` where the run has none."""
        part: SidsPart | Task | None = self.sids if task is None else self.task(task)
        return None if part is None else part.metrics.get(name)


def read_json(path: Path, what: str) -> Any:
    """The JSON in a file.

    Raises ``ValueError`` or ``InputError`` for what is no strict JSON, ``OSError`` where there is no file.
    """
    return parse_json(path.read_text(encoding="utf-8"), what)


def read_records(folder: Path) -> tuple[dict[str, Record], list[str]]:
    """Run id -> record of every folder below ``records/``, and a sentence for each that is no record of format 1."""
    found: dict[str, Record] = {}
    problems = []
    for place in sorted((folder / RECORDS).glob("*")):
        name = f"{RECORDS}/{place.name}"
        try:
            record = Record.model_validate(read_json(place / RECORD, f"{name}/{RECORD}"))
        except (OSError, ValueError, InputError) as error:
            problems.append(f"{name}/{RECORD}: no record of format 1: {reason_of(error)}")
            continue
        if record.run_id != place.name:
            problems.append(f"{name}: its record is that of {record.run_id}")
        else:
            found[record.run_id] = record
    return found, problems


def record_problems(record: Record) -> list[str]:
    """What of a record contradicts itself, one sentence each: its name, its keys, and intervals without their number."""
    name = f"{RECORDS}/{record.run_id}"
    problems = []
    words = [record.dataset.name, "none" if record.tokenizer is None else record.tokenizer.name]
    if record.sids is not None and record.sids.collision_policy != "none":
        words.append(record.sids.collision_policy)
    start = "-".join([*words, f"s{record.seed}", ""]).replace("_", "").replace("-", "")
    if not record.run_id.replace("_", "").replace("-", "").startswith(start):
        problems.append(f"{name}: it says {', '.join(words)}, seed {record.seed}, which is not what its name says")
    for part in (record.sids, *record.tasks):
        for metric, number in {} if part is None else part.metrics.items():
            ends = (number.low, number.high)
            if None not in ends and not (number.low or 0) <= number.value <= (number.high or 0) or (ends.count(None) == 1):
                problems.append(f"{name}: {metric} {number.value:.6g} lies outside its interval {ends[0]} to {ends[1]}")
    return [*problems, *(f"{name}: {told}" for told in _key_problems(record))]


def _key_problems(record: Record) -> list[str]:
    """Keys that are not the hash of what the record states, by the rule under which format 1 was published."""
    features = None if record.tokenizer is None or record.features is None else record.features.provenance
    problems = []
    for task in record.tasks:
        if task.protocol_key != hash_json(task.protocol):
            problems.append(f"the protocol key of {task.task} is not the hash of its protocol")
        if task.comparability_key != _task_key(record, task, features):
            problems.append(
                f"the comparability key of {task.task} is not that of its recommender, budget, features and protocol"
            )
    keys: Mapping[str, Any] = {t.task: t.comparability_key for t in record.tasks} or {
        "dataset": record.dataset.content_hash,
        "features": features,
        "budget": record.budget,
    }
    if record.comparability_key != hash_json(keys):
        problems.append("its comparability key is not that of its tasks")
    return problems


def _task_key(record: Record, task: Task, features: str | None) -> str:
    where = record.environment
    return hash_json(
        {
            "protocol": task.protocol,
            "features": features,
            "recommender": task.recommender.name,
            "config": task.recommender.config,
            "budget": record.budget,
            **({"accumulate": where.accumulate} if where.accumulate != 1 else {}),
            **({"precision": where.precision} if where.precision != "fp32" else {}),
        }
    )

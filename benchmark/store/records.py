"""Run records: one immutable JSON per run with everything needed to regenerate its numbers. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from sidbench.benchmark.metrics.metric import Metric
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.paths import plain_name
from sidbench.datasets.foundation.strict_json import parse_json

SCHEMA_VERSION = 1
DEFAULT_SETTINGS = "defaults"


def _plain(name: str) -> str:
    if name and not plain_name(name):
        raise ValueError(f"{name[:80]!r} is no plain file name")
    return name


# Records become paths (``<runs>/<run id>/<file>``), so a stranger's record must not name a place outside its folder.
FileName = Annotated[str, AfterValidator(_plain)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StageRecord(_Frozen):
    """What one stage cost. Seconds and bytes are those of the computation, also when this run read it from the cache.

    cached: this run read the result. wall_seconds, cpu_seconds: of the computation. peak_memory_bytes: peak resident
    size of the process when the stage ended.
    """

    name: str
    key: str
    cached: bool
    wall_seconds: float
    cpu_seconds: float
    peak_memory_bytes: int


class PluginRecord(_Frozen):
    """A plugin and the full config it ran with.

    version: identity of its code in keys ("2"; "2+<hash>" of code that no lock file held; "" on records of release 0.1.0,
    whose versions a data file of the leaderboards tells). code: hash of what the code did.

    settings_source: where the config comes from: "defaults" of the budget or a preset and its source, and which
    settings were set by hand. curves: what its trainings did, ``<training>_loss`` per epoch and
    ``<training>_validation`` per validation. effort: what choosing the config cost where it was tuned: ``trials``, and
    ``seconds`` of all of them.
    """

    name: str
    config: dict[str, Any]
    version: str = ""
    code: str = ""
    n_parameters: int = 0
    diagnostics: dict[str, float] = Field(default_factory=dict)
    deviations: tuple[str, ...] = ()
    settings_source: str = DEFAULT_SETTINGS
    curves: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    effort: dict[str, float] = Field(default_factory=dict)


class DatasetRecord(_Frozen):
    """The data a run saw. bounds: task -> metric -> what no model exceeds in expectation, for planted data."""

    name: str
    config: dict[str, Any]
    content_hash: str
    counts: dict[str, int]
    absent: dict[str, str] = Field(default_factory=dict)
    bounds: dict[str, dict[str, float]] = Field(default_factory=dict)


class FeaturesRecord(_Frozen):
    """The item features a run saw. ``notes`` holds numbers such as spearman_norm_count."""

    config: dict[str, Any]
    provenance: str
    dims: dict[str, int]
    coverage: dict[str, float]
    absent: dict[str, str]
    richness_proxy: str
    notes: dict[str, float] = Field(default_factory=dict)


class SidsRecord(_Frozen):
    """The SID table that the recommenders saw. ``code_length`` counts stored positions; ``mean_active`` the mean
    non-PAD codes an item has.

    collision_policy, collision_config, collision_version, collision_code: the policy behind it, "none" where items may
    share SIDs, with the version and hash of its code. collision_report: its numbers (``CollisionReport``).
    collision_costs: "tokenizer" or "estimated", where the costs of moving items came from, "" when none were needed.
    collision_notes: sentences for the reader. The tokenizer's own collision metrics stand in ``metrics`` as
    ``<name>_before``.
    """

    code_length: int
    sizes: tuple[int, ...]
    ordered: bool
    mean_active: float
    content_hash: str
    file: FileName
    metrics: dict[str, Metric]
    vectors: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    collision_policy: str = "none"
    collision_config: dict[str, Any] = Field(default_factory=dict)
    collision_version: str = ""
    collision_code: str = ""
    collision_report: dict[str, float] = Field(default_factory=dict)
    collision_costs: str = ""
    collision_notes: tuple[str, ...] = ()


class TaskRecord(_Frozen):
    """One task of a run: "retrieval" or "ranking", the recommender, its metrics and its per-user file.

    protocol: the evaluation protocol in full (split, tie rule, candidates, cut-offs). counts: users evaluated, dropped,
    histories truncated. bound_violations: names of metric pairs that break the NDCG-Recall bounds (must be empty).
    undefined: metric -> why it has no number.
    """

    task: str
    recommender: PluginRecord
    protocol: dict[str, Any]
    metrics: dict[str, Metric]
    undefined: dict[str, str] = Field(default_factory=dict)
    counts: dict[str, int] = Field(default_factory=dict)
    users_file: FileName
    users_hash: str
    bound_violations: tuple[str, ...] = ()
    comparability_key: str
    protocol_key: str


class EnvironmentRecord(_Frozen):
    """Where and with what the run was computed.

    processes: that shared the run; ``device`` and ``threads`` are those of each. accumulate: batches of one optimiser
    step. compiled: losses went through ``torch.compile``.
    """

    device: str
    precision: str
    threads: int
    allocator: str
    python: str
    versions: dict[str, str]
    git_commit: str
    git_dirty: bool
    code: str
    command_line: tuple[str, ...]
    platform: str
    processes: int = 1
    accumulate: int = 1
    compiled: bool = False


class RunRecord(_Frozen):
    """One run: (dataset, features, tokenizer, recommenders, budget, seed).

    comparability_key: hash of (dataset, splits, features, recommenders and their budget, evaluation protocol); only rows
    with equal keys stand in one table. protocol_key leaves out features and recommenders: baselines that use neither
    SIDs nor features join every table with the same protocol key, marked as baselines. run: the run's own settings
    (``RunConfig``), which with the configs of its parts repeat it. units: versions of the shared code (splits, features,
    training, evaluation, metrics) that the run used.
    """

    schema_version: int = SCHEMA_VERSION
    run_id: FileName
    created: str
    budget: str
    seed: int
    dataset: DatasetRecord
    features: FeaturesRecord | None
    tokenizer: PluginRecord | None
    control: bool = False
    sids: SidsRecord | None
    tasks: tuple[TaskRecord, ...]
    comparability_key: str
    protocol_key: str
    stages: tuple[StageRecord, ...]
    environment: EnvironmentRecord
    warnings: tuple[str, ...] = ()
    run: dict[str, Any] = Field(default_factory=dict)
    units: dict[str, str] = Field(default_factory=dict)

    def metric(self, name: str, task: str | None = None) -> Metric | None:
        """The named metric of a task, or of the SID table when ``task`` is None; None when this run has none."""
        if task is None:
            return None if self.sids is None else self.sids.metrics.get(name)
        for entry in self.tasks:
            if entry.task == task:
                return entry.metrics.get(name)
        return None

    def wall_seconds(self, prefix: str = "") -> float:
        """Computation seconds of the stages whose name starts with ``prefix`` (all by default)."""
        return sum(s.wall_seconds for s in self.stages if s.name.startswith(prefix))


class UnreadableRecord(ValueError):
    """A record that this release cannot read; the message is one line."""


class NewerRecord(UnreadableRecord):
    """A record that a newer release wrote."""


def read_record(text: str) -> RunRecord:
    """The record in ``text``.

    Raises ``NewerRecord`` for a later schema and for fields this release does not know, ``UnreadableRecord`` for an
    earlier schema and for damaged text.
    """
    try:
        raw = parse_json(text, "the record")
    except InputError as error:
        raise UnreadableRecord(str(error)) from error
    if not isinstance(raw, dict):
        raise UnreadableRecord("not a JSON object")
    version = raw.get("schema_version")
    if version != SCHEMA_VERSION or isinstance(version, bool):
        newer = isinstance(version, int) and version > SCHEMA_VERSION
        raise (NewerRecord if newer else UnreadableRecord)(
            f"schema version {str(version)[:20]}, this release reads {SCHEMA_VERSION}"
        )
    try:
        return RunRecord.model_validate(raw)
    except ValidationError as error:
        unknown = [".".join(map(str, e["loc"])) for e in error.errors() if e["type"] == "extra_forbidden"]
        if unknown:
            raise NewerRecord(
                f"schema version {version} with the unknown field{'s'[: len(unknown) - 1]} "
                f"{', '.join(unknown)[:100]}, so a newer release wrote it"
            ) from error
        raise UnreadableRecord(" ".join(str(error).split())[:200]) from error

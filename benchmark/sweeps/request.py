"""What `bench sweep` asks for, as a value that worker processes and other machines can be given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from sidbench.benchmark.config.run_config import RunConfig
from sidbench.datasets.foundation.errors import InputError, unknown_name

SEARCHABLE = ("tokenizer", "recommender")


@dataclass(frozen=True)
class SweepRequest:
    """A sweep of every tokenizer of a list on one dataset, each a study of its own with the same effort.

    trials: finished trials of each study, whoever ran them. seconds: no trial of a study is begun after this sum of
    trial seconds, 0 for no limit. workers: processes of this command, among which ``threads`` (0: all) are divided.
    objectives: canonical names (``sidbench.benchmark.sweeps.objective``). seed: of the sampler. seeds: of the runs of a
    trial. search: groups whose declared settings are searched, of `SEARCHABLE`. storage: database URL, empty for journals.
    name: of the study, empty for the one made from the request; with several tokenizers a prefix. overrides: Hydra
    overrides that fix or open settings.
    """

    tokenizers: tuple[str, ...]
    dataset: str
    recommenders: tuple[str, ...]
    trials: int
    seconds: float = 0.0
    workers: int = 1
    objectives: tuple[str, ...] = ("ndcg",)
    sampler: str = "tpe"
    pruner: str = "median"
    seed: int = 0
    seeds: tuple[int, ...] = (0,)
    search: tuple[str, ...] = ("tokenizer",)
    budget: str = "quick"
    collisions: str = "none"
    ties: str = "shuffled"
    device: str = "auto"
    precision: str = "fp32"
    threads: int = 0
    data_dir: str = ""
    storage: str = ""
    name: str = ""
    overrides: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for group in self.search:
            if group not in SEARCHABLE:
                raise unknown_name("--search group", group, SEARCHABLE, do="use one or both of these")
        if self.name and not all(c.isalnum() or c in "-_." for c in self.name) or self.name.startswith("."):
            raise InputError("--name", got=repr(self.name), wanted="letters, digits, - _ and .", do="choose such a name")

    def config(self, tokenizer: str, threads: int | None = None) -> RunConfig:
        """The run config of a trial, for the first seed."""
        return RunConfig(
            dataset=self.dataset,
            tokenizer=tokenizer,
            recommenders=self.recommenders,
            seed=self.seeds[0],
            budget=self.budget,
            ties=self.ties,
            device=self.device,
            precision=self.precision,
            threads=self.threads if threads is None else threads,
            collisions=self.collisions,
        )

    @property
    def data_folder(self) -> Path | None:
        return Path(self.data_dir) if self.data_dir else None

    @staticmethod
    def of(values: Mapping[str, Any]) -> SweepRequest:
        """The request whose fields went through JSON, where tuples become lists."""
        tuples = {f.name for f in fields(SweepRequest) if str(f.type).startswith("tuple")}
        arguments: dict[str, Any] = {n: tuple(v) if n in tuples else v for n, v in values.items()}
        return SweepRequest(**arguments)


def study_names(request: SweepRequest, identities: Sequence[str]) -> tuple[str, ...]:
    """Names of the studies, one a tokenizer. identities: hash of what each study's name stands for."""
    if request.name:
        several = len(request.tokenizers) > 1
        return tuple(f"{request.name}-{t}" if several else request.name for t in request.tokenizers)
    policy = "" if request.collisions == "none" else f"+{request.collisions}"
    return tuple(
        "-".join([request.dataset, t + policy, *request.recommenders, request.budget, i[:8]])
        for t, i in zip(request.tokenizers, identities, strict=True)
    )

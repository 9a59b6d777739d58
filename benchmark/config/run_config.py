"""What one run is, and how each of its settings is given from outside: the command line, its text and replays read this.

A new setting of a run is a field here, a line in the command's signature (``cli/app.py``), and the code that acts on it.
Imports nothing heavy.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from sidbench.benchmark.metrics.cutoffs import CUTOFFS
from sidbench.datasets.foundation.errors import InputError, unknown_name
from sidbench.datasets.foundation.settings import check_settings, setting

BUDGETS = ("smoke", "quick", "standard", "paper")
NO_POLICY = "none"
NONE = "none"  # on the command line: no tokenizer, no recommender
_OPTION = "option"


@dataclass(frozen=True)
class Option:
    """How a setting of a run is given.

    name: of the option. listed: several values make a grid. always: stands in every text of a command, others only where
    they are not at their default. later: came with a later release, so that it is no part of a run's identity at its
    default. machine: parameter of ``LocalRuntime`` that it becomes.
    """

    name: str
    listed: bool = False
    always: bool = False
    later: bool = False
    machine: str = ""


def given_by(option: Option, declared: Any) -> Any:
    """A field ``declared`` by ``setting`` or ``dataclasses.field``, with its option."""
    metadata = {**declared.metadata, _OPTION: option}
    if declared.default is dataclasses.MISSING:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=declared.default, metadata=metadata)


def options_of(config: Any) -> dict[str, Option]:
    """Field -> option, for the fields of a dataclass (or its instance) that have one."""
    return {f.name: f.metadata[_OPTION] for f in dataclasses.fields(config) if _OPTION in f.metadata}


def option_words(config: Any, *, always: bool) -> list[str]:
    """The options of a dataclass's instance as words: those that always stand in a command, or the others where they
    differ from their default."""
    usual = {f.name: f.default for f in dataclasses.fields(config)}
    words: list[str] = []
    for name, option in options_of(config).items():
        value = getattr(config, name)
        if option.always == always and (always or value != usual[name]):
            words += [option.name] if value is True else [option.name, _text(value)]
    return words


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or NONE
    return NONE if value is None else str(value)


@dataclass(frozen=True)
class RunConfig:
    """What one run is: names, seed, budget and the evaluation protocol. ``tokenizer`` is ``None`` for baselines.

    At most one retriever and one ranker may stand in ``recommenders``.
    """

    dataset: str = given_by(Option("--dataset", listed=True, always=True), setting("synthetic", "dataset plugin"))
    tokenizer: str | None = given_by(
        Option("--tokenizer", listed=True, always=True),
        setting("adasid", "tokenizer plugin, none for item-ID baselines"),
    )
    recommenders: tuple[str, ...] = given_by(
        Option("--recommender", listed=True, always=True),
        setting(("mtp", "ppnet"), "at most one retriever and one ranker"),
    )
    seed: int = given_by(Option("--seed", listed=True, always=True), setting(0, "root of every random stream", low=0))
    budget: str = given_by(
        Option("--budget", listed=True, always=True),
        setting("quick", "steps and sizes of every stage", choices=BUDGETS),
    )
    ties: str = given_by(
        Option("--ties", listed=True, always=True),
        setting("shuffled", "order of one user's events with equal time", choices=("shuffled", "file")),
    )
    ranking_split: str = setting(
        "auto",
        "split of the ranking task: auto takes global_time where enough users stand on both sides of the cut",
        choices=("auto", "global_time", "per_user_time"),
    )
    cutoffs: tuple[int, ...] = setting(CUTOFFS, "list lengths of Recall and NDCG", unit="items")
    device: str = given_by(
        Option("--device", machine="device"),
        setting("auto", "where tensors live", choices=("auto", "cpu", "cuda")),
    )
    precision: str = given_by(
        Option("--precision", machine="precision"),
        setting("fp32", "arithmetic of neural stages", choices=("fp32", "bf16")),
    )
    threads: int = given_by(
        Option("--threads", machine="threads"), setting(0, "CPU threads, 0 for all cores", low=0, high=4096)
    )
    collisions: str = given_by(
        Option("--collisions", listed=True, later=True), setting(NO_POLICY, "what happens to items that share a SID")
    )
    accumulate: int = given_by(
        Option("--accumulate", later=True, machine="accumulate"),
        setting(1, "batches of one optimiser step, shared by the processes", unit="batches", low=1, high=65_536),
    )
    compile: bool = given_by(
        Option("--compile", later=True, machine="compiled"), setting(False, "losses of trainings through torch.compile")
    )

    def __post_init__(self) -> None:
        if self.budget not in BUDGETS:
            raise unknown_name("budget", self.budget, BUDGETS, do="use --budget with one of these")
        check_settings(self)
        if self.tokenizer is None and self.collisions != NO_POLICY:
            raise InputError(
                "collision policy",
                got=f"{self.collisions} without tokenizer",
                wanted="a tokenizer's SIDs",
                do="add --tokenizer NAME, or leave --collisions out",
            )
        if not self.cutoffs or min(self.cutoffs) < 1 or list(self.cutoffs) != sorted(set(self.cutoffs)):
            raise InputError(
                "run.cutoffs",
                got=list(self.cutoffs),
                wanted="increasing positive numbers",
                do="for example run.cutoffs=[5,10,50,100]",
            )

    @property
    def machine(self) -> dict[str, Any]:
        """The settings that ``LocalRuntime`` is made with, by its parameters."""
        return {option.machine: getattr(self, name) for name, option in options_of(self).items() if option.machine}

    @property
    def identity(self) -> dict[str, Any]:
        """The settings as they stand in a run's identity: those of later releases only where they are not at their
        default, so that older ids stay."""
        later = {name for name, option in options_of(self).items() if option.later}
        usual = {f.name: f.default for f in dataclasses.fields(self)}
        return {name: value for name, value in vars(self).items() if name not in later or value != usual[name]}


# What a command gives one value of, which all runs of its grid share.
SHARED_OPTIONS = tuple(name for name, option in options_of(RunConfig).items() if not option.listed)

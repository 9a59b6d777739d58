"""Options declared on the fields of a run: the text of a command and a run's identity follow from them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import typer.main

from sidbench.benchmark.cli.app import app
from sidbench.benchmark.config.run_config import (
    SHARED_OPTIONS,
    Option,
    RunConfig,
    given_by,
    option_words,
    options_of,
)
from sidbench.benchmark.runs.spec import RunSpec
from sidbench.benchmark.runtime.local import LocalRuntime
from sidbench.datasets.foundation.settings import setting


@dataclass(frozen=True)
class Later(RunConfig):
    """A run of a later release, with one option more."""

    dropout: float = given_by(Option("--dropout", later=True, machine="dropout"), setting(0.0, "share of units left out"))


def test_a_new_option_is_one_field() -> None:
    usual, other = Later(), Later(dropout=0.5)
    assert "--dropout" not in option_words(usual, always=False)
    assert option_words(other, always=False) == ["--dropout", "0.5"]
    assert usual.identity == RunConfig().identity  # ids of earlier releases stay
    assert other.identity == {**RunConfig().identity, "dropout": 0.5}
    assert other.machine["dropout"] == 0.5


def test_settings_of_later_releases_are_no_part_of_an_identity_at_their_defaults() -> None:
    assert not {"collisions", "accumulate", "compile"} & set(RunConfig().identity)
    changed = RunConfig(collisions="append", accumulate=2, compile=True)
    assert {"collisions", "accumulate", "compile"} <= set(changed.identity)
    assert set(vars(changed)) == set(changed.identity)


def test_words_of_every_kind_of_value() -> None:
    config = RunConfig(tokenizer=None, recommenders=(), compile=True)
    always = option_words(config, always=True)
    assert always[always.index("--tokenizer") + 1] == always[always.index("--recommender") + 1] == "none"
    assert option_words(config, always=False) == ["--compile"]
    spec = RunSpec(config, data_dir=Path("raw"), rerun="always")
    assert option_words(spec, always=False) == ["--data-dir", "raw", "--rerun", "always"]


def test_every_option_is_one_of_the_command_and_every_machine_setting_one_of_the_runtime() -> None:
    command = typer.main.get_command(app).commands["run"]  # type: ignore[attr-defined]
    known = {name for parameter in command.params for name in parameter.opts}
    for kind in (RunConfig, RunSpec):
        assert {option.name for option in options_of(kind).values()} <= known
    names = {parameter.name for parameter in command.params}
    assert set(SHARED_OPTIONS) <= names
    parameters = LocalRuntime.__init__.__annotations__
    assert set(RunConfig().machine) <= set(parameters)
    assert set(SHARED_OPTIONS) == {f.name for f in dataclasses.fields(RunConfig)} - {
        "dataset",
        "tokenizer",
        "recommenders",
        "seed",
        "budget",
        "ties",
        "ranking_split",
        "cutoffs",
        "collisions",
    }

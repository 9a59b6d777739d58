"""Composition: the order of layers, types, errors that name the nearest field, and no trace left in Hydra."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra

from sidbench.benchmark.config.compose import _compose, compose_run, field_type
from sidbench.benchmark.config.run_config import BUDGETS, RunConfig
from sidbench.benchmark.plugins.registry import KINDS, load, plugins
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.settings import check_settings, setting
from sidbench.recommenders.sasrec import BEHAVIOUR_BUDGETS, BehaviourConfig

SMOKE = RunConfig(dataset="synthetic", tokenizer="adasid", recommenders=("mtp", "ppnet"), budget="smoke")


@dataclass(frozen=True)
class Knobs:
    """Every type a config field may have."""

    steps: int = setting(100, "steps", low=1, high=10_000)
    rate: float = setting(0.5, "rate")
    layers: tuple[int, ...] = setting((8, 4), "layer widths")
    share: float | None = setting(None, "share")
    rule: str = setting("mean", "how", choices=("mean", "sum"))
    fast: bool = setting(True, "speed")

    def __post_init__(self) -> None:
        check_settings(self)
        if self.steps == 13:
            raise InputError("steps are unlucky", got=13)


Layer = Mapping[str, Any] | None


def composed(*overrides: str, budget: Layer = None, preset: Layer = None) -> Knobs:
    layers = (("budget", {"tokenizer": budget or {}}), ("preset", {"tokenizer": preset or {}}))
    return _compose({"tokenizer": Knobs}, layers, list(overrides))["tokenizer"]


def test_defaults_then_budget_then_preset_then_overrides() -> None:
    assert composed() == Knobs()
    assert composed(budget={"steps": 7}) == Knobs(steps=7)
    assert composed(budget={"steps": 7, "rate": 2.0}, preset={"steps": 8}) == Knobs(steps=8, rate=2.0)
    assert composed("tokenizer.steps=9", budget={"steps": 7}, preset={"steps": 8}) == Knobs(steps=9)


def test_an_intermediate_layer_may_be_refused_as_long_as_the_result_is_not() -> None:
    assert composed("tokenizer.steps=14", budget={"steps": 13}).steps == 14


def test_values_come_out_as_plain_python_of_the_declared_type() -> None:
    knobs = composed(
        "tokenizer.layers=[1,2,3]", "tokenizer.rate=2", "tokenizer.share=0.25", "tokenizer.fast=false", "tokenizer.rule=sum"
    )
    assert knobs == Knobs(rate=2.0, layers=(1, 2, 3), share=0.25, rule="sum", fast=False)
    assert type(knobs) is Knobs and type(knobs.layers) is tuple and type(knobs.rate) is float
    assert composed("tokenizer.share=null", budget={"share": 0.5}).share is None


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("tokenizer.stepz=3", ["stepz", "did you mean 'steps'", "rate", "layers"]),
        ("tokenizr.steps=3", ["unknown group of settings", "did you mean 'tokenizer'"]),
        ("steps=3", ["unknown group of settings"]),
        ("tokenizer=opq", ["cannot replace a plugin", "command-line option"]),
        ("tokenizer.steps=many", ["tokenizer.steps", "got many", "wanted int"]),
        ("tokenizer.steps=2.5", ["tokenizer.steps", "2.5", "wanted int"]),
        ("tokenizer.steps=null", ["tokenizer.steps", "wanted int"]),
        ("tokenizer.layers=[a]", ["tokenizer.layers", "tuple[int, ...]"]),
        ("tokenizer.layers=3", ["tokenizer.layers", "tuple[int, ...]"]),
        ("tokenizer.steps=1,2", ["one value"]),
        ("+tokenizer.steps=3", ["one value"]),
        ("~tokenizer.steps", ["one value"]),
        ("tokenizer.steps=[", ["cannot read the setting"]),
        ("--steps", ["cannot read the setting"]),
        ("tokenizer.rate=${nowhere}", ["refers to another value", "nowhere"]),
    ],
)
def test_what_cannot_be_composed_is_one_paragraph(override: str, words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        composed(override)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_config_refuses_in_its_own_words() -> None:
    with pytest.raises(InputError, match="^steps are unlucky; got 13.$"):
        composed("tokenizer.steps=13")
    with pytest.raises(InputError, match="1 <= steps <= 10000"):
        composed("tokenizer.steps=99999")


def test_a_budget_that_names_no_field_is_the_plugins_fault_and_said_so() -> None:
    with pytest.raises(InputError, match="budget of tokenizer.*did you mean 'steps'"):
        composed(budget={"step": 3})
    with pytest.raises(InputError, match="budget of tokenizer"):
        composed(budget={"steps": "many"})


def test_hydra_is_left_as_it_was_and_composition_works_again() -> None:
    before = set(ConfigStore.instance().repo)
    for _ in range(2):
        assert composed("tokenizer.steps=5").steps == 5
        with pytest.raises(InputError):
            composed("tokenizer.steps=x")
    assert set(ConfigStore.instance().repo) == before
    assert not GlobalHydra.instance().is_initialized()


def test_field_types_in_words() -> None:
    assert [field_type(Knobs, f.name) for f in dataclasses.fields(Knobs)] == [
        "int",
        "float",
        "tuple[int, ...]",
        "float | None",
        "str",
        "bool",
    ]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"budget": "quik"}, "unknown budget.*did you mean 'quick'"),
        ({"ties": "random"}, "one of 'shuffled', 'file'"),
        ({"cutoffs": (50, 10)}, "increasing"),
        ({"cutoffs": ()}, "increasing"),
        ({"seed": -1}, "0 <= seed"),
        ({"ranking_split": "random"}, "global_time"),
    ],
)
def test_a_run_config_checks_itself(values: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        RunConfig(**values)


def test_real_plugins_compose_with_their_budget_and_the_users_settings() -> None:
    run = compose_run(
        SMOKE, ["tokenizer.codebook_size=17", "retriever.epochs=3", "dataset.n_items=321", "run.cutoffs=[5,10]"]
    )
    tokenizer = load("tokenizer", "adasid")
    assert run.tokenizer == dataclasses.replace(tokenizer.config_class(**tokenizer.budgets["smoke"]), codebook_size=17)
    assert type(run.retriever) is load("recommender", "mtp").config_class and run.retriever.epochs == 3
    assert type(run.ranker) is load("recommender", "ppnet").config_class
    assert (run.retriever_name, run.ranker_name) == ("mtp", "ppnet")
    assert run.dataset.n_items == 321
    assert run.run == dataclasses.replace(SMOKE, cutoffs=(5, 10))
    assert run.behaviour == BehaviourConfig(**BEHAVIOUR_BUDGETS["smoke"])


def test_a_baseline_has_no_tokenizer_group() -> None:
    run = compose_run(RunConfig(tokenizer=None, recommenders=("sasrec",), budget="smoke"))
    assert run.tokenizer is None and run.ranker is None and run.retriever is not None
    with pytest.raises(InputError, match="unknown group of settings"):
        compose_run(RunConfig(tokenizer=None, recommenders=("sasrec",)), ["tokenizer.codebook_size=3"])


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (RunConfig(tokenizer="adasit"), "did you mean 'adasid'"),
        (RunConfig(recommenders=("mtp", "sasrec")), "two recommenders for the retrieval task"),
        (RunConfig(tokenizer=None, recommenders=("mtp",)), "reads semantic IDs"),
    ],
)
def test_names_that_do_not_fit_together(config: RunConfig, words: str) -> None:
    with pytest.raises(InputError, match=words):
        compose_run(config)


def test_what_has_an_option_is_no_override() -> None:
    with pytest.raises(InputError, match="use --seed"):
        compose_run(SMOKE, ["run.seed=3"])


@pytest.mark.parametrize("kind", KINDS)
def test_every_plugin_composes_under_every_budget(kind: str) -> None:
    """Types OmegaConf cannot hold, budgets with unknown fields and defaults out of range would show here."""
    loaded = {name: load(kind, name) for name in plugins(kind)}
    assert all(set(cls.budgets) <= set(BUDGETS) for cls in loaded.values())
    cases = {f"{name} {budget}": (cls, budget) for name, cls in loaded.items() for budget in BUDGETS}
    values = {case: cls.budgets.get(budget, {}) for case, (cls, budget) in cases.items()}
    result = _compose({case: cls.config_class for case, (cls, _) in cases.items()}, (("budget", values),), [])
    for case, (cls, _) in cases.items():
        assert type(result[case]) is cls.config_class
        for name, value in values[case].items():
            assert getattr(result[case], name) == value, case

"""The search space: what configs declare, what Hydra's grammar asks for, and that it always holds the default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidbench.benchmark.config.compose import compose_run, parse_override
from sidbench.benchmark.config.run_config import BUDGETS, RunConfig
from sidbench.benchmark.plugins.registry import load, plugins
from sidbench.benchmark.sweeps.space import (
    Choices,
    Interval,
    Space,
    build_space,
    declared_domains,
    read_domain,
)
from sidbench.benchmark.sweeps.suggest import as_parameters, decode, grid_points, suggest
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.settings import setting


@dataclass(frozen=True)
class Config:
    """One field of every kind."""

    rate: float = setting(1e-3, "r", low=1e-8, high=1, sweep=(1e-4, 1e-2))
    slope: float = setting(10.0, "s", low=0, high=100, sweep=(20.0, 5.0))
    weight: float = setting(0.5, "w", low=0, high=10, sweep=(0.1, 0.25, 1.0))
    size: int = setting(100, "k", low=1, high=65536, sweep=(64, 256))
    kind: str = setting("a", "kind", choices=("a", "b", "mmd+mse"), sweep=("a", "b"))
    flag: bool = setting(True, "flag", sweep=(False, True))
    share: float | None = setting(None, "share", low=0.01, high=1, sweep=(0.2, 0.4))
    fixed: int = setting(3, "not searched", low=1, high=9)
    widths: tuple[int, ...] = setting((8, 4), "widths")


def space(*overrides: str, search: tuple[str, ...] = ("tokenizer",)) -> Space:
    return build_space({"tokenizer": Config(), "retriever": Config(slope=7.0)}, search, overrides)


def test_metadata_becomes_intervals_logarithmic_ones_and_lists() -> None:
    made = declared_domains("tokenizer", Config)
    assert made["tokenizer.rate"] == Interval(1e-4, 1e-2, log=True)  # a factor of 100
    assert made["tokenizer.slope"] == Interval(5.0, 20.0)  # in whatever order
    assert made["tokenizer.weight"] == Choices((0.1, 0.25, 1.0))
    assert made["tokenizer.size"] == Choices((64, 256))  # two integers are a list
    assert made["tokenizer.share"] == Interval(0.2, 0.4)
    assert set(made) == {f"tokenizer.{n}" for n in ("rate", "slope", "weight", "size", "kind", "flag", "share")}


def test_the_space_holds_the_default_and_says_what_it_widened() -> None:
    made = space("tokenizer.slope=interval(20,30)", "tokenizer.share=choice(0.2,0.4)")
    assert made.domains["tokenizer.weight"] == Choices((0.5, 0.1, 0.25, 1.0))
    assert made.domains["tokenizer.size"] == Choices((100, 64, 256))
    assert made.domains["tokenizer.slope"] == Interval(10.0, 30.0)
    assert made.domains["tokenizer.share"] == Choices((None, 0.2, 0.4))
    assert any("tokenizer.slope" in note and "10" in note for note in made.notes)
    assert not any("tokenizer.flag" in note for note in made.notes)


def test_a_plain_value_fixes_a_setting_and_a_sweep_opens_one() -> None:
    made = space(
        "tokenizer.rate=0.01",
        "tokenizer.fixed=range(1,8,2)",
        "retriever.slope=tag(log,interval(1,50))",
        "tokenizer.share=0.4",
        "tokenizer.widths=choice([8,4],[16])",
    )
    assert "tokenizer.rate" not in made.domains and made.fixed == ("tokenizer.rate=0.01", "tokenizer.share=0.4")
    assert made.domains["tokenizer.fixed"] == Interval(1, 7, whole=True, step=2)
    assert made.domains["retriever.slope"] == Interval(1.0, 50.0, log=True)
    assert made.domains["tokenizer.widths"] == Choices(((8, 4), (16,)))
    assert "retriever.rate" not in made.domains
    assert "retriever.rate" in space("tokenizer.share=0.4", search=("tokenizer", "retriever")).domains


@pytest.mark.parametrize(
    "override,match",
    [
        ("tokenizer.slop=interval(1,2)", "did you mean 'slope'"),
        ("tokenizr.slope=interval(1,2)", "did you mean 'tokenizer'"),
        ("tokenizer.slope=interval(-5,20)", "values from 0 to 100"),
        ("tokenizer.kind=choice(a,c)", "one of 'a', 'b', 'mmd\\+mse'"),
        ("tokenizer.slope=interval(5,5)", "low < high"),
        ("tokenizer.slope=tag(log,interval(0,5))", "both positive"),
        ("tokenizer.size=interval(1.5,5)", "whole bounds"),
        ("tokenizer.slope=tag(log,choice(1,2))", "the tag log on a list"),
        ("tokenizer.slope=tag(fast,interval(1,2))", "tag of a search"),
        ("tokenizer.slope=range(5,5)", "empty range"),
        ("tokenizer.slope=glob(*)", "cannot search"),
        ("tokenizer.slope=interval(", "cannot read the setting"),
    ],
)
def test_what_cannot_be_searched_is_refused(override: str, match: str) -> None:
    with pytest.raises(InputError, match=match):
        space(override)


def test_a_space_without_a_setting_is_refused() -> None:
    with pytest.raises(InputError, match="no setting"):
        space(search=())
    with pytest.raises(InputError, match="no setting"):
        space(
            *[
                f"tokenizer.{n}={v}"
                for n, v in (
                    ("rate", 0.1),
                    ("slope", 1),
                    ("weight", 1),
                    ("size", 5),
                    ("kind", "a"),
                    ("flag", "true"),
                    ("share", 0.1),
                )
            ]
        )


# No null: Hydra's choice() does not take it.
scalars = st.one_of(
    st.booleans(),
    st.integers(-(10**6), 10**6),
    st.floats(-1e6, 1e6).map(lambda v: float(f"{v:.9g}")),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=12).filter(lambda s: "${" not in s),
)


def test_an_interval_around_a_default_that_is_no_number_becomes_a_list() -> None:
    made = space()
    assert made.domains["tokenizer.share"] == Choices((None, 0.2, 0.4))
    assert any("tokenizer.share" in note for note in made.notes)


@settings(deadline=None)
@given(
    st.lists(scalars, min_size=2, max_size=5, unique_by=lambda v: str(float(v)) if isinstance(v, (bool, int, float)) else v)
)
def test_the_description_of_a_list_reads_back_as_it_was(values: list[Any]) -> None:
    domain = Choices(tuple(values))
    again = read_domain(parse_override(f"tokenizer.x={domain}"))
    assert isinstance(again, Choices) and again.values == tuple(values)
    assert [isinstance(v, bool) for v in again.values] == [isinstance(v, bool) for v in values]


@settings(deadline=None)
@given(st.floats(1e-9, 1e3), st.floats(1.5, 1e6), st.booleans())
def test_the_description_of_an_interval_reads_back_as_it_was(low: float, ratio: float, log: bool) -> None:
    domain = Interval(float(f"{low:.9g}"), float(f"{low * ratio:.9g}"), log)
    assert read_domain(parse_override(f"tokenizer.x={domain}")) == domain


def test_suggestions_stay_inside_and_stored_parameters_decode_to_the_values() -> None:
    made = space(
        "tokenizer.widths=choice([8,4],[16])",
        "tokenizer.fixed=range(1,8,2)",
        "tokenizer.share=0.4",
        "tokenizer.slope=interval(5,20)",
    )
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.enqueue_trial(as_parameters(made.default, made))
    for number in range(30):
        trial = study.ask()
        values = suggest(trial, made)
        assert decode(trial.params) == values
        if number == 0:
            assert values == made.default  # the queued default comes out as it went in, tuples included
        assert values["tokenizer.fixed"] in (1, 3, 5, 7) and isinstance(values["tokenizer.fixed"], int)
        assert values["tokenizer.widths"] in ((8, 4), (16,)) and 5 <= values["tokenizer.slope"] <= 20
        Config(**{n.partition(".")[2]: v for n, v in values.items()})
        study.tell(trial, 0.0)


def test_a_grid_has_every_point_once_and_the_default_apart() -> None:
    made = build_space({"tokenizer": Config()}, (), ("tokenizer.size=choice(64,100)", "tokenizer.fixed=range(1,4)"))
    points = grid_points(made, seed=3)
    assert len(points) == 5 == len({tuple(p.items()) for p in points})
    assert {"tokenizer.fixed": 3, "tokenizer.size": 100} not in points
    assert points == grid_points(made, seed=3) != grid_points(made, seed=4)
    with pytest.raises(InputError, match="tokenizer.rate"):
        grid_points(space("tokenizer.share=0.4"), seed=0)


@pytest.mark.parametrize("name", sorted(n for n, p in plugins("tokenizer").items() if not p.broken))
def test_every_tokenizers_space_holds_its_default_at_every_budget(name: str) -> None:
    cls = load("tokenizer", name)
    if not declared_domains("tokenizer", cls.config_class):
        return
    for budget in BUDGETS:
        config = cls.config_class(**cls.budgets.get(budget, {}))
        made = build_space({"tokenizer": config}, ("tokenizer",), ())
        stored = as_parameters(made.default, made)
        assert decode(stored) == dict(made.default)
        study = optuna.create_study()
        study.enqueue_trial(stored)
        assert suggest(study.ask(), made) == dict(made.default)


def test_values_of_a_space_compose_as_a_preset() -> None:
    made = compose_run(RunConfig(budget="smoke", recommenders=("mtp",)))
    opened = build_space({"tokenizer": made.tokenizer}, ("tokenizer",), ("tokenizer.codebook_size=32",))
    again = compose_run(RunConfig(budget="smoke", recommenders=("mtp",)), opened.fixed, preset=opened.groups(opened.default))
    assert again.tokenizer.codebook_size == 32
    assert {n: getattr(again.tokenizer, n.partition(".")[2]) for n in opened.default} == dict(opened.default)

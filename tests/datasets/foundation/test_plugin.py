"""Plugins are constructed from a config or from settings, checked alike, and are called what their file is called."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytest

from sidbench.benchmark.plugins.registry import KINDS, load, plugins
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.plugin import PluginBase
from sidbench.datasets.foundation.settings import accepts, check_settings, setting
from sidbench.tokenizers.opq import Opq, OpqConfig


@dataclass(frozen=True)
class Config:
    """One setting of every type that occurs."""

    steps: int = setting(10, "steps", low=1)
    rate: float = setting(0.5, "rate", low=0, high=1)
    share: float | None = setting(None, "share")
    hidden: tuple[int, ...] = setting((4, 2), "widths")
    flag: bool = setting(False, "flag")
    mode: str = setting("sg", "mode", choices=("sg", "ste"))

    def __post_init__(self) -> None:
        check_settings(self)


class Thing(PluginBase):
    entry_points = "sidbench.things"
    config_class = Config


def test_settings_and_config_make_the_same_plugin() -> None:
    assert Opq(codebook_size=64).config == Opq(OpqConfig(codebook_size=64)).config
    assert Opq().config == OpqConfig()


def test_settings_are_put_into_the_types_that_the_command_line_gives() -> None:
    made = Thing(steps=np.int64(3), rate=1, share=1, hidden=[8, 4], flag=True).config
    assert made == Config(3, 1.0, 1.0, (8, 4), True)
    assert [type(v) for v in (made.steps, made.rate, made.share, made.hidden)] == [int, float, float, tuple]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Thing(step=3), "setting of Thing; got 'step'.*did you mean 'steps'"),
        (lambda: Thing(steps=0), "Config.steps; got 0; wanted 1 <= steps <= inf"),
        (lambda: Thing(steps="3"), r"Config.steps; got '3' \(str\); wanted int"),
        (lambda: Thing(steps=2.0), "wanted int"),
        (lambda: Thing(steps=True), "wanted int"),
        (lambda: Thing(flag=1), "wanted bool"),
        (lambda: Thing(rate="high"), "wanted float"),
        (lambda: Thing(share="high"), r"wanted float \| None"),
        (lambda: Thing(hidden=("a",)), r"wanted tuple\[int, ...\]"),
        (lambda: Thing(hidden=3), r"wanted tuple\[int, ...\]"),
        (lambda: Thing(mode="stee"), "wanted one of 'sg', 'ste'"),
        (lambda: Thing(Config(), steps=3), "a config and steps; wanted one of the two"),
        (lambda: Thing({"steps": 3}), "got dict .*wanted a Config, or settings by name"),
        (lambda: Thing(OpqConfig()), "got OpqConfig .*wanted a Config"),
        (lambda: Config(steps="3"), "wanted int"),  # type: ignore[arg-type]
    ],
)
def test_what_is_wrong_and_what_is_wanted(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        make()


def test_types_that_settings_of_strangers_may_have() -> None:
    assert accepts(Literal["a", "b"], "a") and not accepts(Literal["a", "b"], "c")
    assert accepts(tuple[int, str], (1, "x")) and not accepts(tuple[int, str], (1, 2)) and not accepts(tuple[int, str], (1,))
    assert accepts(dict[str, int], {"a": 1}) and not accepts(dict[str, int], [1])
    assert accepts(Any, object()) and accepts(float, 1) and not accepts(float, True)


def test_every_plugin_of_the_tree_is_called_like_its_file_and_built_from_settings() -> None:
    for kind in KINDS:
        for name in plugins(kind):
            cls = load(kind, name)
            assert cls.name == name
            assert cls.entry_points == f"sidbench.{KINDS[kind].group}"
            assert cls().config == cls.config_class()
            smoke = cls.budgets.get("smoke", {})
            assert cls(**smoke).config == cls.config_class(**smoke) and cls(**smoke).name == name


def test_a_plugin_of_another_package_is_called_like_its_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    body: dict[str, Any] = {"__module__": "strange.tokenizer", "entry_points": "sidbench.things"}
    named, unnamed, notebook = (
        type(n, (Thing,), {**body, **more})
        for n, more in (("Named", {}), ("OtherCodes", {}), ("MyRQVae", {"__module__": "__main__"}))
    )
    points = importlib.metadata.EntryPoints(
        [importlib.metadata.EntryPoint("star_codes", "strange.tokenizer:Named", "sidbench.things")]
    )
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points.select(group=group))
    assert named.name == "star_codes"
    assert unnamed.name == "other_codes"
    assert notebook.name == "my_rq_vae"

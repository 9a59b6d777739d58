"""No stage creates a tensor anywhere but on the runtime's device.

A guard watches every call into torch from the rooms of plugins. A factory (``zeros``, ``arange``, ``tensor`` ...) must
name its device, and numpy data must enter through ``runtime.tensor``. Parameters made in a module's ``__init__`` or read
by ``load_state_dict`` are exempt: the module is moved to the runtime's device as a whole.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from sidbench.benchmark.plugins.registry import installed
from sidbench.benchmark.runtime.local import LocalRuntime
from sidbench.benchmark.testing.recommenders import make_ranking, make_retrieval, make_sids
from sidbench.benchmark.testing.tokenizers import planted_features
from sidbench.datasets.foundation.seeds import Rng
from sidbench.recommenders.base import Ranker

ROOT = Path(__file__).resolve().parents[3]
FACTORIES = {
    torch.zeros,
    torch.ones,
    torch.full,
    torch.empty,
    torch.arange,
    torch.linspace,
    torch.eye,
    torch.rand,
    torch.randn,
    torch.randint,
    torch.randperm,
    torch.tensor,
    torch.as_tensor,
    torch.tril_indices,
}
SMALL: Mapping[str, Mapping[str, Any]] = {  # on top of the smoke budget
    "adasid": {"width": 16, "hidden": 16, "warm_steps": 4},
    "mmq": {"width": 16, "warm_steps": 4, "tuning_steps": 4, "tuning_users": 32, "tuning_width": 16},
    "das": {"tower_steps": 4, "batch_size": 64},
    "rqkmeans": {"inputs": "behaviour_tuned", "width": 16, "batch_size": 64},
}
STEPS = 8
FILES = [n for n in installed().names("tokenizer") if installed().find("tokenizer", n).info["needs_settings"]]


def _caller(frame: FrameType | None) -> FrameType | None:
    """The nearest frame of this project outside tests and the runtime, or ``None``."""
    while frame is not None:
        path = Path(frame.f_code.co_filename).resolve()
        if path.is_relative_to(ROOT) and ".venv" not in path.parts:
            room = path.relative_to(ROOT).parts[0]
            return frame if room in ("tokenizers", "recommenders") else None
        frame = frame.f_back
    return None


def _building(frame: FrameType | None) -> bool:
    """Inside a module's ``__init__``, or in ``load_state_dict``: the whole module is moved to the device afterwards."""
    while frame is not None:
        if frame.f_code.co_name == "load_state_dict" or (
            frame.f_code.co_name == "__init__" and isinstance(frame.f_locals.get("self"), torch.nn.Module)
        ):
            return True
        frame = frame.f_back
    return False


class DeviceGuard(TorchFunctionMode):
    """Collects factory calls without a device, as "file:line function"."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if (func in FACTORIES or func is torch.from_numpy) and kwargs.get("device") is None:
            frame = _caller(sys._getframe(1))
            if frame is not None and not _building(frame):
                self.seen.append(f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {func.__name__}")
        return func(*args, **kwargs)


def test_the_guard_sees_a_careless_stage() -> None:
    source = "def careless(torch):\n    return torch.zeros(3)\n"
    scope: dict[str, Any] = {}
    exec(compile(source, str(ROOT / "tokenizers" / "careless.py"), "exec"), scope)  # noqa: S102 - a literal of this test
    with DeviceGuard() as guard:
        scope["careless"](torch)
    assert guard.seen == ["careless.py:2 zeros"]


@pytest.mark.parametrize("name", [n for n in installed().names("tokenizer") if n not in FILES])
def test_tokenizers_stay_on_the_device(name: str, runtime: LocalRuntime) -> None:
    features = planted_features()
    cls = installed().load("tokenizer", name)
    known = {f.name for f in fields(cls.config_class)}
    small = {
        **cls.budgets.get("smoke", {}),
        "codebook_size": 8,
        **({"steps": STEPS} if "steps" in known else {}),
        **SMALL.get(name, {}),
    }
    tokenizer = cls(cls.config_class(**small))
    with DeviceGuard() as guard:
        tokenizer.fit(features, Rng(0), runtime)
        tokenizer.encode(features, runtime)
        again = cls(cls.config_class(**small))
        again.load_state_dict(tokenizer.state_dict())
        again.encode(features, runtime)
    assert sorted(set(guard.seen)) == []


@pytest.mark.parametrize("name", installed().names("recommender"))
def test_recommenders_stay_on_the_device(name: str, runtime: LocalRuntime) -> None:
    cls = installed().load("recommender", name)
    model = cls(cls.config_class(**cls.budgets["smoke"]))
    sids = make_sids() if cls.info.needs_sids else None
    with DeviceGuard() as guard:
        if issubclass(cls, Ranker):
            rows = make_ranking()
            model.fit(rows, sids, Rng(0), runtime)
            model.predict(rows, "test", sids, runtime)
        else:
            data = make_retrieval()
            model.fit(data, sids, Rng(0), runtime)
            model.rank_targets(data.test_history, data.test_target, sids, runtime)
    assert sorted(set(guard.seen)) == []


def test_runtime_places_tensors(runtime: LocalRuntime) -> None:
    placed = runtime.tensor(np.arange(3))
    assert placed.device == runtime.device
    assert runtime.generator(Rng(0)).device == runtime.device

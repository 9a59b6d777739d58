"""Checkpoints of one training: a single safetensors file, written atomically, no pickle."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sidbench.datasets.foundation.disk import storing
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.runtime import TrainingLog, TrainingPlan

_LENGTHS_AND_RATES = (
    "steps_per_epoch",
    "epochs",
    "schedule",
    "learning_rate",
    "warmup_steps",
    "final_lr_share",
    "weight_decay",
    "clip_norm",
)


def flatten(prefix: str, state: dict[str, Any], tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
    """Sort the entries of ``state`` into tensors and JSON values under ``prefix``."""
    for name, value in state.items():
        if isinstance(value, Tensor):
            tensors[f"{prefix}/{name}"] = value.detach().cpu().contiguous().clone()
        else:
            plain[f"{prefix}/{name}"] = value


def section(prefix: str, entries: dict[str, Any]) -> dict[str, Any]:
    """The entries stored under ``prefix``, with the prefix removed."""
    start = f"{prefix}/"
    return {name[len(start) :]: value for name, value in entries.items() if name.startswith(start)}


def write_checkpoint(path: Path, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
    """Write to a temporary sibling, then rename: a reader sees the old file or the new one, never half of one.

    Raises ``StageError`` when the disk is full, ``InputError`` when it cannot be written; the old file is kept.
    """
    with storing(f"checkpoint {path.name}", path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        try:
            save_file(tensors, temporary, metadata={"plain": json.dumps(plain)})
            os.replace(temporary, path)
        except (OSError, SafetensorError):
            temporary.unlink(missing_ok=True)  # half a checkpoint must not keep a full disk full
            raise


def read_checkpoint(path: Path) -> dict[str, Any] | None:
    """All entries of a checkpoint, or ``None`` if there is none or it is damaged (training then starts anew)."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as handle:
            entries: dict[str, Any] = dict(json.loads((handle.metadata() or {}).get("plain", "{}")))
            for name in handle.keys():  # noqa: SIM118 - safe_open is not a mapping
                entries[name] = handle.get_tensor(name)
    except (SafetensorError, ValueError, TypeError, OverflowError, RecursionError, MemoryError, OSError):
        return None
    return entries


def optimiser_state(optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """Optimiser state by parameter number, flat: ``"3/exp_avg" -> Tensor``."""
    flat: dict[str, Any] = {}
    for number, state in optimiser.state_dict()["state"].items():
        for name, value in state.items():
            flat[f"{number}/{name}"] = value
    return flat


def load_optimiser_state(optimiser: torch.optim.Optimizer, flat: dict[str, Any]) -> None:
    """Restore ``optimiser_state`` into an optimiser over the same parameters."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in flat.items():
        number, name = key.split("/", 1)
        state.setdefault(int(number), {})[name] = value
    full = optimiser.state_dict()
    full["state"] = state
    optimiser.load_state_dict(full)


def plan_signature(plan: TrainingPlan, accumulate: int, precision: str) -> dict[str, Any]:
    """What a checkpoint must agree on with the plan that continues from it, as JSON values."""
    parameters = {name: list(p.shape) for name, p in plan.model.named_parameters()}
    return {
        **{name: getattr(plan, name) for name in _LENGTHS_AND_RATES},
        "betas": list(plan.betas),
        "accumulate": accumulate,
        "precision": precision,
        "seed": [plan.rng.seed, *plan.rng.path],
        "parameters": parameters,
    }


def check_signature(path: Path, who: str, saved: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise ``InputError`` naming the first entry in which a checkpoint differs from the plan ``who``.

    Stages of other settings have other folders, so this only meets files that were copied by hand.
    """
    pairs = [(name, saved.get(name), wanted[name]) for name in wanted if name != "parameters"]
    old, new = saved.get("parameters", {}), wanted["parameters"]
    pairs += [
        (f"parameter {name}", old.get(name, "nothing"), new.get(name, "no such parameter"))
        for name in sorted(old.keys() | new.keys())
    ]
    for name, got, due in pairs:
        if got != due:
            raise InputError(
                f"checkpoint {path} of {who}: {name}",
                got=got,
                wanted=str(due),
                do="delete this file, or run with the settings that it was made with",
            )


def check_counters(counters: Any, done: Any, best_value: Any) -> None:
    """Raise ``ValueError`` unless the places and flags of a checkpoint have the types that a training writes."""
    whole = isinstance(counters, list) and len(counters) == 5 and all(type(n) is int and 0 <= n < 2**62 for n in counters)
    if not whole or type(done) is not bool or not (best_value is None or type(best_value) in (int, float)):
        raise ValueError(f"counters {counters!r:.80}, done {done!r:.20}, best {best_value!r:.40}: no training has them")


def checked_log(values: Any) -> TrainingLog:
    """The log of a checkpoint. Raises ``TypeError`` or ``ValueError`` for fields and types that no training writes."""
    log = TrainingLog(**values)
    for field in dataclasses.fields(TrainingLog):
        value, usual = getattr(log, field.name), getattr(TrainingLog(), field.name)
        parts = [*value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
        wanted = (int, float) if isinstance(usual, float) else type(usual)
        if not isinstance(value, wanted) or not all(type(part) in (int, float) for part in parts):
            raise ValueError(f"log: {field.name} {value!r:.80}")
    return log

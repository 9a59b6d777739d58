"""Checkpoints of one training: a single safetensors file, written atomically, no pickle."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sidbench.datasets.foundation.errors import InputError
from sidbench.tokenizers.blocks.runtime import TrainingPlan

_LENGTHS_AND_RATES = ("steps_per_epoch", "epochs", "schedule", "learning_rate", "warmup_steps", "final_lr_share",
                      "weight_decay", "clip_norm")


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
    return {name[len(start):]: value for name, value in entries.items() if name.startswith(start)}


def write_checkpoint(path: Path, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
    """Write to a temporary sibling, then rename: a reader sees the old file or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    save_file(tensors, temporary, metadata={"plain": json.dumps(plain)})
    os.replace(temporary, path)


def read_checkpoint(path: Path) -> dict[str, Any] | None:
    """All entries of a checkpoint, or ``None`` if there is none or its bytes are damaged (training then starts anew)."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as handle:
            entries: dict[str, Any] = json.loads((handle.metadata() or {}).get("plain", "{}"))
            for name in handle.keys():  # noqa: SIM118 - safe_open is not a mapping
                entries[name] = handle.get_tensor(name)
    except (SafetensorError, json.JSONDecodeError, OSError):
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
    return {**{name: getattr(plan, name) for name in _LENGTHS_AND_RATES}, "betas": list(plan.betas),
            "accumulate": accumulate, "precision": precision, "seed": [plan.rng.seed, *plan.rng.path],
            "parameters": parameters}


def check_signature(path: Path, who: str, saved: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise ``InputError`` naming the first entry in which a checkpoint differs from the plan ``who``.

    Stages of other settings have other folders, so this only meets files that were copied by hand.
    """
    pairs = [(name, saved.get(name), wanted[name]) for name in wanted if name != "parameters"]
    old, new = saved.get("parameters", {}), wanted["parameters"]
    pairs += [(f"parameter {name}", old.get(name, "nothing"), new.get(name, "no such parameter"))
              for name in sorted(old.keys() | new.keys())]
    for name, got, due in pairs:
        if got != due:
            raise InputError(f"checkpoint {path} of {who}: {name}", got=got, wanted=str(due),
                             do="delete this file, or run with the settings that it was made with")

"""What each of two processes does for test_distributed.py, which starts this file as a script and also loads it."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sidbench.benchmark.runtime import training
from sidbench.benchmark.runtime.local import LocalRuntime
from sidbench.benchmark.runtime.reporter import Notes
from sidbench.benchmark.runtime.sharding import encode_catalogue, predict_rows, rank_users
from sidbench.benchmark.runtime.stage_runtime import StageRuntime
from sidbench.benchmark.store.stage_cache import Stage, StageCache
from sidbench.benchmark.testing.recommenders import make_ranking, make_retrieval
from sidbench.benchmark.testing.tokenizers import planted_features
from sidbench.datasets.foundation.errors import InputError, StageError
from sidbench.datasets.foundation.runtime import TrainingLog, TrainingPlan
from sidbench.datasets.foundation.seeds import Rng
from sidbench.recommenders.base import MAX, MEAN, SUM, Ranker
from sidbench.recommenders.blocks.windows import take_sequences
from sidbench.recommenders.sasrec import Sasrec
from sidbench.tokenizers.rqkmeans import RqKMeans

BATCHES = 7  # of an epoch: with groups of 2 or 4 the last is smaller, and one process has nothing to do in it


class Net(nn.Module):
    """A small regression with dropout, one unused parameter and one that only odd batches use."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.one = nn.Parameter(torch.randn(8, 16, generator=generator) * 0.3)
        self.two = nn.Parameter(torch.randn(16, 1, generator=generator) * 0.3)
        self.sometimes = nn.Parameter(torch.ones(1))
        self.never = nn.Parameter(torch.ones(1))
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.dropout(torch.tanh(x @ self.one), 0.2, self.training) @ self.two


def plan(
    name: str = "toy",
    fault: Callable[[int], None] | None = None,
    sharded: bool = True,
    mean: bool = False,
    nan_at: int | None = None,
) -> TrainingPlan:
    """Five epochs; ``fault(batch number)`` is called in the loss; ``mean``: a buffer follows what the batches hold."""
    model, x = Net(), torch.randn(BATCHES * 8, 8, generator=torch.Generator().manual_seed(1))

    def loss(rows: Tensor, step: int) -> dict[str, Tensor]:
        if fault is not None:
            fault(step)
        value = ((model(rows) - rows[:, :1]) ** 2).mean()
        if step % 2:
            value = value + 0.01 * model.sometimes.square().sum()
        if mean:
            model.seen.mul_(0.9).add_(rows.mean(), alpha=0.1)
        return {"loss": value * float("nan") if step == nan_at else value, "batch": value.detach() * 0 + step}

    return TrainingPlan(
        name=name,
        model=model,
        steps_per_epoch=BATCHES,
        epochs=5,
        batch=lambda e, i: x[i * 8 : (i + 1) * 8],
        loss=loss,
        rng=Rng(0),
        learning_rate=1e-2,
        sharded=sharded,
        warmup_steps=5,
        schedule="cosine",
        weight_decay=0.1,
        validate=lambda: -float(((model(x) - x[:, :1]) ** 2).mean()),
        monitor=dict,
        monitor_every=3,
    )


def outcome(log: TrainingLog, trained: TrainingPlan) -> dict[str, Any]:
    """Everything of a training that must not depend on the number of processes."""
    return {
        "losses": log.losses,
        "validations": log.validations,
        "steps": log.steps,
        "epochs": log.epochs,
        "parts": log.parts,
        "weights": {n: v.flatten().tolist() for n, v in trained.model.state_dict().items()},
    }


def train(accumulate: int, **options: Any) -> dict[str, Any]:
    """Train a toy plan and tell how it went."""
    runtime, toy = StageRuntime(LocalRuntime("cpu", threads=1, accumulate=accumulate)), plan(**options)
    log = runtime.train(toy)
    return {**outcome(log, toy), "processes": log.processes, "warnings": list(runtime.warnings)}


def refused(work: Callable[[], object]) -> str:
    """The error of ``work``."""
    try:
        work()
    except (InputError, StageError) as error:
        return f"{type(error).__name__}: {error}"
    return "none"


def failure(rank: int) -> str:
    """One process alone fails in the middle of an epoch."""
    runtime = LocalRuntime("cpu", threads=1, accumulate=2)

    def fault(step: int) -> None:
        if step == 9 + rank and runtime.process_group.rank == rank:
            raise ValueError(f"process {rank} is tired")

    def work() -> object:
        try:
            return runtime.train(plan(fault=fault))
        except ValueError as error:
            raise StageError(f"plugin failed: {error}") from error

    return refused(
        lambda: runtime.process_group.together(lambda: runtime.process_group.together(work))
    )  # nested, as stages in a run


def cache(folder: Path) -> dict[str, Any]:
    """Stages on a miss and on a hit, by all and by the leader alone, and one that fails."""
    reporter = Notes()
    runtime = LocalRuntime("cpu", threads=1, accumulate=2, reporter=reporter)
    calls: list[str] = []

    def stage(name: str, by_all: bool, bad: bool = False) -> Stage[list[int]]:
        def compute(partial: Path) -> list[int]:
            calls.append(name)
            if bad:
                raise StageError("no luck")
            process_group = runtime.process_group  # a leader that works for itself must be able to train
            return [
                process_group.size,
                *sorted(process_group.gather(process_group.rank)),
                runtime.train(plan(name)).processes,
            ]

        return Stage(
            name,
            {},
            compute,
            lambda v, f: (f / "v.json").write_text(json.dumps(v)) and None,
            lambda f: list(json.loads((f / "v.json").read_text())),
            by_all=by_all,
        )

    shared = StageCache(folder, reporter, process_group=runtime.process_group)
    values = {
        "all": shared.run(stage("all", True)),
        "leader": shared.run(stage("leader", False)),
        "all again": shared.run(stage("all", True)),
        "leader again": shared.run(stage("leader", False)),
    }
    errors = [refused(lambda by_all=by_all: shared.run(stage("bad", by_all, bad=True))) for by_all in (True, False)]
    return {"values": values, "errors": errors, "calls": calls, "warnings": len(reporter.warnings)}


@dataclass(frozen=True)
class NoSettings:
    """The settings of ``Sums``."""


class Sums(Ranker):
    """Scores rows by their own columns."""

    config_class = NoSettings
    diagnostic_combine = {"truncated_histories": SUM, "beam_widest": MAX, "share": MEAN}

    def fit(self, *_: Any) -> Any:
        return self

    def predict(self, data: Any, split: str, sids: Any, runtime: Any) -> np.ndarray:
        rows = data.rows[split]
        return (rows.user * 100 + rows.item).astype(np.float32)

    def state_dict(self) -> dict[str, np.ndarray]:
        return {}

    def load_state_dict(self, state: Any) -> None:
        pass

    def diagnostics(self) -> dict[str, float]:
        return {"truncated_histories": 2.0, "beam_widest": 8.0, "share": 0.5}


def evaluate() -> dict[str, Any]:
    """Ranks of 1, 2, 3 and all users, scores of rows, and codes in blocks of 7 items."""
    runtime = LocalRuntime("cpu", threads=1, accumulate=2)
    data = make_retrieval()
    with runtime.process_group.solo():
        model = Sasrec(Sasrec.config_class(**{**Sasrec.budgets["smoke"], "epochs": 1})).fit(data, None, Rng(0), runtime)
    ranks = {}
    for n in (1, 2, 3, len(data.test_target)):
        users = np.arange(n)
        histories = take_sequences(data.test_history, users)
        found, notes = rank_users(model, histories, data.test_target[:n], None, runtime)
        columns = {f.name: np.asarray(getattr(found, f.name)).tolist() for f in fields(found)}
        ranks[str(n)] = {**columns, "truncated": notes["truncated_histories"]}
    scores, notes = predict_rows(Sums(), make_ranking(), "test", None, runtime)
    features = planted_features()
    tokenizer = RqKMeans(RqKMeans.config_class(codebook_size=4, code_length=2)).fit(features, Rng(0), runtime)
    sids = encode_catalogue(tokenizer, features, runtime, block_items=7)
    return {
        "ranks": ranks,
        "scores": scores.tolist(),
        "notes": notes,
        "codes": sids.codes.tolist(),
        "reconstruction": {m: float(e.sum()) for m, e in sids.reconstruction.items()},
    }


def killed(folder: Path) -> str:
    """Process 1 dies by SIGKILL in its fifth epoch, with a checkpoint after every step."""
    runtime = LocalRuntime("cpu", threads=1, accumulate=2)

    def fault(step: int) -> None:
        if step == 4 * BATCHES + 3 and runtime.process_group.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    training.CHECKPOINT_SECONDS = -1.0
    with runtime.checkpointing(folder):
        return refused(lambda: runtime.train(plan(fault=fault)))


def scenarios(folder: Path) -> dict[str, Callable[[], Any]]:
    """All of them, in order; the last one leaves no process_group."""
    return {
        "two": lambda: train(2),
        "four": lambda: train(4),
        "replicated": lambda: train(2, sharded=False, mean=True),
        "lying": lambda: refused(lambda: train(2, mean=True)),
        "nan": lambda: refused(lambda: train(2, nan_at=9)),
        "odd": lambda: refused(lambda: train(3)),
        "failure 0": lambda: failure(0),
        "failure 1": lambda: failure(1),
        "cache": lambda: cache(folder / "cache"),
        "evaluate": evaluate,
        "killed": lambda: killed(folder / "checkpoints"),
    }


if __name__ == "__main__":
    place = Path(sys.argv[1])
    for title, scenario in scenarios(place).items():
        told = json.dumps(scenario())
        (place / f"{title}-{os.environ['RANK']}.json").write_text(told)
    os._exit(0)  # the process_group is broken by now, so there is nothing to close

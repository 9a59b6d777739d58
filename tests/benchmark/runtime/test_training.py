"""The training loop: resume is bit for bit, schedules are as written, bad losses stop with stage and step."""

from __future__ import annotations

import math
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sidbench.benchmark.runtime.checkpoints import read_checkpoint
from sidbench.benchmark.runtime.local import LocalRuntime
from sidbench.benchmark.runtime.optimisers import learning_rate_factor
from sidbench.benchmark.runtime.reporter import Notes
from sidbench.datasets.foundation.errors import InputError, NonFiniteLoss, StageError
from sidbench.datasets.foundation.runtime import TrainingLog, TrainingPlan
from sidbench.datasets.foundation.seeds import Rng


def toy_plan(stop_at: int | None = None, nan_at: int | None = None, patience: int = 0, epochs: int = 5) -> TrainingPlan:
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.5), nn.Linear(16, 1))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.3)
    x = torch.randn(64, 8, generator=generator)
    counter = {"calls": 0.0}

    def loss(batch: Tensor, step: int) -> Tensor:
        if step == stop_at:
            raise KeyboardInterrupt
        value = ((model(batch) - batch[:, :1]) ** 2).mean()
        return value * float("nan") if step == nan_at else value

    def after(step: int) -> None:
        counter["calls"] += 1

    return TrainingPlan(
        name="toy",
        model=model,
        steps_per_epoch=7,
        epochs=epochs,
        batch=lambda e, i: x[i * 8 : (i + 1) * 8],
        loss=loss,
        rng=Rng(0),
        learning_rate=1e-2,
        after_step=after,
        extra_state=lambda: dict(counter),
        load_extra_state=lambda s: counter.update(s),
        patience=patience,
        validate=lambda: -float(((model(x) - x[:, :1]) ** 2).mean()),
        monitor=lambda: {"calls": counter["calls"]},
    )


def weights(plan: TrainingPlan) -> list[Tensor]:
    return [p.detach().clone() for p in plan.model.parameters()]


@pytest.mark.parametrize("stop_at", [1, 6, 7, 20, 34])
def test_interrupted_training_resumes_bit_for_bit(tmp_path: Path, stop_at: int) -> None:
    whole = toy_plan()
    log = LocalRuntime("cpu").train(whole)
    runtime = LocalRuntime("cpu")
    with runtime.checkpointing(tmp_path):
        with pytest.raises(KeyboardInterrupt):
            runtime.train(toy_plan(stop_at=stop_at))
        resumed = toy_plan()
        again = runtime.train(resumed)
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(resumed), strict=True))
    assert (again.steps, again.losses, again.validations) == (log.steps, log.losses, log.validations)
    assert resumed.monitor is not None and resumed.monitor()["calls"] == 35  # extra state came back too


def test_finished_training_is_not_run_again(tmp_path: Path) -> None:
    runtime = LocalRuntime("cpu")
    with runtime.checkpointing(tmp_path):
        first = toy_plan()
        runtime.train(first)
        second = toy_plan(stop_at=0)  # would raise if any step ran
        runtime.train(second)
    assert all(torch.equal(a, b) for a, b in zip(weights(first), weights(second), strict=True))


def test_damaged_checkpoint_starts_anew(tmp_path: Path) -> None:
    (tmp_path / "toy.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00garbage!")
    runtime, plan = LocalRuntime("cpu"), toy_plan()
    with runtime.checkpointing(tmp_path):
        assert runtime.train(plan).steps == 35
    assert read_checkpoint(tmp_path / "toy.safetensors") is not None


def test_non_finite_loss_names_stage_and_step() -> None:
    with pytest.raises(NonFiniteLoss, match=r"toy: loss or gradient became nan .* at step 9 of 35"):
        LocalRuntime("cpu").train(toy_plan(nan_at=9))


def test_global_random_state_is_left_alone() -> None:
    plan = toy_plan()  # module constructors draw from the global stream
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    LocalRuntime("cpu").train(plan)
    assert torch.equal(torch.rand(1), expected)


def test_patience_stops_and_restores_the_best_state() -> None:
    plan = toy_plan(patience=2, epochs=50)
    values = iter([0.1, 0.9, 0.2, 0.3, 0.4])
    kept: list[list[Tensor]] = []

    def validate() -> float:
        kept.append(weights(plan))
        return next(values)

    plan.validate = validate
    log: TrainingLog = LocalRuntime("cpu").train(plan)
    assert (log.stopped, log.best_epoch, log.epochs) == ("patience", 2, 4)
    assert all(torch.equal(a, b) for a, b in zip(weights(plan), kept[1], strict=True))


def test_schedules_by_hand() -> None:
    plan = toy_plan()
    plan.warmup_steps, plan.schedule, plan.final_lr_share = 5, "cosine", 0.1
    assert learning_rate_factor(plan, 0) == pytest.approx(0.2)
    assert learning_rate_factor(plan, 4) == pytest.approx(1.0)
    assert learning_rate_factor(plan, 20) == pytest.approx(0.1 + 0.9 * 0.5)  # half of the 30 steps after warm-up
    assert learning_rate_factor(plan, 35) == pytest.approx(0.1)
    plan.schedule = "inverse_sqrt"
    assert learning_rate_factor(plan, 20) == pytest.approx(0.5)


def test_collapse_raises_an_alarm_once() -> None:
    reporter = Notes()
    plan = toy_plan()
    plan.monitor, plan.monitor_every = (lambda: {"utilisation": 0.03}), 1
    LocalRuntime("cpu", reporter=reporter).train(plan)
    assert len(reporter.warnings) == 1 and "codebook collapse, 3% of the codes" in reporter.warnings[0]


def test_runtime_refuses_unknown_choices() -> None:
    with pytest.raises(InputError, match="wanted auto, cpu or cuda"):
        LocalRuntime("tpu")
    with pytest.raises(InputError, match="wanted fp32 or bf16"):
        LocalRuntime("cpu", precision="fp8")


def by_hand(plan: TrainingPlan, accumulate: int) -> list[float]:
    """The loop written out: mean loss of each epoch."""
    decayed = [p for n, p in plan.model.named_parameters() if "bias" not in n]
    free = [p for n, p in plan.model.named_parameters() if "bias" in n]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": plan.weight_decay}, {"params": free, "weight_decay": 0.0}],
        lr=plan.learning_rate,
    )
    curve = []
    for epoch in range(plan.epochs):
        losses = []
        for start in range(0, plan.steps_per_epoch, accumulate):
            group = range(start, min(start + accumulate, plan.steps_per_epoch))
            last = epoch * plan.steps_per_epoch + group[-1]
            for entry in optimiser.param_groups:
                entry["lr"] = plan.learning_rate * learning_rate_factor(plan, last)
            optimiser.zero_grad()
            total = torch.zeros(())
            for index in group:
                number = epoch * plan.steps_per_epoch + index
                torch.manual_seed(plan.rng.child("noise", number).integer())
                loss = plan.loss(plan.batch(epoch, index), number)
                assert isinstance(loss, Tensor)
                losses.append(loss.detach())
                total = total + loss
            (total / len(group)).backward()
            torch.nn.utils.clip_grad_norm_(plan.model.parameters(), plan.clip_norm)
            optimiser.step()
        curve.append(float(torch.stack(losses).mean()))
    return curve


@pytest.mark.parametrize("accumulate", [1, 2, 3, 7, 50])
def test_accumulation_by_hand(accumulate: int) -> None:
    """Groups of batches of one epoch; 7 batches leave a smaller group at 2 and 3, and 50 is the whole epoch."""
    plan, hand = toy_plan(), toy_plan()
    for p in (plan, hand):
        p.schedule, p.warmup_steps, p.weight_decay, p.clip_norm = "cosine", 9, 0.1, 0.05
    log = LocalRuntime("cpu", accumulate=accumulate).train(plan)
    assert log.steps == 5 * math.ceil(7 / accumulate)
    assert plan.monitor is not None and plan.monitor()["calls"] == log.steps  # after_step once per optimiser step
    assert log.losses == pytest.approx(by_hand(hand, accumulate), rel=1e-5)
    for a, b in zip(weights(plan), weights(hand), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_accumulated_batches_are_one_large_batch() -> None:
    """Without noise, A equal batches give the gradient of their union."""
    small, large = toy_plan(), toy_plan()
    for plan in (small, large):
        plan.model[1].p, plan.after_step, plan.validate, plan.monitor = 0.0, None, None, None  # type: ignore[union-attr]
    batch = small.batch
    large.batch = lambda e, i: torch.cat([batch(e, j) for j in range(7)])
    large.steps_per_epoch = 1
    LocalRuntime("cpu", accumulate=7).train(small)
    LocalRuntime("cpu").train(large)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(weights(small), weights(large), strict=True))


@pytest.mark.parametrize("stop_at", [3, 8, 20])
def test_accumulated_training_resumes_bit_for_bit(tmp_path: Path, stop_at: int) -> None:
    whole, resumed = toy_plan(), toy_plan()
    runtime = LocalRuntime("cpu", accumulate=3)
    log = runtime.train(whole)
    with runtime.checkpointing(tmp_path):
        with pytest.raises(KeyboardInterrupt):
            runtime.train(toy_plan(stop_at=stop_at))
        again = runtime.train(resumed)
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(resumed), strict=True))
    assert (again.steps, again.losses, again.validations) == (log.steps, log.losses, log.validations)


CHANGES: dict[str, Any] = {
    "steps_per_epoch": 8,
    "epochs": 6,
    "schedule": "cosine",
    "learning_rate": 0.02,
    "warmup_steps": 3,
    "weight_decay": 0.5,
    "clip_norm": 2.0,
    "final_lr_share": 0.5,
    "betas": (0.8, 0.99),
    "seed": Rng(1),
}


@pytest.mark.parametrize("name", [*CHANGES, "accumulate", "precision", "parameter 0.bias", "parameter 3.bias"])
def test_a_checkpoint_of_another_plan_is_refused_by_name(tmp_path: Path, name: str) -> None:
    runtime, plan = LocalRuntime("cpu"), toy_plan()
    with runtime.checkpointing(tmp_path):
        runtime.train(toy_plan())
    if name == "parameter 0.bias":
        plan.model[0] = nn.Linear(8, 12)  # type: ignore[operator]
    elif name == "parameter 3.bias":
        plan.model.append(nn.Linear(1, 1))  # type: ignore[operator]
    elif name in CHANGES:
        setattr(plan, "rng" if name == "seed" else name, CHANGES[name])
    runtime = LocalRuntime(
        "cpu", accumulate=2 if name == "accumulate" else 1, precision="bf16" if name == "precision" else "fp32"
    )
    with runtime.checkpointing(tmp_path), pytest.raises(InputError, match=rf"toy.safetensors of toy: {name}; got .*delete"):
        runtime.train(plan)


def test_a_plan_without_changes_continues(tmp_path: Path) -> None:
    runtime, plan = LocalRuntime("cpu"), toy_plan()
    plan.betas, plan.schedule, plan.learning_rate = (0.9, 0.98), "cosine", 1 / 3
    with runtime.checkpointing(tmp_path):
        runtime.train(plan)
        runtime.train(plan)


def test_bf16_keeps_fp32_weights_and_learns() -> None:
    plan, exact, seen = toy_plan(), toy_plan(), []
    for p in (plan, exact):
        p.model[1].p = 0.0  # type: ignore[union-attr]
    loss = plan.loss

    def watched(batch: Tensor, step: int) -> Tensor:
        seen.append(plan.model(batch).dtype)
        value = loss(batch, step)
        assert isinstance(value, Tensor)
        return value

    plan.loss = watched
    log = LocalRuntime("cpu", precision="bf16").train(plan)
    assert set(seen) == {torch.bfloat16}
    assert {p.dtype for p in plan.model.parameters()} == {torch.float32}
    assert log.losses[-1] < 0.5 * log.losses[0]
    expected = LocalRuntime("cpu").train(exact)
    assert log.losses != expected.losses and log.losses == pytest.approx(expected.losses, rel=0.05)


@pytest.mark.parametrize("setting", [("batch_positions", 768), ("batch_size", 1)])
def test_out_of_memory_names_the_setting_to_halve(setting: tuple[str, int]) -> None:
    plan = toy_plan()
    loss = plan.loss

    def hungry(batch: Tensor, step: int) -> Any:
        return torch.empty(1 << 60) if step == 5 else loss(batch, step)

    plan.loss, plan.batch_setting = hungry, setting
    name, value = setting
    with pytest.raises(
        StageError,
        match=f"toy ran out of memory at step 5 with {name}={value} .*set "
        f"{name}={max(value // 2, 1)} for this stage, with --accumulate 4",
    ):
        LocalRuntime("cpu", accumulate=2).train(plan)


def test_other_runtime_errors_are_not_taken_for_memory() -> None:
    plan = toy_plan()
    plan.batch_setting, plan.loss = ("batch_size", 8), lambda batch, step: torch.zeros(3) @ torch.zeros(4)
    with pytest.raises(RuntimeError, match="size"):
        LocalRuntime("cpu").train(plan)


def test_median_step_time_is_measured() -> None:
    log = LocalRuntime("cpu").train(toy_plan())
    assert 0 < log.step_ms * log.steps / 1e3 < 10 * log.wall_seconds
    assert log.processes == 1


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.nightly)])
@pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None and shutil.which("c++") is None,
    reason="no C++ compiler: torch.compile cannot work on a CPU",
)
def test_compiled_losses_agree(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout included: the compiled loss draws what the eager one draws.

    By day without the half minute of generated C++: the loss is traced whole, split into forward and backward, and both
    are run as they were traced.
    """
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    eager, compiled = toy_plan(epochs=2), toy_plan(epochs=2)
    expected = LocalRuntime("cpu").train(eager)
    log = LocalRuntime("cpu", compiled=True).train(compiled)
    assert log.losses == pytest.approx(expected.losses, rel=1e-5)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(weights(eager), weights(compiled), strict=True))


def test_compile_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(InputError, match=r"no C\+\+ compiler .* leave --compile out"):
        LocalRuntime("cpu", compiled=True)


@pytest.mark.gpu
def test_training_on_cuda_matches_cpu() -> None:
    cpu, gpu = toy_plan(), toy_plan()
    for plan in (cpu, gpu):
        plan.model[1].p = 0.0  # type: ignore[union-attr]
    runtime = LocalRuntime("cuda")
    gpu.model.to(runtime.device)
    batch, loss = gpu.batch, gpu.loss
    gpu.batch = lambda e, i: batch(e, i).to(runtime.device)
    gpu.validate, gpu.loss = None, loss
    LocalRuntime("cpu").train(cpu)
    runtime.train(gpu)
    for a, b in zip(weights(cpu), weights(gpu), strict=True):
        assert torch.allclose(a, b.cpu(), atol=1e-4)

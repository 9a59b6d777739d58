"""The training loop: resume is bit for bit, schedules are as written, bad losses stop with stage and step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sidbench.benchmark.checkpoints import read_checkpoint
from sidbench.benchmark.progress import Reporter
from sidbench.benchmark.runtime import LocalRuntime
from sidbench.benchmark.training import learning_rate_factor
from sidbench.datasets.foundation.errors import InputError, NonFiniteLoss
from sidbench.datasets.foundation.seeds import Rng
from sidbench.tokenizers.blocks.runtime import TrainingLog, TrainingPlan


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
        name="toy", model=model, steps_per_epoch=7, epochs=epochs, batch=lambda e, i: x[i * 8:(i + 1) * 8], loss=loss,
        rng=Rng(0), learning_rate=1e-2, after_step=after, extra_state=lambda: dict(counter),
        load_extra_state=lambda s: counter.update(s), patience=patience,
        validate=lambda: -float(((model(x) - x[:, :1]) ** 2).mean()), monitor=lambda: {"calls": counter["calls"]},
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
    reporter = Reporter()
    plan = toy_plan()
    plan.monitor, plan.monitor_every = (lambda: {"utilisation": 0.03}), 1
    LocalRuntime("cpu", reporter=reporter).train(plan)
    assert len(reporter.warnings) == 1 and "codebook collapse, 3% of the codes" in reporter.warnings[0]


def test_runtime_refuses_unknown_choices() -> None:
    with pytest.raises(InputError, match="wanted auto, cpu or cuda"):
        LocalRuntime("tpu")
    with pytest.raises(InputError, match="wanted fp32 or bf16"):
        LocalRuntime("cpu", precision="fp8")


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

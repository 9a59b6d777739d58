"""``--compile``: the loss of a training through ``torch.compile``, never half of it in silence."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from sidbench.datasets.foundation.errors import InputError, StageError
from sidbench.datasets.foundation.runtime import TrainingPlan

VERSIONS = 64  # of one function that the compiler may make before the training is refused
_COMPILERS = ("c++", "g++", "clang++")
Loss = Callable[[Any, int], Tensor | Mapping[str, Tensor]]


def check_compiler(on_cuda: bool) -> None:
    """Raise ``InputError`` where ``torch.compile`` cannot work: on a CPU it needs a C++ compiler."""
    if not on_cuda and not any(shutil.which(name) for name in _COMPILERS):
        raise InputError(
            "--compile",
            got="no C++ compiler on the path",
            wanted=f"one of {', '.join(_COMPILERS)}",
            do="install one, or leave --compile out",
        )


def compiled_loss(plan: TrainingPlan) -> Loss:
    """``plan.loss``, compiled; dropout draws the numbers that it draws without compilation.

    A loss of which the compiler would give up a part, and go on without compiling it, is refused with ``StageError``.
    """
    import torch._dynamo.config as dynamo
    import torch._inductor.config as inductor
    from torch._dynamo.exc import FailOnRecompileLimitHit

    # Batches come in a few widths and with any number of labels: one version for all sizes instead of one for each.
    fast = torch.compile(plan.loss, dynamic=True)

    def loss(batch: Any, step: int) -> Tensor | Mapping[str, Tensor]:
        try:
            with (
                dynamo.patch(fail_on_recompile_limit_hit=True, recompile_limit=VERSIONS),
                inductor.patch(fallback_random=True),
            ):
                result: Tensor | Mapping[str, Tensor] = fast(batch, step)
        except FailOnRecompileLimitHit as error:
            raise StageError(
                f"{plan.name}: torch.compile gave up after {VERSIONS} versions of one "
                "function, whose shapes or numbers keep changing. To do: leave --compile out."
            ) from error
        return result

    return loss

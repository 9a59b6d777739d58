"""The one place that knows devices: accelerate underneath, threads, precision, allocator, checkpoints and progress.

Stages receive a ``Runtime`` (contract in ``sidbench.datasets.foundation.runtime``) and never name a device themselves.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs
from torch import Tensor

from sidbench.benchmark.runtime.compiling import check_compiler
from sidbench.benchmark.runtime.process_group import PATIENCE, ProcessGroup
from sidbench.benchmark.runtime.reporter import Reporter
from sidbench.benchmark.runtime.training import Training
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.runtime import TrainingLog, TrainingPlan
from sidbench.datasets.foundation.seeds import Rng

# glibc mallopt parameters (malloc.h): keep freed blocks instead of returning them to the kernel. Fresh pages cost
# several times the arithmetic of a CPU training step, so this is worth up to 40 % of its time.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_TOP_PAD_BYTES = 64 << 20


def retain_freed_memory() -> str:
    """Ask glibc to keep freed blocks; returns the allocator's name for the record ("default" where not possible)."""
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return "default"
    libc = ctypes.CDLL(None)
    done = libc.mallopt(_M_MMAP_MAX, 0) and libc.mallopt(_M_TRIM_THRESHOLD, -1) and libc.mallopt(_M_TOP_PAD, _TOP_PAD_BYTES)
    return "glibc, freed blocks kept" if done else "default"


class LocalRuntime:
    """Runtime of one process on one device, alone or as one of a group started by ``torchrun`` or ``accelerate launch``.

    Parameters
    ----------
    device: "auto" (CUDA if there is one, else CPU), "cpu" or "cuda".
    precision: "fp32" or "bf16" (autocast of training steps).
    threads: CPU threads of torch, 0 for the default.
    reporter: where progress and warnings go; of several processes only the leader's shows them.
    accumulate: batches of one optimiser step, shared by the processes, so a multiple of their number.
    compiled: run the losses of trainings through ``torch.compile``.

    Raises ``InputError`` for choices that this machine or the number of processes does not allow.
    """

    def __init__(
        self,
        device: str = "auto",
        precision: str = "fp32",
        threads: int = 0,
        reporter: Reporter | None = None,
        accumulate: int = 1,
        compiled: bool = False,
    ) -> None:
        if device not in ("auto", "cpu", "cuda"):
            raise InputError("device", got=repr(device), wanted="auto, cpu or cuda")
        if precision not in ("fp32", "bf16"):
            raise InputError("precision", got=repr(precision), wanted="fp32 or bf16")
        if device == "cuda" and not torch.cuda.is_available():
            raise InputError("device cuda", got="no CUDA device", wanted="a machine with one", do="use --device cpu")
        use_cpu = device == "cpu" or (device == "auto" and not torch.cuda.is_available())
        self.allocator = retain_freed_memory() if use_cpu else "default"
        if threads:
            torch.set_num_threads(threads)
        # accelerate keeps process-wide state; two runtimes with different precision in one process would clash.
        AcceleratorState._reset_state(reset_partial_state=True)
        self.accelerator = Accelerator(
            cpu=use_cpu,
            mixed_precision="bf16" if precision == "bf16" else "no",
            kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
        )
        processes = self.accelerator.num_processes
        if accumulate < 1 or accumulate % processes:
            raise InputError(
                "--accumulate",
                got=f"{accumulate} with {processes} processes",
                wanted="a multiple of the number of processes, which share the batches of an optimiser step",
                do=f"add --accumulate {processes}",
            )
        if compiled:
            check_compiler(not use_cpu)
        self.process_group = ProcessGroup(self.accelerator.process_index, processes)
        self.precision, self.accumulate, self.compiled = precision, accumulate, compiled
        self.reporter = reporter if reporter is not None and self.process_group.is_main_process else Reporter()
        self.checkpoints: Path | None = None

    @property
    def device(self) -> torch.device:
        return torch.device(self.accelerator.device)

    @property
    def threads(self) -> int:
        return torch.get_num_threads()

    @property
    def device_name(self) -> str:
        """Name of the device for the record: the GPU's, or "cpu" with its core count."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return f"cpu x{os.cpu_count()}"

    @property
    def numerics(self) -> dict[str, Any]:
        """What changes the numbers of a training beside its own settings; empty with the defaults. Part of stage keys."""
        given = {
            "accumulate": (self.accumulate, 1),
            "precision": (self.precision, "fp32"),
            "compile": (self.compiled, False),
        }
        return {name: value for name, (value, default) in given.items() if value != default}

    def tensor(self, array: np.ndarray, dtype: torch.dtype | None = None) -> Tensor:
        return torch.tensor(np.asarray(array, order="C"), dtype=dtype, device=self.device)

    def generator(self, rng: Rng) -> torch.Generator:
        generator = torch.Generator(device=self.device)
        generator.manual_seed(rng.integer())
        return generator

    def train(self, plan: TrainingPlan) -> TrainingLog:
        path = None if self.checkpoints is None else self.checkpoints / f"{plan.name}.safetensors"
        return Training(
            plan,
            self.accelerator,
            self.reporter,
            path,
            process_group=self.process_group,
            accumulate=self.accumulate,
            compiled=self.compiled,
        ).run()

    def report(self, message: str) -> None:
        self.reporter.line(message)

    def warn(self, message: str) -> None:
        self.reporter.warn(message)

    @contextmanager
    def checkpointing(self, folder: Path) -> Iterator[None]:
        """Keep checkpoints of every training inside the block in ``folder``."""
        before, self.checkpoints = self.checkpoints, folder
        try:
            yield
        finally:
            self.checkpoints = before


def local_runtime(threads: int = 0) -> LocalRuntime:
    """A quiet CPU runtime without checkpoints, for tests and conformance checks."""
    return LocalRuntime(device="cpu", threads=threads)

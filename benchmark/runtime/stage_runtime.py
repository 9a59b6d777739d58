"""The runtime as one stage sees it: the machine of the command, and notes and training logs of this stage alone.

``Tokenizer.fit`` and its kin get a runtime and give back a plugin, so what their trainings did and what they warned of
needs a place beside the return value. That place lives as long as the stage.
"""

from __future__ import annotations

from sidbench.benchmark.runtime.local import LocalRuntime
from sidbench.benchmark.runtime.reporter import Notes, Reporter, Watch
from sidbench.datasets.foundation.runtime import TrainingLog, TrainingPlan


class StageRuntime(LocalRuntime):
    """A view of ``base``: device, processes and settings are shared, checkpoints, notes and logs are its own.

    shown: where progress and warnings appear. watch: hears of every validation of the trainings inside. logs: name of a
    training -> what it did, in the order of the trainings.
    """

    def __init__(self, base: LocalRuntime, shown: Reporter | None = None, watch: Watch | None = None) -> None:
        vars(self).update(vars(base))  # no second device is opened
        self.notes = Notes(base.reporter if shown is None else shown, watch)
        self.reporter = self.notes
        self.logs: dict[str, TrainingLog] = {}

    @property
    def warnings(self) -> tuple[str, ...]:
        """What trainings and plugins warned of, each once."""
        return self.notes.warnings

    def train(self, plan: TrainingPlan) -> TrainingLog:
        log = self.logs[plan.name] = super().train(plan)
        return log

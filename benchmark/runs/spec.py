"""One run as a value: shared by `bench run`, its launchers, replays and sweeps."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from sidbench.benchmark.config.presets import Preset
from sidbench.benchmark.config.run_config import NO_POLICY, Option, RunConfig, given_by


@dataclass(frozen=True)
class RunSpec:
    """Everything that decides one run, so that another process or machine can be given it.

    overrides: Hydra overrides ``group.field=value``. preset: settings between budget and overrides. data_dir: where raw
    files are looked for first. rerun: one of `RERUN`. command_line: what the user typed, for the record. varied: the
    overrides that tell the run from others of its grid, for its label; no part of what the run is.
    """

    config: RunConfig
    overrides: tuple[str, ...] = ()
    preset: Preset | None = given_by(Option("--preset", listed=True), field(default=None))
    data_dir: Path | None = given_by(Option("--data-dir"), field(default=None))
    rerun: str = given_by(Option("--rerun"), field(default="failed"))
    command_line: tuple[str, ...] = ("bench",)
    varied: tuple[str, ...] = field(default=(), compare=False)

    @property
    def identity(self) -> tuple[RunConfig, tuple[str, ...], Path | None]:
        """What tells the run from others of a grid; a preset holds a mapping, so specs themselves cannot be hashed."""
        return self.config, self.overrides, None if self.preset is None else self.preset.path

    @property
    def codes(self) -> str:
        """What makes the SIDs of the run, as in the tables: "rqkmeans +append"."""
        policy = "" if self.config.collisions == NO_POLICY else f" +{self.config.collisions}"
        return (self.config.tokenizer or "no tokenizer") + policy

    @property
    def label(self) -> str:
        """The run in one line, for progress and summaries."""
        preset = () if self.preset is None else (f"preset {self.preset.name}",)
        models = "+".join(self.config.recommenders) or "SIDs only"
        return " · ".join(
            [self.config.dataset, self.config.budget, self.codes, *preset, models, f"seed {self.config.seed}", *self.varied]
        )

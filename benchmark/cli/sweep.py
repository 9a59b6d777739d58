"""``bench sweep``: tune settings on validation data, with equal effort for every tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from sidbench.benchmark.cli.options import AsJson, DataDir

StudyName = Annotated[str, typer.Argument(help="Study, as in `bench sweep status`.")]
Storage = Annotated[str, typer.Option(help="Database URL (SQLite, PostgreSQL, MySQL); default a journal file.")]


class _RunByDefault(typer.core.TyperGroup):
    """`bench sweep OPTIONS` means `bench sweep run OPTIONS`; a first word that names a command means that command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        known = {*self.commands, "--help"}
        return super().parse_args(ctx, args if not args or args[0] in known else ["run", *args])


app = typer.Typer(
    cls=_RunByDefault,
    no_args_is_help=True,
    help="Tune settings on validation data: `bench sweep --tokenizer adasid --dataset beauty --trials 50`, which is short "
    "for `bench sweep run …`. The same command continues a sweep; several may work on one.",
)


@app.command("run")
def run(
    tokenizer: Annotated[str, typer.Option(help="Names with commas, or `all`: a study each, with equal effort.")] = "adasid",
    dataset: Annotated[str, typer.Option(help="Dataset name.")] = "synthetic",
    recommender: Annotated[str, typer.Option(help="Whose validation decides.")] = "mtp",
    trials: Annotated[int, typer.Option(min=1, help="Finished trials of each study, in total.")] = 20,
    seconds: Annotated[float, typer.Option(min=0, help="Begin no trial after these trial seconds; 0: no limit.")] = 0.0,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes; threads are divided among them.")] = 1,
    objective: Annotated[
        str, typer.Option(help="ndcg, auc, collision_rate, code_bits or seconds; several for a Pareto front.")
    ] = "ndcg",
    sampler: Annotated[str, typer.Option(help="tpe, gp, cmaes, random or grid.")] = "tpe",
    pruner: Annotated[str, typer.Option(help="median, hyperband, wilcoxon (across --seeds) or none.")] = "median",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sampler.")] = 0,
    seeds: Annotated[str, typer.Option(help="Seeds of a trial's runs, with commas; their mean counts.")] = "0",
    search: Annotated[str, typer.Option(help="Whose declared settings are searched: tokenizer, recommender.")] = "tokenizer",
    budget: Annotated[str, typer.Option(help="smoke, quick, standard or paper.")] = "quick",
    collisions: Annotated[str, typer.Option(help="What to do with items that share a SID.")] = "none",
    ties: Annotated[str, typer.Option(help="Order of equal timestamps: shuffled or file.")] = "shuffled",
    data_dir: DataDir = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads of all workers together, 0 for all cores.")] = 0,
    storage: Storage = "",
    name: Annotated[str, typer.Option(help="Name of the study; default made from what it searches.")] = "",
    as_json: AsJson = False,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="tokenizer.x=3 fixes a setting; tokenizer.x=interval(1,9), choice(…) or range(…) searches it."),
    ] = None,
) -> None:
    """Search settings by validation results; test data are never read."""
    from sidbench.benchmark.commands.sweep import sweep_command, sweep_request

    sweep_command(
        sweep_request(
            tokenizer,
            dataset,
            recommender,
            trials=trials,
            seconds=seconds,
            workers=workers,
            objective=objective,
            sampler=sampler,
            pruner=pruner,
            seed=seed,
            seeds=seeds,
            search=search,
            budget=budget,
            collisions=collisions,
            ties=ties,
            device=device,
            precision=precision,
            threads=threads,
            data_dir=data_dir,
            storage=storage,
            name=name,
            overrides=overrides or (),
        ),
        as_json,
    )


@app.command("status")
def status(
    name: Annotated[str | None, typer.Argument(help="Study; default all.")] = None,
    storage: Storage = "",
    as_json: AsJson = False,
) -> None:
    """List studies: trials by state, seconds, default and best."""
    from sidbench.benchmark.commands.sweep_results import status_command

    status_command(name, storage, as_json)


@app.command("best")
def best(name: StudyName, storage: Storage = "", as_json: AsJson = False) -> None:
    """Show a study's best settings, its default, and the improvement."""
    from sidbench.benchmark.commands.sweep_results import best_command

    best_command(name, storage, as_json)


@app.command("apply")
def apply(
    name: StudyName,
    storage: Storage = "",
    out: Annotated[Path | None, typer.Option(help="Folder of presets; default below $SIDBENCH_HOME.")] = None,
    trial: Annotated[int | None, typer.Option(min=0, help="Number of the trial; default the best one.")] = None,
) -> None:
    """Write the best settings as the preset `tuned`, for `bench run --preset tuned`."""
    from sidbench.benchmark.commands.sweep_results import apply_command

    apply_command(name, storage, out, trial)


@app.command("export")
def export(
    name: StudyName,
    out: Annotated[Path, typer.Option(help="File to write: .json or .csv.")],
    storage: Storage = "",
) -> None:
    """Write every trial of a study: state, settings, values, curves, seconds, reasons."""
    from sidbench.benchmark.commands.sweep_results import export_command

    export_command(name, storage, out)


@app.command("dashboard")
def dashboard(
    name: StudyName,
    storage: Storage = "",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 8080,
) -> None:
    """Show a study in the browser with optuna-dashboard (extra `dashboard`)."""
    from sidbench.benchmark.commands.sweep_results import dashboard_command

    dashboard_command(name, storage, port)

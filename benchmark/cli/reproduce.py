"""``bench reproduce``: a paper's tables beside ours, or a recorded run again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sidbench.benchmark.cli.options import DataDir


def reproduce(
    context: typer.Context,
    target: Annotated[str, typer.Argument(help="mmq-v2, grid, rpg, tiger, letter; a run id; a record.json.")],
    table: Annotated[str, typer.Option(help="Tables with commas, as 2,3; default all.")] = "",
    figure: Annotated[str, typer.Option(help="Figures with commas, as 3,5; default all.")] = "",
    dataset: Annotated[str, typer.Option(help="Dataset of our runs.")] = "beauty",
    budget: Annotated[str, typer.Option(help="smoke, quick, standard or paper.")] = "quick",
    seed: Annotated[str, typer.Option(help="Seeds to run, with commas.")] = "0",
    recommender: Annotated[str, typer.Option(help="In place of mtp,ppnet where the paper leaves it open.")] = "",
    ties: Annotated[str, typer.Option(help="shuffled or file; default as the paper has it.")] = "",
    run: Annotated[bool | None, typer.Option("--run/--no-run", help="Run what is missing, or only print.")] = None,
    records: Annotated[Path | None, typer.Option(help="Print from this folder of records; runs nothing.")] = None,
    key: Annotated[str, typer.Option(help="Beginning of the comparability key to show.")] = "",
    data_dir: DataDir = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=0, help="CPU threads; default all, or those of the record.")] = None,
    form: Annotated[str, typer.Option("--format", help="md, csv or json.")] = "md",
    out: Annotated[Path | None, typer.Option(help="Folder for the text and the figures; default standard output.")] = None,
    tolerance: Annotated[float, typer.Option(min=0, help="Largest difference of a repeated run.")] = 1e-6,
    cached: Annotated[bool, typer.Option("--cached", help="A repeated run may read finished stages.")] = False,
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings of every run: features.text=minilm …")] = None,
) -> None:
    """Print a paper's tables beside ours, running what is missing; or repeat a recorded run and compare."""
    from sidbench.benchmark.commands.reproduce import ReproduceRequest, reproduce_command

    reproduce_command(
        ReproduceRequest(
            target,
            table,
            figure,
            dataset,
            budget,
            seed,
            recommender,
            ties,
            run,
            records,
            key,
            data_dir,
            device,
            threads,
            form,
            out,
            tolerance,
            cached,
            tuple(overrides or ()),
            bool(context.find_root().params.get("debug")),
        )
    )

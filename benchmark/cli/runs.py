"""``bench runs``: finished runs."""

from __future__ import annotations

from typing import Annotated

import typer

from sidbench.benchmark.cli.options import AsJson

app = typer.Typer(no_args_is_help=True, help="List, show and remove finished runs.")


@app.command("ls")
def runs_ls(
    dataset: Annotated[str, typer.Option(help="Only runs on this dataset.")] = "",
    as_json: AsJson = False,
) -> None:
    """List finished runs with their headline metric and size."""
    from sidbench.benchmark.commands.runs import ls_command

    ls_command(dataset, as_json)


@app.command("show")
def runs_show(
    run: Annotated[str, typer.Argument(help="Run id, or the beginning of one.")],
    as_json: AsJson = False,
) -> None:
    """Show one record: settings, metrics with intervals, costs, warnings, files."""
    from sidbench.benchmark.commands.runs import show_command

    show_command(run, as_json)


@app.command("rm")
def runs_rm(
    runs: Annotated[list[str], typer.Argument(help="Run ids, or the beginnings of them.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove finished runs; cached stages stay until `bench cache gc --unused`."""
    from sidbench.benchmark.commands.runs import rm_command

    rm_command(runs, yes, as_json)

"""``bench leaderboard``: tables of finished runs, and published boards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sidbench.benchmark.cli.options import DataDir


def leaderboard(
    dataset: Annotated[str | None, typer.Option(help="Only this dataset.")] = None,
    formats: Annotated[
        str | None, typer.Option("--format", help="md, html, latex, csv or json; several with commas, or `all`. Default md.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File, or folder for several formats; default standard output.")] = None,
    texts: Annotated[str, typer.Option(help="Item texts on the HTML page: auto, yes or no.")] = "auto",
    data_dir: DataDir = None,
    check: Annotated[Path | None, typer.Option(help="Check a published board, or all of a folder.")] = None,
    freeze: Annotated[Path | None, typer.Option(help="Freeze a published board under --version.")] = None,
    version: Annotated[str | None, typer.Option(help="Version of the frozen board, such as 1.0.")] = None,
    publish: Annotated[str | None, typer.Option(help="Publish a board of this name in the folder --out.")] = None,
    source: Annotated[Path | None, typer.Option("--from", help="Home or runs to publish; default this home.")] = None,
    title: Annotated[str | None, typer.Option(help="Title of the published board.")] = None,
    budget: Annotated[str | None, typer.Option(help="Publish runs of these budgets only, with commas.")] = None,
) -> None:
    """Render the tables of finished runs, publish them with their records, freeze a published board, or check it."""
    from sidbench.benchmark.commands import boards
    from sidbench.benchmark.commands import leaderboard as body

    body.refuse_mixed(
        check=check,
        freeze=freeze,
        version=version,
        publish=publish,
        source=source,
        title=title,
        budget=budget,
        dataset=dataset,
        formats=formats,
        out=out,
        data_dir=data_dir,
    )
    if check is not None:
        boards.check_command(check)
    elif freeze is not None:
        boards.freeze_command(freeze, version)
    elif publish is not None:
        body.publish_command(publish, source, out, dataset=dataset, formats=formats, title=title, budgets=budget)
    else:
        body.leaderboard_command(dataset, formats or "md", out, texts=texts, data_dir=data_dir)

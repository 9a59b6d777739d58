"""``bench data``: raw files into data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sidbench.benchmark.cli.options import DataDir

app = typer.Typer(no_args_is_help=True, help="Prepare, check and import data sets.")


@app.command("prepare")
def data_prepare(name: Annotated[str, typer.Argument(help="Dataset name.")], data_dir: DataDir = None) -> None:
    """Find or download the raw files of a dataset and parse them once."""
    from sidbench.benchmark.commands.data import prepare

    prepare(name, data_dir)


@app.command("check")
def data_check(name: Annotated[str, typer.Argument(help="Dataset name.")], data_dir: DataDir = None) -> None:
    """Check the raw files and the parsed dataset against what is published of it."""
    from sidbench.benchmark.commands.data import check

    check(name, data_dir)


@app.command("import")
def data_import(
    interactions: Annotated[Path, typer.Option(help="Table of interactions: csv, tsv, jsonl or parquet.")],
    name: Annotated[str, typer.Option(help="Name of the new dataset.")],
    items: Annotated[Path | None, typer.Option(help="Table of items.")] = None,
    embeddings: Annotated[list[str] | None, typer.Option(help="modality=file; repeat for more.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write to.")] = None,
    user_column: Annotated[str | None, typer.Option(help="Column of the user key, if not `user`.")] = None,
    item_column: Annotated[str | None, typer.Option(help="Column of the item key, if not `item`.")] = None,
    time_column: Annotated[str | None, typer.Option(help="Column of the time, if not `timestamp`.")] = None,
    rating_column: Annotated[str | None, typer.Option(help="Column of the rating, if not `rating`.")] = None,
    column: Annotated[list[str] | None, typer.Option(help="role=column for others, as items.title=name.")] = None,
    time_unit: Annotated[str, typer.Option(help="Unit of numeric times: s or ms.")] = "s",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier import.")] = False,
) -> None:
    """Turn your own tables into a dataset."""
    from sidbench.benchmark.commands.data import import_custom
    from sidbench.benchmark.runs.request import ImportRequest, named_values

    usual = {"user": user_column, "item": item_column, "timestamp": time_column, "rating": rating_column}
    chosen = [*(f"{role}={name}" for role, name in usual.items() if name is not None), *(column or ())]
    files = tuple((m, Path(p).expanduser()) for m, p in named_values(embeddings or (), "--embeddings"))
    import_custom(
        ImportRequest(name, interactions, items, files, out, named_values(chosen, "--column"), time_unit, overwrite)
    )

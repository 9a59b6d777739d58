"""``bench sids``: tables of semantic IDs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sidbench.benchmark.cli.options import AsJson, DataDir

app = typer.Typer(no_args_is_help=True, help="Inspect, export, import and compare tables of semantic IDs.")


@app.command("inspect")
def sids_inspect(
    source: Annotated[str, typer.Argument(help="Run id (or the beginning of one), or a file with SIDs.")],
    item: Annotated[str | None, typer.Option(help="Raw key of one item.")] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show what a SID table holds, or one item of it."""
    from sidbench.benchmark.commands.sids import inspect_command

    inspect_command(source, item, data_dir, as_json)


@app.command("export")
def sids_export(
    source: Annotated[str, typer.Argument(help="Run id (or the beginning of one), or a file with SIDs.")],
    form: Annotated[str, typer.Option("--format", help="json, jsonl, csv, parquet, npz or letter.")],
    out: Annotated[Path, typer.Option(help="File to write.")],
) -> None:
    """Write the SIDs of a run in another format."""
    from sidbench.benchmark.commands.sids import export_command

    export_command(source, form, out)


@app.command("import")
def sids_import(
    file: Annotated[Path, typer.Argument(help="SID table made elsewhere.")],
    dataset: Annotated[str, typer.Option(help="Dataset whose items it encodes.")],
    out: Annotated[Path, typer.Option(help="Parquet file to write.")],
    form: Annotated[str, typer.Option("--format", help="json, jsonl, csv, tsv, parquet, npz, letter, torch.")] = "auto",
    layout: Annotated[str, typer.Option(help="Axes of a saved tensor: auto, items_first or positions_first.")] = "auto",
    keys: Annotated[str, typer.Option(help="What the keys are: auto, item or row.")] = "auto",
    missing: Annotated[str, typer.Option(help="Items without a row: refuse, or share one SID.")] = "refuse",
    extra: Annotated[str, typer.Option(help="Rows of other items: refuse or keep.")] = "refuse",
    ordered: Annotated[bool, typer.Option("--ordered/--unordered", help="Whether positions are residual.")] = True,
    sizes: Annotated[str, typer.Option(help="Codebook sizes with commas; default as the file says.")] = "",
    budget: Annotated[str, typer.Option(help="Budget of the runs: some datasets are smaller at smoke.")] = "quick",
    data_dir: DataDir = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings: dataset.path=FOLDER …")] = None,
) -> None:
    """Check a SID table against a dataset and turn it into one that `bench run --tokenizer imported` reads."""
    from sidbench.benchmark.commands.sids import import_command

    import_command(
        file,
        dataset,
        out,
        form=form,
        layout=layout,
        keys=keys,
        missing=missing,
        extra=extra,
        ordered=ordered,
        sizes=sizes,
        budget=budget,
        data_dir=data_dir,
        overrides=overrides or (),
    )


@app.command("diff")
def sids_diff(
    left: Annotated[str, typer.Argument(help="Run id (or the beginning of one), or a file with SIDs.")],
    right: Annotated[str, typer.Argument(help="The same, for the table to compare with.")],
    as_json: AsJson = False,
) -> None:
    """Compare two SID tables: items moved, churn, agreement of clusters, collisions."""
    from sidbench.benchmark.commands.sids import diff_command

    diff_command(left, right, as_json)

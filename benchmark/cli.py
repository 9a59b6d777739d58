"""The ``bench`` command: options only. Each command's body is a module of ``benchmark/commands``, imported when run.

Exit codes: 0 done, 1 a run failed, 2 bad usage or input, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import Exit, TyperException

from sidbench.datasets.foundation.errors import SidbenchError

EXIT_INTERRUPTED = 130

app = typer.Typer(
    name="bench", add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False,
    help="The benchmark suite for semantic-ID tokenizers. Start with `bench run --dataset synthetic --budget quick`.")
data_app = typer.Typer(no_args_is_help=True, help="Prepare, check and import data sets.")
app.add_typer(data_app, name="data")
sids_app = typer.Typer(no_args_is_help=True, help="Inspect, export, import and compare tables of semantic IDs.")
app.add_typer(sids_app, name="sids")
plugin_app = typer.Typer(no_args_is_help=True, help="Start, check and document plugins.")
app.add_typer(plugin_app, name="plugin")

DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Folder with raw files; default $SIDBENCH_DATA.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        sys.stdout.write(f"sidbench {version('sidbench')}\n")
        raise Exit(0)


@app.callback()
def common(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Options before the command."""


@app.command("run")
def run(
    context: typer.Context,
    tokenizer: Annotated[str, typer.Option(help="Names with commas, `all`, or `none` for baselines.")] = "adasid",
    dataset: Annotated[str, typer.Option(help="Dataset name.")] = "synthetic",
    collisions: Annotated[str, typer.Option(help="What to do with items that share a SID.")] = "none",
    recommender: Annotated[str, typer.Option(help="Names with commas, `all`, or `none`: SIDs only.")] = "mtp,ppnet",
    seed: Annotated[str, typer.Option(help="Seeds with commas.")] = "0",
    budget: Annotated[str, typer.Option(help="smoke, quick, standard or paper.")] = "quick",
    ties: Annotated[str, typer.Option(help="Order of equal timestamps: shuffled or file.")] = "shuffled",
    data_dir: DataDir = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads, 0 for all cores.")] = 0,
    accumulate: Annotated[int, typer.Option(min=1, help="Batches of one optimiser step; see docs/training.md.")] = 1,
    compiled: Annotated[bool, typer.Option("--compile", help="Compile losses (torch.compile).")] = False,
    as_json: AsJson = False,
    preset: Annotated[str, typer.Option(help="Named settings of each tokenizer, as `paper`; default none.")] = "",
    rerun: Annotated[str, typer.Option(help="What to repeat: never, failed (default) or always.")] = "failed",
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings: tokenizer.codebook_size=256 …")] = None,
) -> None:
    """Tokenize, train, evaluate; one record per (tokenizer, seed)."""
    from sidbench.benchmark.commands.request import RunRequest

    request = RunRequest.from_options(
        tokenizer, dataset, recommender, seed, budget=budget, ties=ties, data_dir=data_dir, device=device,
        precision=precision, threads=threads, json=as_json, rerun=rerun, overrides=overrides or (),
        debug=bool(context.find_root().params.get("debug")), collisions=collisions,
        preset=preset, accumulate=accumulate, compile=compiled)
    from sidbench.benchmark.commands.run import run_command

    run_command(request)


@app.command("list")
def list_plugins(as_json: AsJson = False) -> None:
    """List tokenizers, recommenders, datasets and collision policies."""
    from sidbench.benchmark.commands.list import list_command

    list_command(as_json)


@app.command("show")
def show(
    kind: Annotated[str, typer.Argument(help="tokenizer, recommender, dataset or collisions.")],
    name: Annotated[str, typer.Argument(help="Plugin name.")],
    as_json: AsJson = False,
) -> None:
    """Describe one plugin: metadata, settings, budgets."""
    from sidbench.benchmark.commands.show import show_command

    show_command(kind, name, as_json)


@app.command("leaderboard")
def leaderboard(
    dataset: Annotated[str | None, typer.Option(help="Only this dataset.")] = None,
    form: Annotated[str, typer.Option("--format", help="md, csv or json.")] = "md",
    out: Annotated[Path | None, typer.Option(help="File to write; default standard output.")] = None,
) -> None:
    """Render the tables of all finished runs."""
    from sidbench.benchmark.commands.leaderboard import leaderboard_command

    leaderboard_command(dataset, form, out)


@data_app.command("prepare")
def data_prepare(name: Annotated[str, typer.Argument(help="Dataset name.")], data_dir: DataDir = None) -> None:
    """Find or download the raw files of a dataset and parse them once."""
    from sidbench.benchmark.commands.data import prepare

    prepare(name, data_dir)


@data_app.command("check")
def data_check(name: Annotated[str, typer.Argument(help="Dataset name.")], data_dir: DataDir = None) -> None:
    """Check the raw files and the parsed dataset against what is published of it."""
    from sidbench.benchmark.commands.data import check

    check(name, data_dir)


@data_app.command("import")
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
    from sidbench.benchmark.commands.request import ImportRequest, named_values

    usual = {"user": user_column, "item": item_column, "timestamp": time_column, "rating": rating_column}
    chosen = [*(f"{role}={name}" for role, name in usual.items() if name is not None), *(column or ())]
    files = tuple((m, Path(p).expanduser()) for m, p in named_values(embeddings or (), "--embeddings"))
    import_custom(ImportRequest(name, interactions, items, files, out, named_values(chosen, "--column"), time_unit,
                                overwrite))


@plugin_app.command("new")
def plugin_new(
    name: Annotated[str, typer.Argument(help="Name of the tokenizer, for example my_tokenizer.")],
    out: Annotated[Path, typer.Option(help="Folder to write the package folder into.")] = Path("."),
) -> None:
    """Write a small installable package with a first working tokenizer."""
    from sidbench.benchmark.commands.plugin import new_command

    new_command(name, out)


@plugin_app.command("check")
def plugin_check(
    target: Annotated[str, typer.Argument(help="Installed name, pkg.module:Class or path/to/file.py:Class.")],
    as_json: AsJson = False,
) -> None:
    """Run every conformance check on one tokenizer or recommender."""
    from sidbench.benchmark.commands.plugin import check_command

    check_command(target, as_json)


@plugin_app.command("docs")
def plugin_docs(
    out: Annotated[Path, typer.Option(help="Folder to hold tokenizers/ and recommenders/.")] = Path("docs"),
    check: Annotated[bool, typer.Option("--check", help="Write nothing; fail when a page is not up to date.")] = False,
) -> None:
    """Write one page per tokenizer and recommender of the suite from its metadata, docstring and settings."""
    from sidbench.benchmark.commands.plugin import docs_command

    docs_command(out, check)


@sids_app.command("inspect")
def sids_inspect(
    source: Annotated[str, typer.Argument(help="Run id (or the beginning of one), or a file with SIDs.")],
    item: Annotated[str | None, typer.Option(help="Raw key of one item.")] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show what a SID table holds, or one item of it."""
    from sidbench.benchmark.commands.sids import inspect_command

    inspect_command(source, item, data_dir, as_json)


@sids_app.command("export")
def sids_export(
    source: Annotated[str, typer.Argument(help="Run id (or the beginning of one), or a file with SIDs.")],
    form: Annotated[str, typer.Option("--format", help="json, jsonl, csv, parquet, npz or letter.")],
    out: Annotated[Path, typer.Option(help="File to write.")],
) -> None:
    """Write the SIDs of a run in another format."""
    from sidbench.benchmark.commands.sids import export_command

    export_command(source, form, out)


@sids_app.command("import")
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

    import_command(file, dataset, out, form=form, layout=layout, keys=keys, missing=missing, extra=extra, ordered=ordered,
                   sizes=sizes, budget=budget, data_dir=data_dir, overrides=overrides or ())


@sids_app.command("diff")
def sids_diff(
    left: Annotated[str, typer.Argument(help="Run id (or the beginning of one), or a file with SIDs.")],
    right: Annotated[str, typer.Argument(help="The same, for the table to compare with.")],
    as_json: AsJson = False,
) -> None:
    """Compare two SID tables: items moved, churn, agreement of clusters, collisions."""
    from sidbench.benchmark.commands.sids import diff_command

    diff_command(left, right, as_json)


def _quiet_pipe() -> None:
    """The reader of our output went away: point stdout at nothing, so that the interpreter's last flush is quiet."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _leads() -> bool:
    """Whether this is the process that prints, of those that torchrun or accelerate started."""
    return os.environ.get("RANK", "0") == "0"


def invoke(arguments: list[str]) -> int:
    """Run one command and return its exit code; errors meant for users become one paragraph on stderr."""
    command = typer.main.get_command(app)
    debug = False
    try:
        with command.make_context("bench", arguments) as context:
            debug = bool(context.params.get("debug"))
            command.invoke(context)
        sys.stdout.flush()
    except Exit as done:
        return done.exit_code
    except TyperException as error:
        if _leads():
            sys.stderr.write(f"{error.format_message().rstrip()}\n")
        return getattr(error, "exit_code", 2)
    except SidbenchError as error:
        if debug or _leads():
            sys.stderr.write(traceback.format_exc() if debug else f"error: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted; the same command resumes\n")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _quiet_pipe()
    return 0


def main() -> None:
    """Entry point of ``bench``."""
    sys.exit(invoke(sys.argv[1:]))


if __name__ == "__main__":
    main()

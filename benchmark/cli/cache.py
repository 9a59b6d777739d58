"""``bench cache``: cached stages."""

from __future__ import annotations

from typing import Annotated

import typer

from sidbench.benchmark.cli.options import AsJson

app = typer.Typer(no_args_is_help=True, help="List, measure, clean and verify cached stages.")


@app.command("ls")
def cache_ls(
    stage: Annotated[str, typer.Option(help="Only this stage, as `tokenizer` or `retrieval.fit`.")] = "",
    as_json: AsJson = False,
) -> None:
    """List cached stages: key, size, last use, and the runs that need them."""
    from sidbench.benchmark.commands.cache import ls_command

    ls_command(stage, as_json)


@app.command("du")
def cache_du(as_json: AsJson = False) -> None:
    """Sum up sizes per stage, and what else lies in the cache."""
    from sidbench.benchmark.commands.cache import du_command

    du_command(as_json)


@app.command("gc")
def cache_gc(
    older_than: Annotated[
        str, typer.Option(help="Least age of checkpoints, unfinished runs and unused stages that go: 30m, 12h, 7d, 2w.")
    ] = "7d",
    unused: Annotated[bool, typer.Option("--unused", help="Also stages that no record needs.")] = False,
    max_size: Annotated[str, typer.Option(help="Evict least recently used stages down to this size: 10GB.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Let --max-size evict what records need.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go; remove nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove damaged entries, what killed commands left, and as asked stages that no record needs."""
    from sidbench.benchmark.commands.cache import gc_command

    gc_command(older_than, unused, max_size, force, dry_run, as_json)


@app.command("verify")
def cache_verify(
    repair: Annotated[bool, typer.Option("--repair", help="Set damaged entries aside for the next run to redo.")] = False,
    as_json: AsJson = False,
) -> None:
    """Read every cached stage and compare it with its checksums; exit code 1 when one is damaged."""
    from sidbench.benchmark.commands.cache import verify_command

    verify_command(repair, as_json)

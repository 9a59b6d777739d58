"""``bench plugin``: plugins of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sidbench.benchmark.cli.options import AsJson

app = typer.Typer(no_args_is_help=True, help="Start, check and document plugins.")


@app.command("new")
def plugin_new(
    name: Annotated[str, typer.Argument(help="Name of the tokenizer, for example my_tokenizer.")],
    out: Annotated[Path, typer.Option(help="Folder to write the package folder into.")] = Path("."),
) -> None:
    """Write a small installable package with a first working tokenizer."""
    from sidbench.benchmark.commands.plugin import new_command

    new_command(name, out)


@app.command("check")
def plugin_check(
    target: Annotated[str, typer.Argument(help="Installed name, pkg.module:Class or path/to/file.py:Class.")],
    as_json: AsJson = False,
) -> None:
    """Run every conformance check on one tokenizer, recommender, data set or collision policy."""
    from sidbench.benchmark.commands.plugin import check_command

    check_command(target, as_json)


@app.command("docs")
def plugin_docs(
    out: Annotated[Path, typer.Option(help="Folder to hold tokenizers/ and recommenders/.")] = Path("docs"),
    check: Annotated[bool, typer.Option("--check", help="Write nothing; fail when a page is not up to date.")] = False,
) -> None:
    """Write one page per tokenizer and recommender of the suite from its metadata, docstring and settings."""
    from sidbench.benchmark.commands.plugin import docs_command

    docs_command(out, check)


@app.command("lock")
def plugin_lock(
    check: Annotated[bool, typer.Option("--check", help="Write nothing; fail when the lock does not hold.")] = False,
    same_numbers: Annotated[
        str, typer.Option(help="Why code that changed under an unchanged version gives the numbers it gave.")
    ] = "",
) -> None:
    """Renew the lock file of the code: raise a plugin's `version` first where its numbers change."""
    from sidbench.benchmark.commands.plugin_lock import lock_command

    lock_command(check, same_numbers)

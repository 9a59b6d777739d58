"""The ``bench`` command: options only. Families of commands stand in ``benchmark/cli``; each command's
body is a module of ``benchmark/commands``, imported when run.

Exit codes: 0 done, 1 a run failed, 2 bad usage or input, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated

import typer
from typer.exceptions import Exit, TyperException

from sidbench.benchmark.cli import cache, compare, data, leaderboard, plugin, reproduce, runs, sids, sweep
from sidbench.benchmark.cli.options import AsJson, DataDir
from sidbench.datasets.foundation.errors import SidbenchError

EXIT_INTERRUPTED = 130

app = typer.Typer(
    name="bench",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="The benchmark suite for semantic-ID tokenizers. Start with `bench run --dataset synthetic --budget quick`.",
)
app.add_typer(data.app, name="data")
app.add_typer(sids.app, name="sids")
app.add_typer(plugin.app, name="plugin")
app.command("leaderboard")(leaderboard.leaderboard)
app.command("compare")(compare.compare)
app.command("reproduce")(reproduce.reproduce)
app.add_typer(sweep.app, name="sweep")
app.add_typer(cache.app, name="cache")
app.add_typer(runs.app, name="runs")


def _version(wanted: bool) -> None:
    if wanted:
        import sidbench

        sys.stdout.write(f"sidbench {sidbench.__version__}\n")
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
    dataset: Annotated[str, typer.Option(help="Names with commas.")] = "synthetic",
    collisions: Annotated[str, typer.Option(help="What to do with items that share a SID; names with commas.")] = "none",
    recommender: Annotated[str, typer.Option(help="Names with commas, `all`, or `none`: SIDs only.")] = "mtp,ppnet",
    seed: Annotated[str, typer.Option(help="Seeds with commas.")] = "0",
    budget: Annotated[str, typer.Option(help="smoke, quick, standard, paper; with commas.")] = "quick",
    ties: Annotated[str, typer.Option(help="Order of equal timestamps: shuffled, file.")] = "shuffled",
    data_dir: DataDir = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads, 0 for all cores.")] = 0,
    accumulate: Annotated[int, typer.Option(min=1, help="Batches of one optimiser step; see docs/training.md.")] = 1,
    compile: Annotated[bool, typer.Option("--compile", help="Compile losses (torch.compile).")] = False,
    as_json: AsJson = False,
    preset: Annotated[str, typer.Option(help="Named settings of each tokenizer, as `paper`; default none.")] = "",
    rerun: Annotated[str, typer.Option(help="What to repeat: never, failed (default) or always.")] = "failed",
    launcher: Annotated[str, typer.Option(help="inline, local (processes), ray or slurm; docs/grids.md.")] = "inline",
    jobs: Annotated[int, typer.Option(min=0, help="Runs at a time; local 2, ray and slurm what fits.")] = 0,
    memory_gb: Annotated[float, typer.Option(min=0, help="Memory that ray or slurm sets aside for a run.")] = 0.0,
    ray_address: Annotated[str, typer.Option(help="Running Ray cluster; default: start one here.")] = "",
    slurm: Annotated[list[str] | None, typer.Option(help="name=value for Slurm, as partition=gpu; repeat.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be run.")] = False,
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings: tokenizer.codebook_size=64,256 …")] = None,
) -> None:
    """Tokenize, train, evaluate; one record per combination of the lists."""
    given = dict(locals())  # option -> value, as declared above
    from sidbench.benchmark.config.run_config import SHARED_OPTIONS
    from sidbench.benchmark.runs.request import LaunchOptions, RunRequest, named_values

    request = RunRequest.from_options(
        tokenizer,
        dataset,
        recommender,
        seed,
        budget=budget,
        ties=ties,
        collisions=collisions,
        overrides=overrides or (),
        preset=preset,
        data_dir=data_dir,
        rerun=rerun,
        common={name: given[name] for name in SHARED_OPTIONS},
        launch=LaunchOptions(launcher, jobs, memory_gb, ray_address, named_values(slurm or (), "--slurm", "partition=gpu")),
        debug=bool(context.find_root().params.get("debug")),
        json=as_json,
        dry_run=dry_run,
    )
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

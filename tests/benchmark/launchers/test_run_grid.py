"""From a request to its runs: every combination once, in an order that shares stages; and back to a command."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidbench.benchmark.cli import app as cli
from sidbench.benchmark.config.presets import Preset, find_preset
from sidbench.benchmark.config.run_config import RunConfig
from sidbench.benchmark.plugins.registry import find
from sidbench.benchmark.runs.command_line import arguments, repeat_command
from sidbench.benchmark.runs.grid import MAX_RUNS, expand, overrides_grid, spread
from sidbench.benchmark.runs.request import LAUNCHERS, NO_POLICY, LaunchOptions, RunRequest
from sidbench.benchmark.runs.spec import RunSpec
from sidbench.datasets.foundation.errors import InputError

TOKENIZERS = ("opq", "rqvae", "random")


def preset(tokenizer: str) -> Preset:
    found = find_preset(find("tokenizer", tokenizer), "beauty", "paper")
    assert found is not None
    return found


def request(words: Sequence[str]) -> RunRequest:
    """What the command line makes of ``bench run ...``; nothing is run."""
    seen: list[RunRequest] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sidbench.benchmark.commands.run.run_command", seen.append)
        assert cli.invoke(list(words)) == 0
    return seen[0]


def some(names: Sequence[str], least: int = 1) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(names), min_size=least, max_size=len(names), unique=True)


@given(
    tokenizers=some(TOKENIZERS),
    datasets=some(["synthetic", "beauty", "ml-100k"]),
    seeds=some(["0", "1", "7"]),
    budgets=some(["smoke", "quick"]),
    policies=some(["none", "append"]),
    sizes=some(["8", "16", "32"]),
)
@settings(max_examples=10, deadline=None)
def test_a_grid_is_the_product_of_its_lists_each_run_once(
    tokenizers: list[str], datasets: list[str], seeds: list[str], budgets: list[str], policies: list[str], sizes: list[str]
) -> None:
    grid = expand(
        request(
            [
                "run",
                "--tokenizer",
                ",".join([*tokenizers, tokenizers[0]]),
                "--dataset",
                ",".join(datasets),
                "--seed",
                ",".join(seeds),
                "--budget",
                ",".join(budgets),
                "--collisions",
                ",".join(policies),
                f"tokenizer.codebook_size={','.join(sizes)}",
            ]
        )
    )
    cells = {
        (s.config.tokenizer, s.config.dataset, s.config.seed, s.config.budget, s.config.collisions, s.overrides)
        for s in grid.specs
    }
    assert len(cells) == len(grid.specs) == math.prod(map(len, (tokenizers, datasets, seeds, budgets, policies, sizes)))
    assert grid.repeats == 0
    assert {s.overrides[0].partition("=")[2] for s in grid.specs} == set(sizes)
    ordered = spread(grid.specs)
    assert sorted(map(id, ordered)) == sorted(map(id, grid.specs))


def test_settings_expand_in_hydras_grammar() -> None:
    assert overrides_grid([]) == [()]
    assert overrides_grid(["a.b=1", "c.d=x,y", "e.f=range(1,3)"]) == [
        ("a.b=1", "c.d=x", "e.f=1"),
        ("a.b=1", "c.d=x", "e.f=2"),
        ("a.b=1", "c.d=y", "e.f=1"),
        ("a.b=1", "c.d=y", "e.f=2"),
    ]
    assert overrides_grid(["a.b=choice([1,2],[3])"]) == [("a.b=[1,2]",), ("a.b=[3]",)]
    assert overrides_grid(["a.b=[1,2]"]) == [("a.b=[1,2]",)]  # a list is one value
    assert overrides_grid(["a.b='x,y'"]) == [("a.b='x,y'",)]
    assert overrides_grid(["a.b=range(0.1,0.4,0.1)"]) == [("a.b=0.1",), ("a.b=0.2",), ("a.b=0.3",)]
    assert overrides_grid(["a.b=range(5,0,-2)"]) == [("a.b=5",), ("a.b=3",), ("a.b=1",)]
    assert overrides_grid(["a.b=range(1e-5,3e-5,1e-5)"]) == [("a.b=0.00001",), ("a.b=0.00002",)]
    assert overrides_grid(["a.b=1,1,2"]) == [("a.b=1",), ("a.b=2",)]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["tokenizer.alpha=interval(5,20)"], "search an interval with `bench sweep`"),
        (["tokenizer.alpha=glob(*)"], "values that can be listed"),
        (["tokenizer.alpha=shuffle(1,2)"], "leave shuffle"),
        (["tokenizer.alpha=range(3,1)"], "without values"),
        (["tokenizer.alpha=range(1,3,0)"], "not zero"),
        (["tokenizer.alpha=range(0,inf,0.5)"], "range"),
        (["tokenizer.alpha=1", "tokenizer.alpha=2"], "given twice"),
        (["tokenizer.alpha=(("], "cannot read the setting"),
    ],
)
def test_what_cannot_be_listed_is_refused(texts: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        overrides_grid(texts)


def test_a_grid_has_an_end() -> None:
    wide = RunRequest(("opq",), ("synthetic",), ("mtp",), overrides=("tokenizer.steps=range(1,1e9,1)",))
    with pytest.raises(InputError, match=f"more than {MAX_RUNS:,}"):
        expand(wide)
    with pytest.raises(InputError, match="more than"):
        expand(replace(wide, overrides=("tokenizer.steps=range(0,100)", "tokenizer.alpha=range(0,101)")))


def test_recommenders_of_one_task_get_a_run_each_and_baselines_run_once() -> None:
    two = expand(request(["run", "--tokenizer", "opq", "--recommender", "mtp,tiger"]))
    assert [s.config.recommenders for s in two.specs] == [("mtp",), ("tiger",)]
    mixed = expand(
        request(
            [
                "run",
                "--tokenizer",
                "opq,rqvae",
                "--recommender",
                "mtp,sasrec",
                "--collisions",
                "none,append",
                "--preset",
                "none,paper",
                "--dataset",
                "beauty",
            ]
        )
    )
    baselines = [s for s in mixed.specs if s.config.tokenizer is None]
    assert len(baselines) == 1 and baselines[0].config.recommenders == ("sasrec",)
    assert baselines[0].config.collisions == NO_POLICY and baselines[0].preset is None
    assert len(mixed.specs) == 1 + 2 * 2 * 2 and mixed.repeats == 3
    assert {(s.config.tokenizer, s.preset.name if s.preset else None) for s in mixed.specs} == {
        ("opq", None),
        ("opq", "paper"),
        ("rqvae", None),
        ("rqvae", "paper"),
        (None, None),
    }
    with pytest.raises(InputError, match="run of its own"):
        expand(request(["run", "--tokenizer", "opq", "--recommender", "ppnet,sasrec"]))


def test_workers_meet_other_stages_first() -> None:
    """Neighbours in the queue share a stage only when nothing else is left."""
    grid = expand(
        request(
            ["run", "--tokenizer", "opq,rqvae", "--recommender", "mtp,tiger", "--dataset", "synthetic,beauty", "--seed", "0"]
        )
    )
    order = [(s.config.dataset, s.config.tokenizer, s.config.recommenders[0]) for s in spread(grid.specs)]
    assert order == [
        ("synthetic", "opq", "mtp"),
        ("beauty", "opq", "mtp"),  # one for each set of features
        ("synthetic", "rqvae", "mtp"),
        ("beauty", "rqvae", "mtp"),  # one for each other tokenizer
        ("synthetic", "opq", "tiger"),
        ("synthetic", "rqvae", "tiger"),  # these reuse fitted tokenizers
        ("beauty", "opq", "tiger"),
        ("beauty", "rqvae", "tiger"),
    ]


overrides = st.lists(
    st.sampled_from(
        [
            "tokenizer.codebook_size=64",
            "tokenizer.note='a, b'",
            "retriever.layers=[1,2]",
            "dataset.path=/a b/c",
            "run.cutoffs=[5,10]",
            'tokenizer.x="it\'s"',
        ]
    ),
    unique=True,
)
configs = st.builds(
    RunConfig,
    dataset=st.sampled_from(["synthetic", "beauty"]),
    tokenizer=st.sampled_from(["opq", "rqvae"]),
    recommenders=st.sampled_from([(), ("mtp",), ("mtp", "ppnet")]),
    seed=st.integers(0, 2**31),
    budget=st.sampled_from(["smoke", "paper"]),
    ties=st.sampled_from(["shuffled", "file"]),
    device=st.sampled_from(["auto", "cpu", "cuda"]),
    precision=st.sampled_from(["fp32", "bf16"]),
    threads=st.integers(0, 64),
    collisions=st.sampled_from(["none", "append", "hash_slot"]),
    accumulate=st.integers(1, 8),
    compile=st.booleans(),
)


@given(
    config=configs,
    overrides=overrides,
    with_preset=st.booleans(),
    folder=st.sampled_from([None, "/data", "rel/a b"]),
    rerun=st.sampled_from(["never", "failed", "always"]),
)
@settings(max_examples=25, deadline=None)
def test_the_words_of_a_run_mean_that_run(
    config: RunConfig, overrides: list[str], with_preset: bool, folder: str | None, rerun: str
) -> None:
    if config.tokenizer is not None and with_preset:
        config = replace(config, dataset="beauty")
    chosen = preset(str(config.tokenizer)) if with_preset else None
    spec = RunSpec(config, tuple(overrides), chosen, None if folder is None else Path(folder), rerun)
    grid = expand(request(arguments(spec)))
    assert grid.specs == (spec,)
    shell = shlex.split(repeat_command(spec))
    assert shell[0] == "bench" and expand(request(shell[1:])).specs == (replace(spec, rerun="failed"),)


def test_words_of_a_baseline_and_of_item_ids() -> None:
    spec = RunSpec(RunConfig(tokenizer=None, recommenders=("sasrec", "ppnet")), ("ranker.representation=item_id",))
    assert expand(request(arguments(spec))).specs == (spec,)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_options_of_another_launcher_are_refused(launcher: str) -> None:
    allowed = {
        "inline": (),
        "local": ("jobs",),
        "ray": ("jobs", "memory_gb", "address"),
        "slurm": ("jobs", "memory_gb", "slurm"),
    }[launcher]
    values = {"jobs": 2, "memory_gb": 1.5, "address": "auto", "slurm": (("partition", "gpu"),)}
    for name, value in values.items():
        if name in allowed:
            LaunchOptions(launcher, **{name: value})  # type: ignore[arg-type]
        else:
            with pytest.raises(InputError, match="add --launcher"):
                LaunchOptions(launcher, **{name: value})  # type: ignore[arg-type]

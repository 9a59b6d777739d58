"""Every command of every guide runs, in the order of its page, in a home and a folder of its own.

What is changed is what makes a command expensive or names the reader's own things: budgets become `smoke`, the planted
catalogue and the codebooks small, words in capitals real names. Grids over whole data sets are planned only (`--dry-run`
composes and checks each of their runs). The page of a tokenizer or recommender starts with the data set and the features
already in its cache, as its reader does who comes from the README. `test_docs.py` does the same for the README.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

import pytest

from sidbench.benchmark.cli.app import invoke
from sidbench.benchmark.plugins.registry import installed

ROOT = Path(__file__).resolve().parents[1]
STUDIES, BOARDS = "tests/leaderboards/test_studies.py", "tests/leaderboards/publish/test_boards.py"
FROZEN = "tests/leaderboards/frozen/test_frozen.py"
DISTRIBUTED = "tests/benchmark/runtime/test_distributed.py"
STARTS = ("bench", "torchrun", "accelerate", "python", "pip", "make")
SMALL = ["dataset.n_items=100", "dataset.n_users=100"]
FEW = ["tokenizer.codebook_size=16"]  # most of a small run's time is the probe on one-hot codes, cubic in their number
RUN = "bench run --tokenizer {} --dataset synthetic --budget smoke"


def commands_of(page: Path) -> list[str]:
    """Command lines of a page's code blocks, indented or fenced, without their comments."""
    found, fenced = [], False
    for line in page.read_text().splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif (fenced or line.startswith("    ")) and line.split()[:1] and line.split()[0] in STARTS:
            found.append(line.removeprefix("    ").split("  #")[0].rstrip())
    return found


PAGES = {
    str(p.relative_to(ROOT)): found
    for p in [
        ROOT / "CONTRIBUTING.md",
        ROOT / "leaderboards" / "boards" / "README.md",
        *sorted((ROOT / "docs").rglob("*.md")),
    ]
    if (found := commands_of(p))
}


PLAIN = {page for page in PAGES if page.startswith(("docs/tokenizers/", "docs/recommenders/"))}


@dataclass(frozen=True)
class Guide:
    """How a page is run. before: commands whose results its reader has. replace: text -> text in its commands, where a
    function makes the text once the commands before are done. plan_only, plan_runs: all of its commands, or its
    `bench run` (a list of tokenizers cut to its ends), are planned only. elsewhere: command -> the file that runs it, or
    checks what it left."""

    before: tuple[str, ...] = ()
    replace: Mapping[str, str | Callable[[], str]] = field(default_factory=dict)
    plan_only: bool = False
    plan_runs: bool = False
    elsewhere: Mapping[str, str] = field(default_factory=dict)


def a_run() -> str:
    return max((Path(os.environ["SIDBENCH_HOME"]) / "runs").iterdir(), key=lambda p: p.stat().st_mtime).name


def a_study() -> str:
    return sorted(p.name for p in (Path(os.environ["SIDBENCH_HOME"]) / "sweeps").iterdir() if "adasid" in p.name)[0]


BOARD = "bench leaderboard --publish NAME --from HOME --out boards/NAME"
GUIDES: dict[str, Guide] = {
    "CONTRIBUTING.md": Guide(
        elsewhere={
            "make test": ".ci/run",
            "make nightly": "Makefile",
            "make lowest": "Makefile",
            "make speed": "Makefile",
        }
    ),
    "docs/add-a-data-set.md": Guide(elsewhere={"bench plugin check tracks": "tests/test_docs.py"}),
    "docs/add-a-recommender.md": Guide(
        replace={
            "path/to/my_model.py:MyModel": f"{ROOT}/recommenders/sasrec.py:Sasrec",
            "--recommender my_model": "--recommender mtp",
        }
    ),
    "docs/add-a-tokenizer.md": Guide(
        replace={
            "plugin check my_tokenizer": "plugin check my_tokenizer/src/my_tokenizer/tokenizer.py",
            "tokenizer.py/src/my_tokenizer/tokenizer.py": "tokenizer.py",
            "--tokenizer my_tokenizer,": "--tokenizer ",
        },
        elsewhere={"pip install --no-build-isolation --editable .": "tests/benchmark/commands/test_plugin.py"},
    ),
    "docs/boards.md": Guide(
        before=(RUN.format("opq,random"), BOARD),
        replace={
            "HOME": lambda: os.environ["SIDBENCH_HOME"],
            "leaderboards/boards/NAME": "boards/mine",
            "boards/NAME": "boards/mine",
            "NAME": "mine",
            "beauty": "synthetic",
        },
    ),
    "docs/data.md": Guide(
        elsewhere=dict.fromkeys(
            (
                "bench data import --name mine --interactions events.csv --items items.jsonl --embeddings text=text.npy",
                "bench run --dataset custom dataset.path=FOLDER features.text=precomputed",
            ),
            "tests/test_docs.py",
        )
    ),
    "docs/findings.md": Guide(
        plan_only=True,
        elsewhere={  # hours; what they left is tested
            "bench sweep --tokenizer adasid --dataset synthetic --trials 20 --workers 2": STUDIES,
            "bench reproduce mmq-v2 --table 2 --dataset beauty --records leaderboards/boards/beauty": BOARDS,
            **{
                f"bench sweep --tokenizer {name} --dataset beauty --budget quick --recommender mtp --trials 12 --threads 1 "
                f"tokenizer.code_length=6 tokenizer.codebook_size=100{more}": STUDIES
                for name, more in (("rqvae", ""), ("adasid", " tokenizer.n_behaviour=5"))
            },
        },
    ),
    "docs/grids.md": Guide(
        plan_only=True,
        replace={
            " --device cuda": "",
            "--tokenizer all": "--tokenizer opq,rvq",
            "beauty,synthetic --seed 0,1,2": "beauty,synthetic --seed 0",
        },
    ),
    "docs/reproduction.md": Guide(
        before=(RUN.format("rqkmeans"),), replace={"reproduce RUN": lambda: f"reproduce {a_run()}"}
    ),
    "docs/scale.md": Guide(replace={"10000,100000,1000000": "300 --stages write", "10000000": "300", "/big/disk": "."}),
    "docs/security.md": Guide(replace={"118000": "60 --only metadata", "20000 --atheris": "60"}),
    "docs/store.md": Guide(before=(f"{RUN.format('rqvae')} --seed 1 --recommender none",)),
    "docs/sweeps.md": Guide(
        replace={
            "beauty": "synthetic",
            "--trials 50": "--trials 2",
            "--trials 12": "--trials 2",
            "--workers 2": "--workers 1",
            "NAME": a_study,
        }
    ),
    "docs/tokenizers/imported.md": Guide(
        before=(f"{RUN.format('opq')} --recommender none", "bench sids export RUN --format letter --out codes.json"),
        replace={"…": "codes.json", "export RUN": lambda: f"export {a_run()}"},
    ),
    "leaderboards/boards/README.md": Guide(
        plan_runs=True,
        replace={
            "--out leaderboards/boards/beauty": "--out board",
            "leaderboards/boards/beauty/": f"{ROOT}/leaderboards/boards/beauty-file-order/",  # fewer rows to render
            "--seed 0,1,2": "--seed 0",
        },
        elsewhere={
            **dict.fromkeys(
                (
                    "bench leaderboard --check leaderboards/boards/",
                    "bench leaderboard --check leaderboards/boards/beauty",
                    "bench reproduce mmq-v2 --table 2 --dataset beauty --records leaderboards/boards/beauty",
                ),
                BOARDS,
            ),
            "bench leaderboard --freeze leaderboards/boards/beauty-2.0 --version 2.0": FROZEN,
        },
    ),
    "docs/training.md": Guide(
        replace={
            "--dataset synthetic": "--dataset synthetic --tokenizer rqkmeans --recommender mtp",
            "--num_processes 4": "--num_processes 2",
        },
        elsewhere={
            "torchrun --nproc-per-node 2 -m sidbench.benchmark.cli.app run --accumulate 2 --dataset synthetic "
            "--budget quick": DISTRIBUTED
        },
    ),
}


def is_real(words: list[str]) -> bool:
    """Whether a command names a real data set."""
    return any(name in word for word in words for name in ("beauty", "ml-100k"))


def ends(tokenizers: str) -> str:
    """The first and the last of a list of tokenizers all of whose names are known."""
    names = tokenizers.split(",")
    unknown = set(names) - {"controls", "none"} - set(installed().plugins("tokenizer"))
    assert not unknown, f"no tokenizers: {sorted(unknown)}"
    return ",".join(dict.fromkeys((names[0], names[-1])))


def shorter(tokenizers: str) -> list[str]:
    """Settings that make a run of these tokenizers cheap; steps where all of them train by steps."""
    configs = [installed().load("tokenizer", name).config_class for name in tokenizers.split(",")]
    trained = all(any(f.name == "steps" for f in fields(config)) for config in configs)
    return [*FEW, "tokenizer.steps=25"] if trained else FEW


def prepared(command: str, guide: Guide) -> list[str]:
    """A page's command as it is run here."""
    for old, new in guide.replace.items():
        if old in command:
            command = command.replace(old, new if isinstance(new, str) else new())
    command = re.sub(r"--budget (quick|standard|paper)", "--budget smoke", command)
    words = shlex.split(command)
    if guide.plan_runs and "--tokenizer" in words:
        words[words.index("--tokenizer") + 1] = ends(words[words.index("--tokenizer") + 1])
    runs, sweeps = "run" in words, words[:2] == ["bench", "sweep"] and "--tokenizer" in words
    if (runs or sweeps) and "--budget" not in words:
        words += ["--budget", "smoke"]
    if (runs or sweeps) and "synthetic" in words and not any("dataset.n_items" in w for w in words):
        words += SMALL
    if guide.plan_only or runs and (guide.plan_runs or is_real(words)):
        words += ["--dry-run"]
    elif (runs or sweeps) and "--tokenizer none" not in command and "codebook_size" not in command:
        words += shorter(words[words.index("--tokenizer") + 1]) if "--tokenizer" in words else FEW
    return words


def run(words: list[str]) -> tuple[int, str]:
    """Exit code and what to read when it is not 0."""
    if words[0] == "bench":
        return invoke(words[1:]), ""
    start = {
        "python": [sys.executable],
        "torchrun": [sys.executable, "-m", "torch.distributed.run"],
        "accelerate": [sys.executable, "-m", "accelerate.commands.accelerate_cli"],
    }[words[0]]
    rest = [str(ROOT / w) if w.startswith("tests/") else w for w in words[1:]]
    done = subprocess.run(
        [*start, *rest],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=400,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return done.returncode, done.stdout[-4000:]


def test_every_page_is_known() -> None:
    assert PAGES.keys() - PLAIN == GUIDES.keys() - PLAIN, "a page with commands has no entry in GUIDES, or the reverse"
    assert sum(map(len, PAGES.values())) > 70


@pytest.mark.parametrize("page", sorted(GUIDES))
def test_what_other_tests_run_is_named_there(page: str) -> None:
    for command, place in GUIDES[page].elsewhere.items():
        assert command in PAGES[page], f"{page} has no line `{command}`"
        assert (ROOT / place).is_file()


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the small planted data set and its features."""
    home = tmp_path_factory.mktemp("features")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIDBENCH_HOME", str(home))
        code = invoke(
            [
                "run",
                "--dataset",
                "synthetic",
                "--budget",
                "smoke",
                "--tokenizer",
                "random",
                *SMALL,
                *FEW,
                "--recommender",
                "none",
            ]
        )
    assert code == 0
    return home / "cache"


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted(PAGES))
def test_commands_of_a_page_run_in_order(
    page: str, features: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    guide = GUIDES.get(page, Guide())
    if page in PLAIN:
        shutil.copytree(features, home / "cache", copy_function=os.link)
    monkeypatch.chdir(tmp_path)
    skipped = []
    for command in [*guide.before, *(c for c in PAGES[page] if c not in guide.elsewhere)]:
        words = prepared(command, guide)
        if not os.environ.get("SIDBENCH_DATA") and {"--dataset", "data"} & set(words) and is_real(words):
            skipped.append(command)
            continue
        code, text = run(words)
        assert code == 0, f"{shlex.join(words)}\n{text}{capfd.readouterr().err[-3000:]}"
    if skipped and len(skipped) == len(PAGES[page]):
        pytest.skip(f"SIDBENCH_DATA is not set: {len(skipped)} commands on real data")

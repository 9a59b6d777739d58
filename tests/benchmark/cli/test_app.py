"""The command line: light start, exit codes, one-paragraph errors, options handed over as values."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from sidbench.benchmark.cli import app as cli
from sidbench.benchmark.config.run_config import RunConfig
from sidbench.benchmark.plugins.registry import ROOT, Registry, installed, plugins
from sidbench.benchmark.runs import request as requests
from sidbench.benchmark.runs.command_line import repeat_command
from sidbench.benchmark.runs.request import RunRequest, named_values, plugin_names, seed_list
from sidbench.benchmark.runs.spec import RunSpec
from sidbench.datasets.foundation.errors import InputError, StageError


def bench(*words: str, home: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | ({"SIDBENCH_HOME": str(home)} if home else {})
    return subprocess.run(
        [sys.executable, "-m", "sidbench.benchmark.cli.app", *words],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )


@pytest.mark.parametrize("words", [["list"], ["list", "--json"], ["--help"], ["run", "--help"], ["--version"]])
def test_looking_around_imports_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys\nfrom sidbench.benchmark.cli.app import invoke\n"
        f"code = invoke({words!r})\n"
        "heavy = {'torch', 'numpy', 'polars', 'pandas', 'hydra', 'scipy', 'pyarrow'} & set(sys.modules)\n"
        "print(code, sorted(heavy), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "0 []"
    assert done.stdout


def test_list_as_json_holds_every_plugin_with_its_metadata(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.invoke(["list", "--json"]) == 0
    rooms = json.loads(capsys.readouterr().out)
    assert set(rooms) == {"tokenizers", "recommenders", "datasets", "collisions"}
    for room, kind in (
        ("tokenizers", "tokenizer"),
        ("recommenders", "recommender"),
        ("datasets", "dataset"),
        ("collisions", "collisions"),
    ):
        assert [row["name"] for row in rooms[room]] == list(plugins(kind))
    adasid = next(row for row in rooms["tokenizers"] if row["name"] == "adasid")
    assert set(adasid) == {"name", "title", "paper", "year", "modalities", "ordered", "control"}


def test_list_shows_a_broken_plugin_and_still_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for room in ("tokenizers", "recommenders", "datasets"):
        (tmp_path / room).mkdir()
    (tmp_path / "tokenizers" / "torn.py").write_text("def (")
    monkeypatch.setattr("sidbench.benchmark.commands.list.installed", lambda: Registry(tmp_path))
    assert cli.invoke(["list"]) == 0
    out = capsys.readouterr().out
    assert "torn  BROKEN" in out and "torn.py: line 1" in out
    assert cli.invoke(["list", "--json"]) == 0
    assert "line 1" in json.loads(capsys.readouterr().out)["tokenizers"][0]["broken"]


def test_show_names_every_setting_with_range_paper_value_and_budgets(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.invoke(["show", "tokenizer", "adasid", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    size = next(row for row in facts["settings"] if row["name"] == "codebook_size")
    assert (size["type"], size["default"], size["low"], size["high"], size["unit"]) == ("int", 100, 1, 65536, "codes")
    assert set(facts["budgets"]) == {"smoke", "quick", "standard", "paper"}
    assert facts["deviations"]
    assert cli.invoke(["show", "dataset", "ml_100k"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("dataset ml-100k: ") and "setting" in text and "licence" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["show", "tokenizer", "adasit"], "did you mean 'adasid'"),
        (["show", "tokeniser", "adasid"], "did you mean 'tokenizer'"),
        (["run", "--tokenizer", "adasit"], "did you mean 'adasid'"),
        (["run", "--seed", "zero"], "for example --seed 0,1,2"),
        (["run", "--rerun", "allways"], "did you mean 'always'"),
        (["run", "--threads", "-1"], "--threads"),
        (["leaderboard", "--format", "mdd"], "did you mean 'md'"),
        (["leaderboard"], "run `bench run` first"),
        (["runn"], "run"),
        (["run", "--nope"], "--nope"),
        (["data", "import", "--interactions", "x.csv", "--name", "x", "--embeddings", "text"], "name=value"),
        (["data", "import", "--interactions", "x.csv"], "--name"),
    ],
)
def test_bad_usage_is_one_paragraph_and_exit_code_2(
    words: list[str], said: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.invoke(words) == 2
    told = capsys.readouterr()
    assert said in told.err
    assert "Traceback" not in told.err and told.err.count("\n") == 1
    assert told.out == ""


def boom(error: BaseException) -> object:
    def body(_: bool) -> None:
        raise error

    return body


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (StageError("the loss became NaN at step 3"), 1, "error: the loss became NaN at step 3\n"),
        (InputError("rows", got=3, wanted="4", do="add one"), 2, "error: rows; got 3; wanted 4. To do: add one.\n"),
        (KeyboardInterrupt(), 130, "\ninterrupted; the same command resumes\n"),
    ],
)
def test_exit_codes(
    error: BaseException, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sidbench.benchmark.commands.list.list_command", boom(error))
    assert cli.invoke(["list"]) == code
    assert capsys.readouterr().err == said


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sidbench.benchmark.commands.list.list_command", boom(StageError("no")))
    assert cli.invoke(["--debug", "list"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_closed_pipe_is_quiet() -> None:
    done = subprocess.run(
        f"{sys.executable} -m sidbench.benchmark.cli.app list --json | head -c 10",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert len(done.stdout) == 10


def test_run_hands_over_a_checked_request(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[RunRequest] = []
    monkeypatch.setattr("sidbench.benchmark.commands.run.run_command", seen.append)
    assert cli.invoke(["run"]) == 0
    assert seen[0] == RunRequest(("adasid",), ("synthetic",), ("mtp", "ppnet"))
    assert (
        cli.invoke(
            [
                "run",
                "--tokenizer",
                "opq, rqvae,opq",
                "--dataset",
                "ml_100k",
                "--recommender",
                "mtp",
                "--seed",
                "0,2",
                "tokenizer.codebook_size=16",
                "--budget",
                "smoke",
                "--ties",
                "file",
                "--data-dir",
                str(tmp_path),
                "--device",
                "cpu",
                "--precision",
                "bf16",
                "--threads",
                "2",
                "--json",
                "--rerun",
                "always",
                "dataset.k_core=3",
            ]
        )
        == 0
    )
    assert seen[1] == RunRequest(
        ("opq", "rqvae"),
        ("ml-100k",),
        ("mtp",),
        (0, 2),
        ("smoke",),
        ("file",),
        overrides=("tokenizer.codebook_size=16", "dataset.k_core=3"),
        common=RunConfig(device="cpu", precision="bf16", threads=2),
        data_dir=tmp_path,
        rerun="always",
        json=True,
    )


def test_data_import_hands_over_columns_and_embeddings(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[requests.ImportRequest] = []
    monkeypatch.setattr("sidbench.benchmark.commands.data.import_custom", seen.append)
    assert (
        cli.invoke(
            [
                "data",
                "import",
                "--interactions",
                "e.csv",
                "--items",
                "i.csv",
                "--name",
                "shop",
                "--embeddings",
                "text=t.npy",
                "--embeddings",
                "vision=v.npz",
                "--user-column",
                "uid",
                "--column",
                "items.title=name",
                "--overwrite",
            ]
        )
        == 0
    )
    assert seen == [
        requests.ImportRequest(
            "shop",
            Path("e.csv"),
            Path("i.csv"),
            (("text", Path("t.npy")), ("vision", Path("v.npz"))),
            None,
            (("user", "uid"), ("items.title", "name")),
            "s",
            True,
        )
    ]


def test_all_is_every_usable_plugin_and_says_what_it_left_out(tmp_path: Path) -> None:
    assert plugin_names("tokenizer", "all", installed()) == tuple(
        n for n, p in plugins("tokenizer").items() if not p.info["needs_settings"]
    )
    for room in ("tokenizers", "recommenders", "datasets"):
        (tmp_path / room).mkdir()
    good = (ROOT / "tokenizers" / "random.py").read_text()
    (tmp_path / "tokenizers" / "good.py").write_text(good)
    (tmp_path / "tokenizers" / "torn.py").write_text("def (")
    for room, name in (("recommenders", "mtp"), ("datasets", "synthetic")):
        (tmp_path / room / f"{name}.py").write_text((ROOT / room / f"{name}.py").read_text())
    made = RunRequest.from_options(
        "all",
        "synthetic",
        "mtp",
        "0",
        rerun="never",
        registry=Registry(tmp_path),
    )
    assert made.tokenizers == ("good",)
    assert len(made.skipped) == 1 and "torn" in made.skipped[0] and "line 1" in made.skipped[0]


def test_controls_is_a_group_that_mixes_with_names() -> None:
    names = plugin_names("tokenizer", "opq,controls,random", installed())
    assert names[0] == "opq" and len(set(names)) == len(names)
    assert set(names[1:]) == set(installed().controls()) == {n for n, p in plugins("tokenizer").items() if p.info["control"]}


def test_all_leaves_out_what_needs_a_setting_unless_it_is_given(tmp_path: Path) -> None:
    for room, name in (("recommenders", "mtp"), ("datasets", "synthetic"), ("tokenizers", "random")):
        (tmp_path / room).mkdir()
        (tmp_path / room / f"{name}.py").write_text((ROOT / room / f"{name}.py").read_text())
    needy = (
        (ROOT / "tokenizers" / "random.py")
        .read_text()
        .replace("control=True,", 'control=True,\n    needs_settings=("path", "key"),')
    )
    (tmp_path / "tokenizers" / "needy.py").write_text(needy)

    def request(*overrides: str, names: str = "all") -> RunRequest:
        return RunRequest.from_options(
            names,
            "synthetic",
            "mtp",
            "0",
            rerun="never",
            overrides=overrides,
            registry=Registry(tmp_path),
        )

    assert request().tokenizers == ("random",)
    assert request().skipped == ("tokenizer needy is left out: it needs tokenizer.path=..., tokenizer.key=...",)
    assert request("tokenizer.path=x").skipped == ("tokenizer needy is left out: it needs tokenizer.key=...",)
    given = request("tokenizer.path=x", "tokenizer.key=y")
    assert given.tokenizers == ("needy", "random") and given.skipped == ()
    assert request(names="needy").tokenizers == ("needy",)


def test_a_collision_policy_is_checked_with_the_request(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.invoke(["run", "--collisions", "apend"]) == 2
    assert "did you mean 'append'" in capsys.readouterr().err
    assert cli.invoke(["run", "--tokenizer", "none", "--recommender", "sasrec", "--collisions", "append"]) == 2
    assert "add --tokenizer NAME" in capsys.readouterr().err
    assert cli.invoke(["show", "collisions", "hash-slot"]) == 0
    assert "buckets" in capsys.readouterr().out


def test_lists_of_options() -> None:
    assert plugin_names("tokenizer", "none", installed()) == ("none",)
    assert seed_list("3, 1,3") == (3, 1)
    for text in ("", "-1", "1.5", "²", "a"):
        with pytest.raises(InputError):
            seed_list(text)
    assert named_values(["a=b=c"], "--x") == (("a", "b=c"),)
    with pytest.raises(InputError, match="each name once"):
        named_values(["a=1", "a=2"], "--x")
    with pytest.raises(InputError, match="at least one name"):
        plugin_names("recommender", " , ", installed())


def test_leaderboard_of_an_empty_home_is_refused_in_a_process(tmp_path: Path) -> None:
    done = bench("leaderboard", home=tmp_path / "nowhere")
    assert done.returncode == 2
    assert str(tmp_path / "nowhere" / "runs") in done.stderr


def test_the_command_that_repeats_a_failed_run_holds_every_option_that_changes_numbers() -> None:
    def command(**more: object) -> list[str]:
        config = RunConfig(dataset="synthetic", tokenizer="opq", recommenders=("mtp",), **more)  # type: ignore[arg-type]
        return shlex.split(repeat_command(RunSpec(config, ("tokenizer.codebook_size=8",), rerun="never")))

    usual = [
        "bench",
        "run",
        "--dataset",
        "synthetic",
        "--tokenizer",
        "opq",
        "--recommender",
        "mtp",
        "--seed",
        "0",
        "--budget",
        "quick",
        "--ties",
        "shuffled",
        "tokenizer.codebook_size=8",
    ]
    assert command() == usual
    unusual = command(collisions="append", precision="bf16", accumulate=4, compile=True)
    assert unusual == [
        *usual[:-1],
        "--precision",
        "bf16",
        "--collisions",
        "append",
        "--accumulate",
        "4",
        "--compile",
        usual[-1],
    ]

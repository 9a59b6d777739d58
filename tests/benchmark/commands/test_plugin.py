"""`bench plugin new` writes a package that works and refuses bad names; `bench plugin check` names every broken promise."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from sidbench.benchmark.cli.app import invoke
from sidbench.benchmark.commands.plugin import resolve
from sidbench.benchmark.plugins.registry import ROOT, Registry
from sidbench.benchmark.plugins.scaffold.project import FILES, TEMPLATES, class_name, new_project
from sidbench.benchmark.testing.checks import STATUSES
from sidbench.benchmark.testing.recommenders import RETRIEVER_CHECKS
from sidbench.benchmark.testing.tokenizers import CHECKS
from sidbench.datasets.foundation.errors import InputError

CLASS = '''\
"""Codes by the stars."""

from dataclasses import replace

from sidbench.tokenizers.base import Tokenizer, TokenizerInfo
from sidbench.tokenizers.random import RandomCodes

INFO = TokenizerInfo(title="Stars", paper="", modalities=(), ordered=False, control=True)


class Stars(RandomCodes):
    info = INFO
    expected_failures = {"more codes than items": "stars\\nare many"}
'''


@pytest.fixture
def package(tmp_path: Path) -> Path:
    assert invoke(["plugin", "new", "star_codes", "--out", str(tmp_path)]) == 0
    return tmp_path / "star_codes"


def test_the_new_package_is_whole_and_filled_in(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {p.relative_to(package).as_posix() for p in package.rglob("*") if p.is_file()}
    assert files == {target.format(name="star_codes") for target in FILES}
    assert not any("$" in p.read_text() for p in package.rglob("*") if p.is_file())
    project = tomllib.loads((package / "pyproject.toml").read_text())
    points = project["project"]["entry-points"]["sidbench.tokenizers"]
    assert points == {"star_codes": "star_codes.tokenizer:StarCodes"}
    assert invoke(["plugin", "new", "star_codes", "--out", str(package / "again")]) == 0
    said = capsys.readouterr().out
    commands = [line.strip() for line in (package / "README.md").read_text().splitlines() if line.startswith("    ")]
    assert len(commands) == 3 and all(command in said for command in commands)


def test_every_template_is_used() -> None:
    assert {p.name for p in TEMPLATES.iterdir()} == set(FILES.values())


@pytest.mark.slow
def test_the_first_tokenizer_passes_every_check_through_its_own_tests(package: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=package,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(CHECKS)} passed" in done.stdout


def test_the_new_package_is_lint_clean(package: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "ruff",
            "check",
            "--isolated",
            "--line-length",
            "125",
            "--select",
            "E,F,W,I,B,UP,SIM",
            "--target-version",
            "py311",
            ".",
        ],
        cwd=package,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_the_commands_of_the_guide_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    guide = (ROOT / "docs" / "add-a-tokenizer.md").read_text().splitlines()
    commands = [line.split()[1:] for line in guide if line.startswith("    bench plugin ")]
    assert [c[1] for c in commands] == ["new", "check", "check", "check"]
    monkeypatch.chdir(tmp_path)
    for words in commands:
        if words[-1] != "my_tokenizer" or words[1] == "new":  # installed ones: see test_plugin_install.py
            assert invoke(words) == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("MyTokenizer", "lower-case"),
        ("my-tokenizer", "lower-case"),
        ("2codes", "lower-case"),
        ("class", "Python name"),
        ("match", "Python name"),
        ("a__b", "single underscores"),
        ("../up", "lower-case"),
        ("", "lower-case"),
        ("all", "choose another name"),
        ("controls", "choose another name"),
        ("none", "choose another name"),
        ("opq", "tokenizers/opq.py has it"),
        ("item_id", "has it"),
        ("json", "installed module"),
        ("torch", "installed module"),
    ],
)
def test_bad_names_are_refused_and_nothing_is_written(
    name: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(["plugin", "new", name, "--out", str(tmp_path)]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_not_touched(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (package / "pyproject.toml").write_text("mine")
    assert invoke(["plugin", "new", "star_codes", "--out", str(package.parent)]) == 2
    assert "nothing is overwritten" in capsys.readouterr().err
    assert (package / "pyproject.toml").read_text() == "mine"
    assert list(package.parent.iterdir()) == [package]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        new_project("star_codes", tmp_path / "file", Registry(ROOT))


def test_class_names() -> None:
    assert [class_name(n) for n in ("mine", "my_tokenizer", "rq_vae2")] == ["Mine", "MyTokenizer", "RqVae2"]


@pytest.fixture
def stars(tmp_path: Path) -> Path:
    path = tmp_path / "random.py"  # the name of a module of the standard library must do no harm
    path.write_text(CLASS)
    return path


def test_check_takes_an_installed_name_a_module_and_a_file(stars: Path) -> None:
    assert resolve("item_id").__name__ == resolve("item-id").__name__ == "ItemId"
    assert resolve("sidbench.tokenizers.opq:Opq") is resolve("opq")
    assert resolve(f"{stars}:Stars").__name__ == resolve(str(stars)).__name__ == "Stars"
    import random

    assert hasattr(random, "shuffle")


def test_check_finds_modules_of_the_working_folder(stars: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(stars.parent)
    monkeypatch.setattr(sys, "path", list(sys.path))
    stars.rename("codes_by_stars.py")
    assert resolve("codes_by_stars:Stars").__name__ == "Stars"


def test_check_lists_every_check_with_its_reason(stars: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["plugin", "check", str(stars)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"Stars ({stars})" and lines[-1] == f"{len(CHECKS) - 2} passed, 1 skipped, 1 expected, 0 failed"
    assert len(lines) == len(CHECKS) + 2
    told = {name: " ".join(line.split()) for name in CHECKS for line in lines if line.startswith(name)}
    assert told["not finite"] == "not finite skipped reads no embeddings"
    assert told["more codes than items"].startswith(
        "more codes than items expected stars are many (accepts codebook_size=64"
    )


def test_an_expected_failure_that_passes_and_an_unknown_one_are_reported(
    stars: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    declared = "expected_failures = {**RandomCodes.expected_failures, 'determinism': 'luck', 'luck': 'none'}"
    stars.write_text(re.sub(r"expected_failures = .*", declared, CLASS))
    assert invoke(["plugin", "check", str(stars), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    failed = {c["name"]: c["detail"] for c in told["checks"] if c["status"] == "failed"}
    assert set(failed) == {"determinism", "luck"} and told["expected"] == 1
    assert failed["determinism"] == "passes, though expected_failures says: luck. Take the entry out"
    assert "unknown check" in failed["luck"]


@pytest.mark.parametrize(
    ("source", "check", "reason"),
    [
        ("\n    def __init__(self, c):\n        super().__init__(c)\n", "settings", "unexpected keyword argument"),
        (
            "\n    def __init__(self, c=None, **s):\n        super().__init__()\n",
            "settings",
            "must keep the config that it is given",
        ),
        ("\n    name = 'stars'\n", "name", "Stars sets name"),
        ("\n    info = replace(INFO, version=0)\n", "metadata", "info.version must be 1 or more"),
        ("\n    info = replace(INFO, year=2026)\n", "metadata", "info.paper names no source"),
        ("\n    info = replace(INFO, url='arxiv.org')\n", "metadata", "https://"),
        ("\n    info = replace(INFO, bibtex='@misc{x')\n", "metadata", "BibTeX"),
    ],
)
def test_what_all_kinds_are_held_to(
    stars: Path, source: str, check: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    stars.write_text(CLASS + source)
    assert invoke(["plugin", "check", str(stars), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert reason in {c["name"]: c["detail"] for c in told["checks"] if c["status"] == "failed"}[check]


def test_settings_that_nobody_checks_are_found(stars: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stars.write_text(
        CLASS.replace(
            "class Stars",
            "@dataclass(frozen=True)\nclass Config(TokenizerConfig):\n"
            "    def __post_init__(self):\n        pass\n\n\nclass Stars",
        )
        .replace("import replace", "import dataclass, replace")
        .replace("import Tokenizer, ", "import Tokenizer, TokenizerConfig, ")
        + "    config_class = Config\n"
    )
    assert invoke(["plugin", "check", str(stars), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    failed = {c["name"]: c["detail"] for c in told["checks"] if c["status"] == "failed"}
    assert "call check_settings" in failed["settings"]


@pytest.mark.parametrize(
    ("target", "kind", "name"),
    [
        ("reassign", "collisions", "reassign"),
        ("sidbench.tokenizers.collisions.append:Append", "collisions", "append"),
        ("synthetic", "dataset", "synthetic"),
        ("sidbench.datasets.ml_100k:MovieLens100K", "dataset", "ml-100k"),
    ],
)
def test_policies_and_data_sets_are_checked_too(
    target: str, kind: str, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SIDBENCH_DATA", raising=False)
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: Path("/nowhere"))
    assert invoke(["plugin", "check", target, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["kind"], told["name"], told["failed"]) == (kind, name, 0)
    assert {c["name"] for c in told["checks"]} >= {"metadata", "name", "settings"}


@pytest.mark.parametrize(
    ("body", "check", "reason"),
    [
        (
            "return replace(super().encode(f, r), codes=super().encode(f, r).codes * float('nan'))",
            "shapes, dtypes and ranges",
            "codes must be int32",
        ),
        (
            "return replace(super().encode(f, r), codes=super().encode(f, r).codes[:-1])",
            "shapes, dtypes and ranges",
            "wanted 240 rows",
        ),
        ("return super().encode(f, r).codes", "shapes, dtypes and ranges", "AttributeError"),
        ("raise ZeroDivisionError('by design')", "five items", "raised ZeroDivisionError: by design"),
        ("s = super().encode(f, r); s.codes[3, 1] = -1; return s", "shapes, dtypes and ranges", "variable_length"),
    ],
)
def test_a_failed_check_is_named_and_exits_with_1(
    stars: Path, body: str, check: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    stars.write_text(f"{CLASS}\n    def encode(self, f, r):\n        {body}\n")
    assert invoke(["plugin", "check", str(stars), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["failed"] >= 1 and sum(told[s] for s in STATUSES) == len(told["checks"]) == len(CHECKS)
    failed = {c["name"]: c["detail"] for c in told["checks"] if c["status"] == "failed"}
    assert reason in failed[check]
    assert invoke(["plugin", "check", str(stars)]) == 1
    assert any(
        line.startswith(check) and "failed" in line and reason in line for line in capsys.readouterr().out.splitlines()
    )


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import no_such_thing\n", "ModuleNotFoundError: No module named 'no_such_thing'"),
        ("raise OSError('no')\n", "OSError: no"),
        ("x = (\n", "(line 1)"),
        ("x = 1\n", "this module defines none"),
        (CLASS + "\nclass Moons(Stars):\n    pass\n", "Stars, Moons"),
        (CLASS.replace("(RandomCodes):", "(Tokenizer):"), "no encode, fit, load_state_dict, state_dict"),
    ],
)
def test_what_cannot_be_loaded_is_named(stars: Path, source: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    stars.write_text(source)
    assert invoke(["plugin", "check", str(stars)]) == 2
    told = capsys.readouterr().err
    assert said in told and str(stars) in told and told.count("\n") == 1


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("opqq", "did you mean 'opq'"),
        ("nowhere.py", "nothing there"),
        ("no_such_package:Codes", "install its package"),
        ("sidbench.tokenizers.opq:Opqq", "this module defines Opq"),
        ("sidbench.tokenizers.opq:INFO", "a subclass of"),
        ("a b:C", "pkg.module:Class"),
        (":", "pkg.module:Class"),
    ],
)
def test_bad_targets_are_one_paragraph(target: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["plugin", "check", target]) == 2
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1


MODEL = '''\
"""A recommender that is wrong in one way."""

import numpy as np

from sidbench.recommenders.base import RecommenderInfo
from sidbench.recommenders.sasrec import Sasrec

INFO = RecommenderInfo(title="Wrong", paper="", task="retrieval", needs_sids=False)


class Wrong(Sasrec):
    info = INFO
'''


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    path = tmp_path / "wrong.py"
    path.write_text(MODEL)
    return path


def test_check_takes_recommenders_by_name_module_and_file(wrong: Path) -> None:
    assert resolve("sasrec").__name__ == "Sasrec"
    assert resolve("sidbench.recommenders.ppnet:Ppnet") is resolve("ppnet")
    assert resolve(str(wrong)).__name__ == resolve(f"{wrong}:Wrong").__name__ == "Wrong"


def test_a_name_of_two_kinds_is_not_guessed() -> None:
    with pytest.raises(InputError, match="sidbench.tokenizers.eager:Eager or sidbench.recommenders.eager:Eager"):
        resolve("eager")


def test_a_good_recommender_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["plugin", "check", "sidbench.recommenders.sasrec:Sasrec"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[1] == "metadata passed" and "determinism passed" in lines and len(lines) == len(RETRIEVER_CHECKS) + 2
    assert lines[-1] == "13 passed, 6 skipped, 0 failed"  # what needs SIDs, texts or a beam does not apply


@pytest.mark.parametrize(
    ("change", "check", "reason"),
    [
        (
            "    def rank_targets(self, *a):\n        r = super().rank_targets(*a)\n"
            "        r.score[:] += np.random.default_rng().normal()\n        return r\n",
            "determinism",
            "equal seeds",
        ),
        (
            "    def rank_targets(self, *a):\n        return {}['ranks']\n",
            "ranks",
            "raised KeyError: 'ranks' (line 14)",
        ),
        ('    budgets = {"quick": {}}\n', "metadata", "smoke"),
        (
            "\nINFO = RecommenderInfo(title='Wrong', paper='x', year=2000 + 26, task='retrieval', needs_sids=False)\n",
            "metadata",
            "year of INFO is not a literal",
        ),
    ],
)
def test_a_broken_recommender_is_told_what_and_why(
    wrong: Path, change: str, check: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong.write_text(MODEL + change)
    assert invoke(["plugin", "check", str(wrong), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["file"] == str(wrong) and told["kind"] == "recommender" and told["failed"] >= 1
    assert reason in next(c["detail"] for c in told["checks"] if c["status"] == "failed" and c["name"] == check)


def test_a_recommender_without_its_methods_is_sent_to_its_guide(wrong: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong.write_text(MODEL.replace("sasrec import Sasrec", "base import Retriever").replace("(Sasrec)", "(Retriever)"))
    assert invoke(["plugin", "check", str(wrong)]) == 2
    told = capsys.readouterr().err
    assert "no fit, load_state_dict, rank_targets, state_dict" in told and "docs/add-a-recommender.md" in told

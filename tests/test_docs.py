"""Every `bench` command of the README and the guides runs, and the example tokenizer of the guide conforms.

Budgets are replaced by `smoke`, the planted catalogue and the codebooks are small, neural tokenizers alone train 25 steps,
the grid in worker processes has two runs; nothing else of a command is changed, so that each finds the runs that the ones
before it recorded. Commands on real data run where `$SIDBENCH_DATA` is set.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidbench.benchmark.cli.app import invoke
from sidbench.benchmark.testing.tokenizers import check_tokenizer

ROOT = Path(__file__).resolve().parents[1]
README_COMMANDS = [
    line.strip().split("  #")[0].strip()
    for line in (ROOT / "README.md").read_text().splitlines()
    if line.startswith("    bench ")
]


ONE_AFTER_THE_OTHER = """
import contextlib, io, json, sys
from sidbench.benchmark.cli.app import invoke
told = []
for words in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = invoke(words)
    told.append({"code": code, "out": out.getvalue(), "err": err.getvalue()})
print(json.dumps(told))
"""
SMALL = ["dataset.n_items=100", "dataset.n_users=100"]
FEW = ["tokenizer.codebook_size=16"]  # most of a small run's time is the probe on one-hot codes, cubic in their number


def shortened(command: str) -> list[str]:
    """The arguments of a README command as it is run here."""
    command = command.replace("--budget quick", "--budget smoke")
    if "--launcher local" in command:  # a new process imports for seconds: two of them suffice for --jobs 2
        command = command.replace("--tokenizer random,hash,opq", "--tokenizer random,hash").replace("--seed 0,1", "--seed 0")
    words = shlex.split(command)[1:]
    if words[0] == "run" or words[0] == "sweep" and "--tokenizer" in words:
        if "synthetic" in words:
            words += SMALL
        if "--tokenizer none" not in command and "codebook_size" not in command:
            words += FEW
        if set(words[words.index("--tokenizer") + 1].split(",")) <= {"adasid", "das", "letter", "mmq", "rqvae"}:
            words += ["tokenizer.steps=25"]
    return words


def test_the_readme_has_commands() -> None:
    assert len(README_COMMANDS) >= 8


@pytest.mark.slow
def test_readme_commands_run_in_order(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # commands that write a file write it here
    for command in README_COMMANDS:
        if "beauty" in command and not os.environ.get("SIDBENCH_DATA"):
            continue
        assert invoke(shortened(command)) == 0, f"{command}: {capsys.readouterr().err}"


@pytest.mark.slow
def test_import_guide(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The two commands of docs/data.md, on a small table of one's own."""
    draw = np.random.default_rng(0)
    lines = ["user,item,timestamp,rating"]
    lines += [
        f"u{u},i{i:03d},{1000 * u + 10 * t},{r}"
        for u in range(60)
        for t, (i, r) in enumerate(zip(draw.choice(40, 6, replace=False), draw.integers(1, 6, 6), strict=True))
    ]
    (tmp_path / "events.csv").write_text("\n".join(lines))
    (tmp_path / "items.jsonl").write_text("\n".join(f'{{"item": "i{i:03d}", "title": "thing {i % 4}"}}' for i in range(40)))
    np.save(tmp_path / "text.npy", draw.standard_normal((40, 8)).astype(np.float32))
    guide = (ROOT / "docs" / "data.md").read_text()
    commands = re.findall(r"^    (bench (?:data import|run --dataset custom).*)$", guide, re.MULTILINE)
    assert len(commands) == 2
    imported = commands[0].replace("events.csv", f"{tmp_path}/events.csv").replace("items.jsonl", f"{tmp_path}/items.jsonl")
    assert invoke(shlex.split(imported.replace("text=text.npy", f"text={tmp_path}/text.npy"))[1:]) == 0
    folder = re.findall(r"dataset\.path=(\S+)", capsys.readouterr().out)[-1]
    run = [
        *shlex.split(commands[1].replace("FOLDER", folder))[1:],
        "--budget",
        "smoke",
        "--tokenizer",
        "rqkmeans",
        "tokenizer.codebook_size=8",
    ]
    assert invoke(run) == 0, capsys.readouterr().err


def test_the_example_tokenizer_conforms(tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "add-a-tokenizer.md").read_text()
    code = next(block for block in re.findall(r"```python\n(.*?)```", guide, re.DOTALL) if "class NearestAnchor" in block)
    path = tmp_path / "nearest_anchor.py"
    path.write_text(code)
    import importlib.util

    spec = importlib.util.spec_from_file_location("nearest_anchor", path)
    assert spec is not None and spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    sys.modules["nearest_anchor"] = module
    spec.loader.exec_module(module)
    check_tokenizer(module.NearestAnchor)


@pytest.mark.slow
def test_the_example_data_set_runs(home: Path, tmp_path: Path) -> None:
    """The reader of the guide, installed as another distribution: its counts by hand, a run on it, and a broken line."""
    guide = (ROOT / "docs" / "add-a-data-set.md").read_text()
    code = next(block for block in re.findall(r"```python\n(.*?)```", guide, re.DOTALL) if "class Tracks" in block)
    entry = next(block for block in re.findall(r"```toml\n(.*?)```", guide, re.DOTALL) if "entry-points" in block)
    group, _, line = entry.strip().partition("\n")
    package, info = tmp_path / "my_package", tmp_path / "my_package-1.0.dist-info"
    for folder in (package, info):
        folder.mkdir()
    (package / "__init__.py").write_text("")
    (package / "tracks.py").write_text(code)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group.split(chr(34))[1]}]\n{line.replace(chr(34), '')}\n")
    raw, draw = tmp_path / "raw" / "tracks", np.random.default_rng(0)
    raw.mkdir(parents=True)
    plays = [f"u{u:02d}\tt{t:02d}\t{1000 + 60 * u + n}" for u in range(60) for n, t in enumerate(draw.choice(30, 6, False))]
    (raw / "plays.tsv").write_text("\n".join([*plays, plays[0], "lonely\tt00\t5000"]) + "\n")
    tags = ("jazz", "rock", "folk", "soul", "dub")
    (raw / "tags.tsv").write_text("".join(f"t{t:02d}\t{tags[t % 5]} &amp; more\n" for t in range(30)))

    broken = tmp_path / "broken" / "tracks"
    shutil.copytree(raw, broken)
    (broken / "plays.tsv").write_text("u0\tt0\tsoon\n")
    small = ["--recommender", "mtp", "--budget", "smoke", "--json", "tokenizer.codebook_size=4"]
    commands = [
        ["data", "check", "tracks", "--data-dir", str(raw.parent)],
        ["plugin", "check", "tracks", "--json"],
        ["run", "--tokenizer", "rqkmeans", "--dataset", "tracks", *small, "--data-dir", str(raw.parent)],
        ["data", "check", "tracks", "--data-dir", str(broken.parent)],
    ]
    ended = subprocess.run(
        [sys.executable, "-c", ONE_AFTER_THE_OTHER, json.dumps(commands)],
        text=True,
        capture_output=True,
        timeout=300,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]),
            "SIDBENCH_DATA": str(raw.parent),
            "OMP_NUM_THREADS": "1",
        },
    )
    assert ended.returncode == 0, ended.stderr
    checked, held, done, refused = json.loads(ended.stdout)
    # 360 plays of 60 users; the repeated line and, by the 5-core filter, the user with one play are gone.
    assert checked["code"] == 0 and "360" in checked["out"] and "60" in checked["out"], checked
    checks = {c["name"]: c["status"] for c in json.loads(held["out"])["checks"]}
    assert held["code"] == 0 and checks["two loads agree"] == checks["card"] == "passed", held
    assert done["code"] == 0, done
    assert refused["code"] != 0 and "plays.tsv" in refused["err"] and "line 1" in refused["err"], refused

"""Plugins of strangers in a virtual environment of their own: a good one runs, a broken one is named and harms no other.

The environment borrows the heavy dependencies, sidbench itself and pip from the one that runs the tests; the plugins
are built and installed into it with pip, without network.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from sidbench.benchmark.plugins.scaffold.project import new_project
from sidbench.benchmark.store.records import RunRecord

SMALL = [
    "--dataset",
    "synthetic",
    "--budget",
    "smoke",
    "--recommender",
    "mtp",
    "--threads",
    "1",
    "dataset.n_items=60",
    "dataset.n_users=60",
    "tokenizer.codebook_size=8",
    "tokenizer.code_length=3",
    "dataset.picture_size=0",
    "features.vision=none",
    "behaviour.epochs=1",
    "retriever.epochs=1",
    "--json",
]
HEAD = '''\
"""A broken tokenizer."""

from dataclasses import replace

from sidbench.tokenizers.base import TokenizerInfo
from sidbench.tokenizers.random import RandomCodes

INFO = TokenizerInfo(title="Broken", paper="none", year=2026, modalities=(), ordered=False, control=True)


class Broken(RandomCodes):
    info = INFO

'''
BROKEN = {  # module -> (source, what a run says of it)
    "missing_import": (
        "import no_such_thing\n" + HEAD.replace('"""A broken tokenizer."""\n', ""),
        "ModuleNotFoundError: No module named 'no_such_thing'",
    ),
    "wrong_shapes": (
        HEAD + "    def encode(self, f, r):\n        s = super().encode(f, r)\n"
        "        return replace(s, codes=s.codes[:-1])\n",
        "codes have shape",
    ),
    "float_codes": (
        HEAD + "    def encode(self, f, r):\n        s = super().encode(f, r)\n"
        "        return replace(s, codes=s.codes * float('nan'))\n",
        "codes must be int32",
    ),
    "no_sids": (HEAD + "    def encode(self, f, r):\n        return super().encode(f, r).codes\n", "AttributeError"),
    "odd_state": (HEAD + "    def state_dict(self):\n        return {'key': object()}\n", "object"),
    "bad_state": (HEAD + "    def state_dict(self):\n        raise KeyError('lost')\n", "KeyError: 'lost'"),
    "raises_in_fit": (
        HEAD + "    def fit(self, f, g, r):\n        raise ZeroDivisionError('by design')\n",
        "ZeroDivisionError: by design",
    ),
    "bad_constructor": (HEAD + "    def __init__(self, c):\n        raise LookupError('nothing')\n", "LookupError: nothing"),
    "torn": ("def (\n", "line 1"),
}


def project(folder: Path, name: str, files: dict[str, str]) -> Path:
    """A package with one entry point per module, all with a class ``Broken``."""
    points = "\n".join(f'{stem} = "{name}.{stem}:Broken"' for stem in files)
    package = folder / name / name
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    for stem, source in files.items():
        (package / f"{stem}.py").write_text(source)
    (package.parent / "pyproject.toml").write_text(
        f'[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        f'[project]\nname = "{name}"\nversion = "1.0"\n[project.entry-points."sidbench.tokenizers"]\n{points}\n'
        f'[tool.setuptools]\npackages = ["{name}"]\n'
    )
    return package.parent


class Environment:
    """A fresh virtual environment with these packages, and a home of its own."""

    def __init__(self, folder: Path, packages: list[Path]) -> None:
        venv.create(folder / "env", with_pip=False)
        self.home, self.python = folder / "home", folder / "env" / "bin" / "python"
        own = next((folder / "env" / "lib").glob("python*/site-packages"))
        (own / "shared.pth").write_text(f"import site; site.addsitedir({sysconfig.get_paths()['purelib']!r})\n")
        installed = self(
            "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", *map(str, packages)
        )
        assert installed.returncode == 0, installed.stderr
        for package in packages:
            assert (own / package.name).is_dir()  # here, and not in the environment that runs the tests

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PIP_"))}
        environment |= {"SIDBENCH_HOME": str(self.home), "OMP_NUM_THREADS": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        return subprocess.run(
            [str(self.python), *words], capture_output=True, text=True, check=False, env=environment, cwd=self.home.parent
        )

    def bench(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self("-m", "sidbench.benchmark.cli.app", *words)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    folder = tmp_path_factory.mktemp("strangers")
    new_project("my_tokenizer", folder)
    return Environment(
        folder,
        [folder / "my_tokenizer", project(folder, "broken_codes", {stem: source for stem, (source, _) in BROKEN.items()})],
    )


@pytest.mark.slow
def test_a_new_package_installs_and_runs_to_a_record(environment: Environment) -> None:
    done = environment.bench("run", "--tokenizer", "my_tokenizer", *SMALL)
    assert done.returncode == 0, done.stderr
    record = RunRecord.model_validate(json.loads(done.stdout)["records"][0])
    assert record.tokenizer is not None and record.tokenizer.name == "my_tokenizer"
    assert record.tokenizer.config["width"] == 128 and record.tokenizer.config["codebook_size"] == 8
    assert record.sids is not None and record.sids.code_length == 3 and record.sids.ordered
    assert record.metric("item_recall_at_10", "retrieval") is not None
    assert (environment.home / "runs" / record.run_id / "record.json").is_file()


@pytest.mark.slow
def test_the_list_names_the_package_and_what_is_broken(environment: Environment) -> None:
    done = environment.bench("list")
    assert done.returncode == 0, done.stderr
    lines = {line.split()[0]: line for line in done.stdout.splitlines() if line.startswith("  ")}
    assert "MyTokenizer" in lines["my_tokenizer"] and "my-tokenizer" in lines["my_tokenizer"]
    assert "BROKEN" in lines["torn"] and "torn.py: line 1" in lines["torn"]
    assert not any("BROKEN" in line for name, line in lines.items() if name != "torn")


@pytest.mark.slow
def test_broken_plugins_are_named_and_the_others_finish(environment: Environment) -> None:
    names = [stem for stem in BROKEN if stem != "torn"]
    done = environment.bench("run", "--tokenizer", ",".join(["random", *names]), *SMALL)
    assert done.returncode == 1, done.stderr
    told = json.loads(done.stdout)
    assert [r["tokenizer"]["name"] for r in told["records"]] == ["random"]
    errors = {f["run"].split(" · ")[2]: f["error"] for f in told["failed"]}
    assert list(errors) == names
    for name, error in errors.items():
        assert BROKEN[name][1] in error, (name, error)


@pytest.mark.slow
def test_a_torn_plugin_is_named_and_all_leaves_it_out(environment: Environment) -> None:
    done = environment.bench("run", "--tokenizer", "random,torn", *SMALL)
    assert done.returncode == 2 and "torn.py: line 1" in done.stderr
    checked = environment.bench("plugin", "check", "wrong_shapes")
    assert checked.returncode == 1 and "codes have shape" in checked.stdout
    assert sys.prefix not in checked.stdout

"""`bench plugin new | check | docs`: start a tokenizer of one's own, check it, write the pages about all of them."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from typer.exceptions import Exit

from sidbench.benchmark.registry import find, load
from sidbench.datasets.foundation.errors import InputError

FORMS = "the name of an installed tokenizer, pkg.module:Class or path/to/file.py:Class"


def new_command(name: str, out: Path) -> None:
    """Write the package ``<out>/<name>`` and say what to run next."""
    from sidbench.benchmark.scaffold.project import new_project

    for path in new_project(name, out):
        sys.stdout.write(f"wrote {path}\n")
    sys.stdout.write(f"next:\n  cd {shlex.quote(str(out / name))}\n  pip install --no-build-isolation --editable .\n"
                     f"  bench plugin check {name}\n"
                     f"  bench run --tokenizer {name},rqkmeans,random --dataset synthetic --budget quick\n")


def check_command(target: str, as_json: bool) -> None:
    """Run the conformance checks on a tokenizer and print the result of each. Exits with 1 when one failed."""
    cls = resolve(target)
    from sidbench.benchmark.testing import run_checks

    results = run_checks(cls)
    counts = {status: sum(r.status == status for r in results) for status in ("passed", "skipped", "failed")}
    if as_json:
        sys.stdout.write(json.dumps({"target": target, "class": f"{cls.__module__}:{cls.__qualname__}",
                                     "file": inspect.getsourcefile(cls), **counts,
                                     "checks": [vars(r) for r in results]}, indent=2) + "\n")
    else:
        width = max(len(r.name) for r in results)
        lines = [f"{r.name:<{width}}  {r.status:<7}  {' '.join(r.detail.split())}".rstrip() for r in results]
        said = ", ".join(f"{n} {status}" for status, n in counts.items())
        sys.stdout.write("\n".join([f"{cls.__name__} ({inspect.getsourcefile(cls)})", *lines, said]) + "\n")
    if counts["failed"]:
        raise Exit(1)


def docs_command(out: Path, check: bool) -> None:
    """Write the pages of all in-tree tokenizers, or with ``check`` compare them; exits with 1 when one differs."""
    from sidbench.benchmark.plugin_docs import compare_pages, pages, write_pages

    made = pages()
    if not check:
        for path in write_pages(made, out):
            sys.stdout.write(f"wrote {path}\n")
        return
    stale = compare_pages(made, out)
    for path, trouble in stale.items():
        sys.stderr.write(f"{path}: {trouble}\n")
    if stale:
        sys.stderr.write("write them again with `bench plugin docs`\n")
        raise Exit(1)
    sys.stdout.write(f"{len(made)} pages in {out} are up to date\n")


def resolve(target: str) -> type[Any]:
    """The tokenizer class that ``target`` names (see ``FORMS``).

    A file without ``:Class`` must hold one public tokenizer. The working folder is searched last for ``pkg.module``.
    Raises ``InputError`` naming the module, file or class that cannot be found, and the error an import raised.
    """
    place, colon, class_name = target.rpartition(":") if ":" in target else (target, "", "")
    if place.endswith(".py"):
        return _class_of(_import_file(Path(place)), class_name, place)
    if not colon:
        return load("tokenizer", find("tokenizer", target).name)
    if not all(part.isidentifier() for part in (*place.split("."), class_name)):
        raise InputError("tokenizer to check", got=repr(target), wanted=FORMS)
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    return _class_of(_guarded(lambda: importlib.import_module(place), place), class_name, place)


def _import_file(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"file {path}", got="nothing there", wanted=FORMS)
    # A name of its own, so that `random.py` does not take the place of the module it is called after.
    name = f"_checked_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"file {path}", got="no Python module", wanted=FORMS)
    module, loader = importlib.util.module_from_spec(spec), spec.loader
    sys.modules[name] = module  # dataclasses and the checks look the module up
    _guarded(lambda: loader.exec_module(module), str(path))
    return module


def _guarded(work: Any, place: str) -> Any:
    try:
        return work()
    except Exception as error:  # a stranger's module may raise anything while it is imported
        line = f" (line {error.lineno})" if isinstance(error, SyntaxError) else ""
        missing = isinstance(error, ModuleNotFoundError) and f"{place}.".startswith(f"{error.name}.")
        raise InputError(
            f"{place} cannot be imported{line}", got=f"{type(error).__name__}: {error}", wanted=FORMS,
            do="install its package, or run this from the folder that holds it" if missing
            else "fix this file; `bench --debug plugin check` shows the traceback") from error


def _class_of(module: Any, class_name: str, place: str) -> type[Any]:
    from sidbench.tokenizers.base import Tokenizer

    own = {n: c for n, c in vars(module).items() if inspect.isclass(c) and issubclass(c, Tokenizer)
           and c.__module__ == module.__name__ and not n.startswith("_")}
    found = getattr(module, class_name, None) if class_name else next(iter(own.values()), None) if len(own) == 1 else None
    if not (inspect.isclass(found) and issubclass(found, Tokenizer)):
        raise InputError(f"{place}: tokenizer class {class_name}".rstrip(), got=repr(found) if found else "nothing",
                         wanted="a subclass of sidbench.tokenizers.base.Tokenizer",
                         do=f"this module defines {', '.join(own) or 'none'}")
    if inspect.isabstract(found):
        raise InputError(f"{place}: {found.__name__}", got=f"no {', '.join(sorted(found.__abstractmethods__))}",
                         wanted="every method of the contract", do="see docs/add-a-tokenizer.md")
    return found

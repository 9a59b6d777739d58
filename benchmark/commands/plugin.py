"""`bench plugin new | check | docs`: start a tokenizer of one's own, check a tokenizer or recommender, write the pages
about all of them."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import shlex
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typer.exceptions import Exit

from sidbench.benchmark.plugins.registry import KINDS, load, plugins, read_plugin
from sidbench.datasets.foundation.errors import InputError, StageError, unknown_name

if TYPE_CHECKING:
    from sidbench.benchmark.testing.tokenizers import CheckResult

CHECKED = ("tokenizer", "recommender")
FORMS = "the name of an installed tokenizer or recommender, pkg.module:Class or path/to/file.py:Class"


def new_command(name: str, out: Path) -> None:
    """Write the package ``<out>/<name>`` and say what to run next."""
    from sidbench.benchmark.plugins.scaffold.project import new_project

    for path in new_project(name, out):
        sys.stdout.write(f"wrote {path}\n")
    sys.stdout.write(
        f"next:\n  cd {shlex.quote(str(out / name))}\n  pip install --no-build-isolation --editable .\n"
        f"  bench plugin check {name}\n"
        f"  bench run --tokenizer {name},rqkmeans,random --dataset synthetic --budget quick\n"
    )


def check_command(target: str, as_json: bool) -> None:
    """Run the conformance checks on a tokenizer or recommender and print the result of each. Exits with 1 when one
    failed."""
    cls = resolve(target)
    from sidbench.benchmark.testing.tokenizers import run_checks
    from sidbench.tokenizers.base import Tokenizer

    results = run_checks(cls) if issubclass(cls, Tokenizer) else _check_recommender(cls)
    counts = {status: sum(r.status == status for r in results) for status in ("passed", "skipped", "failed")}
    if as_json:
        sys.stdout.write(
            json.dumps(
                {
                    "target": target,
                    "class": f"{cls.__module__}:{cls.__qualname__}",
                    "file": inspect.getsourcefile(cls),
                    **counts,
                    "checks": [vars(r) for r in results],
                },
                indent=2,
            )
            + "\n"
        )
    else:
        width = max(len(r.name) for r in results)
        lines = [f"{r.name:<{width}}  {r.status:<7}  {' '.join(r.detail.split())}".rstrip() for r in results]
        said = ", ".join(f"{n} {status}" for status, n in counts.items())
        sys.stdout.write("\n".join([f"{cls.__name__} ({inspect.getsourcefile(cls)})", *lines, said]) + "\n")
    if counts["failed"]:
        raise Exit(1)


def _check_recommender(cls: type[Any]) -> list[CheckResult]:
    """Whether the source says what the registry must know, and the life cycle, which ends at its first broken promise."""
    from sidbench.benchmark.testing.recommenders import check_recommender
    from sidbench.benchmark.testing.tokenizers import CheckResult

    source = inspect.getsourcefile(cls) or ""
    described = read_plugin("recommender", Path(source))
    results = [CheckResult("metadata", "failed" if described.broken else "passed", described.broken)]
    try:
        check_recommender(cls)
    except StageError as broken:
        return [*results, CheckResult("life cycle", "failed", str(broken))]
    except Exception as error:  # noqa: BLE001 - a stranger's plugin may raise anything; it becomes a named failure
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == source]
        where = f" (line {lines[-1]})" if lines else ""
        return [*results, CheckResult("life cycle", "failed", f"raised {type(error).__name__}: {error}{where}")]
    return [*results, CheckResult("life cycle", "passed")]


def docs_command(out: Path, check: bool) -> None:
    """Write the pages of all in-tree tokenizers and recommenders below ``out``, or with ``check`` compare them; exits
    with 1 when one differs."""
    from sidbench.benchmark.pages.build import compare_pages, pages, write_pages

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
    """The tokenizer or recommender class that ``target`` names (see ``FORMS``).

    A file without ``:Class`` must hold one public plugin. The working folder is searched last for ``pkg.module``.
    Raises ``InputError`` naming the module, file or class that cannot be found, and the error an import raised.
    """
    place, colon, class_name = target.rpartition(":") if ":" in target else (target, "", "")
    if place.endswith(".py"):
        return _class_of(_import_file(Path(place)), class_name, place)
    if not colon:
        return _installed(target)
    if not all(part.isidentifier() for part in (*place.split("."), class_name)):
        raise InputError("plugin to check", got=repr(target), wanted=FORMS)
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    return _class_of(_guarded(lambda: importlib.import_module(place), place), class_name, place)


def _installed(name: str) -> type[Any]:
    """The class of the one tokenizer or recommender of this name."""
    known = {kind: {n.replace("-", "_") for n in plugins(kind)} for kind in CHECKED}
    kinds = [kind for kind in CHECKED if name.replace("-", "_") in known[kind]]
    if not kinds:
        raise unknown_name("tokenizer or recommender", name, set().union(*known.values()), do="run `bench list`")
    if len(kinds) > 1:
        classes = [load(kind, name) for kind in kinds]
        raise InputError(
            f"plugin {name!r}",
            got=f"a {' and a '.join(kinds)} of this name",
            wanted="one class",
            do="name it: " + " or ".join(f"{c.__module__}:{c.__qualname__}" for c in classes),
        )
    return load(kinds[0], name)


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
            f"{place} cannot be imported{line}",
            got=f"{type(error).__name__}: {error}",
            wanted=FORMS,
            do="install its package, or run this from the folder that holds it"
            if missing
            else "fix this file; `bench --debug plugin check` shows the traceback",
        ) from error


def _class_of(module: Any, class_name: str, place: str) -> type[Any]:
    bases = {
        kind: getattr(importlib.import_module(f"{KINDS[kind].package}.base"), KINDS[kind].base_class) for kind in CHECKED
    }

    def kind_of(found: Any) -> str:
        return next((k for k, base in bases.items() if inspect.isclass(found) and issubclass(found, base)), "")

    own = {n: c for n, c in vars(module).items() if kind_of(c) and c.__module__ == module.__name__ and not n.startswith("_")}
    found: Any = getattr(module, class_name, None) if class_name else next(iter(own.values())) if len(own) == 1 else None
    kind = kind_of(found)
    if not kind:
        raise InputError(
            f"{place}: plugin class {class_name}".rstrip(),
            got=repr(found) if found else "nothing",
            wanted="a subclass of " + " or ".join(f"{b.__module__}.{b.__name__}" for b in bases.values()),
            do=f"this module defines {', '.join(own) or 'none'}",
        )
    cls: type[Any] = found
    if inspect.isabstract(cls):
        raise InputError(
            f"{place}: {cls.__name__}",
            got=f"no {', '.join(sorted(cls.__abstractmethods__))}",
            wanted="every method of the contract",
            do=f"see docs/add-a-{kind}.md",
        )
    return cls

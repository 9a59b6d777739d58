"""`bench plugin new | check | docs`: start a tokenizer of one's own, check a plugin of any kind, write the pages about
all of them."""

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

from sidbench.benchmark.plugins.registry import KINDS, load, plugins
from sidbench.datasets.foundation.errors import InputError, unknown_name

FORMS = "the name of an installed plugin, pkg.module:Class or path/to/file.py:Class"
GUIDES = {
    "tokenizer": "docs/add-a-tokenizer.md",
    "recommender": "docs/add-a-recommender.md",
    "dataset": "docs/add-a-data-set.md",
    "collisions": "the contract in tokenizers/collisions/base.py",
}


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
    """Run the conformance checks on a plugin of any kind and print the result of each. Exits with 1 when one failed."""
    cls = resolve(target)
    from sidbench.benchmark.testing.checks import STATUSES, run_checks
    from sidbench.benchmark.testing.parametrize import plugin_checks

    results = run_checks(plugin_checks(cls))
    counts = {status: sum(r.status == status for r in results) for status in STATUSES}
    if as_json:
        sys.stdout.write(
            json.dumps(
                {
                    "target": target,
                    "kind": _kind_of(cls),
                    "name": cls.name,
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
        lines = [f"{r.name:<{width}}  {r.status:<8}  {' '.join(r.detail.split())}".rstrip() for r in results]
        said = ", ".join(f"{n} {status}" for status, n in counts.items() if n or status in ("passed", "failed"))
        sys.stdout.write("\n".join([f"{cls.__name__} ({inspect.getsourcefile(cls)})", *lines, said]) + "\n")
    if counts["failed"]:
        raise Exit(1)


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
    """The plugin class that ``target`` names (see ``FORMS``).

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
    """The class of the one plugin of this name."""
    known = {kind: {n.replace("-", "_") for n in plugins(kind)} for kind in KINDS}
    kinds = [kind for kind in KINDS if name.replace("-", "_") in known[kind]]
    if not kinds:
        raise unknown_name("plugin", name, set().union(*known.values()), do="run `bench list`")
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


def _kind_of(found: Any) -> str:
    """Kind of a plugin class; empty for anything else."""
    for kind in KINDS.values():
        base = getattr(importlib.import_module(f"{kind.package}.base"), kind.base_class)
        if inspect.isclass(found) and issubclass(found, base):
            return kind.name
    return ""


def _class_of(module: Any, class_name: str, place: str) -> type[Any]:
    own = {
        n: c for n, c in vars(module).items() if _kind_of(c) and c.__module__ == module.__name__ and not n.startswith("_")
    }
    found: Any = getattr(module, class_name, None) if class_name else next(iter(own.values())) if len(own) == 1 else None
    kind = _kind_of(found)
    if not kind:
        raise InputError(
            f"{place}: plugin class {class_name}".rstrip(),
            got=repr(found) if found else "nothing",
            wanted="a subclass of " + ", ".join(k.base_class for k in KINDS.values()),
            do=f"this module defines {', '.join(own) or 'none'}",
        )
    cls: type[Any] = found
    if inspect.isabstract(cls):
        raise InputError(
            f"{place}: {cls.__name__}",
            got=f"no {', '.join(sorted(cls.__abstractmethods__))}",
            wanted="every method of the contract",
            do=f"see {GUIDES[kind]}",
        )
    return cls

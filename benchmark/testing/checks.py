"""Conformance checks as values: a name, a class, and what it must not break.

In the manner of scikit-learn's ``check_estimator`` and ``parametrize_with_checks``. Every kind of plugin has a function
that lists its checks (``tokenizer_checks(cls)``) and one that runs them (``check_tokenizer(cls)``). The checks of a class
share what they compute, so running all of them fits a model as few times as running them one by one in one process.
"""

from __future__ import annotations

import inspect
import traceback
import unittest
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sidbench.datasets.foundation.errors import InputError, StageError
from sidbench.datasets.foundation.plugin import PluginBase

STATUSES = ("passed", "skipped", "expected", "failed")
C = TypeVar("C")


@dataclass(frozen=True)
class CheckResult:
    """Outcome of one check; ``detail`` says why it did not pass.

    status: "passed", "skipped" (does not apply to this class), "expected" (failed, as the class declares in
    ``expected_failures``) or "failed". A declared failure that passes all the same is "failed": its reason is gone.
    """

    name: str
    status: str
    detail: str = ""


class ConformanceError(StageError):
    """A plugin breaks its contract; the message names every failed check."""


class Broken(Exception):
    """A check failed."""


class NotApplicable(Exception):
    """A check does not apply to this class."""


@dataclass(frozen=True)
class PluginCheck:
    """One check of one plugin class, to be called in a test. ``expected``: why it is declared to fail, if it is."""

    plugin: type[PluginBase]
    name: str
    action: Callable[[], None] = field(repr=False)
    expected: str = ""

    @property
    def __name__(self) -> str:  # what pytest shows for it
        return f"{self.plugin.__name__}-{self.name.replace(' ', '_')}"

    def run(self) -> CheckResult:
        """The outcome; raises for none."""
        try:
            self.action()
        except NotApplicable as reason:
            return CheckResult(self.name, "skipped", str(reason))
        except Broken as failure:
            return self._failed(str(failure))
        except Exception as error:  # noqa: BLE001 - a stranger's plugin may raise anything; it becomes a named failure
            return self._failed(f"raised {type(error).__name__}: {error}{_line(error, self.plugin)}")
        if self.expected:
            return CheckResult(
                self.name, "failed", f"passes, though expected_failures says: {self.expected}. Take the entry out"
            )
        return CheckResult(self.name, "passed")

    def _failed(self, detail: str) -> CheckResult:
        if self.expected:
            return CheckResult(self.name, "expected", f"{self.expected} ({detail})")
        return CheckResult(self.name, "failed", detail)

    def __call__(self) -> None:
        """Raise ``ConformanceError`` for a failure, ``unittest.SkipTest`` for a check that does not apply."""
        result = self.run()
        if result.status == "failed":
            raise ConformanceError(f"{self.plugin.__name__}: {result.name}: {result.detail}")
        if result.status != "passed":
            raise unittest.SkipTest(f"{result.name}: {result.detail}")


def _line(error: BaseException, plugin: type[PluginBase]) -> str:
    """Where in the plugin's own file an error arose."""
    try:
        source = inspect.getsourcefile(plugin)
    except TypeError:  # a class of an interactive session
        return ""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == source]
    return f" (line {lines[-1]})" if lines else ""


def checks_of(cls: Any, base: type[PluginBase], table: Mapping[str, Callable[[C], None]], case: C) -> list[PluginCheck]:
    """The checks of ``table`` on ``case``, with what the class declares to fail; one more for every unknown declaration."""
    plugin = plugin_class(cls, base)
    declared = plugin.expected_failures

    def unknown() -> None:
        raise Broken(f"expected_failures names an unknown check; there are {', '.join(table)}")

    listed = [PluginCheck(plugin, name, unknown) for name in sorted(set(declared) - set(table))]
    for name, check in table.items():
        listed.append(PluginCheck(plugin, name, _bound(check, case), declared.get(name, "")))
    return listed


def _bound(check: Callable[[C], None], case: C) -> Callable[[], None]:
    return lambda: check(case)


def plugin_class(cls: Any, base: type[PluginBase]) -> type[PluginBase]:
    """``cls`` itself. Raises ``ConformanceError`` when it does not extend ``base``."""
    if not (inspect.isclass(cls) and issubclass(cls, base)):
        raise ConformanceError(f"{getattr(cls, '__name__', cls)}: must be a class that extends {base.__name__}.")
    return cls


def run_checks(checks: Iterable[PluginCheck]) -> list[CheckResult]:
    """The results of all checks, failed ones included; raises for none of them."""
    return [check.run() for check in checks]


def conforming(cls: type[Any], checks: Iterable[PluginCheck]) -> list[CheckResult]:
    """The results of all checks. Raises one ``ConformanceError`` that names every failed one with its reason."""
    results = run_checks(checks)
    failed = [r for r in results if r.status == "failed"]
    if failed:
        lines = "\n".join(f"  {r.name}: {r.detail}" for r in failed)
        raise ConformanceError(f"{cls.__name__} fails {len(failed)} of {len(results)} conformance checks:\n{lines}")
    return results


def require(condition: bool, message: str) -> None:
    """Fail the check with ``message`` unless ``condition``."""
    if not condition:
        raise Broken(message)


def must_refuse(call: Callable[[], object], what: str) -> InputError:
    """The ``InputError`` that ``call`` raises; fails the check when it raises none, or one that helps nobody."""
    try:
        call()
    except InputError as error:
        require(bool(error.wanted or error.do), f"the error for {what} does not say what is wanted or to do: {error}")
        return error
    raise Broken(f"accepts {what}; wanted an InputError that says what to do")

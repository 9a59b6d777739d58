"""``parametrize_with_checks``: every conformance check of plugins as a test of its own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sidbench.benchmark.testing.checks import ConformanceError, PluginCheck
from sidbench.benchmark.testing.collisions import collision_policy_checks
from sidbench.benchmark.testing.datasets import dataset_checks
from sidbench.benchmark.testing.recommenders import recommender_checks
from sidbench.benchmark.testing.tokenizers import tokenizer_checks
from sidbench.datasets.base import DatasetPlugin
from sidbench.recommenders.base import Recommender
from sidbench.tokenizers.base import Tokenizer
from sidbench.tokenizers.collisions.base import CollisionPolicy

if TYPE_CHECKING:
    import pytest

CHECKS_OF: dict[type[Any], Any] = {
    Tokenizer: tokenizer_checks,
    Recommender: recommender_checks,
    DatasetPlugin: dataset_checks,
    CollisionPolicy: collision_policy_checks,
}


def plugin_checks(cls: type[Any]) -> list[PluginCheck]:
    """The checks of a class of any kind. Raises ``ConformanceError`` when it is none."""
    for base, listed in CHECKS_OF.items():
        if isinstance(cls, type) and issubclass(cls, base):
            checks: list[PluginCheck] = listed(cls)
            return checks
    raise ConformanceError(
        f"{getattr(cls, '__name__', cls)}: must extend {', '.join(b.__name__ for b in CHECKS_OF)} or a class below them."
    )


def parametrize_with_checks(plugins: Iterable[type[Any] | PluginCheck]) -> pytest.MarkDecorator:
    """Decorator of a test with one argument ``check``, which it calls.

    plugins: classes of any kind, or checks (``*tokenizer_checks(cls, settings)`` for settings of one's own).

    Declared failures are strict ``xfail``: one that passes is reported, and so is an unknown declaration.

    >>> @parametrize_with_checks([MyTokenizer])  # doctest: +SKIP
    ... def test_contract(check):
    ...     check()
    """
    import pytest

    checks = [c for p in plugins for c in ([p] if isinstance(p, PluginCheck) else plugin_checks(p))]
    return pytest.mark.parametrize(
        "check",
        [
            pytest.param(
                replace(check, expected=""),
                id=check.__name__,
                marks=[pytest.mark.xfail(reason=check.expected, strict=True, raises=ConformanceError)]
                if check.expected
                else [],
            )
            for check in checks
        ],
    )

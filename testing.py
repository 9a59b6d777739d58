"""What the tests of a plugin of another package import: conformance checks and small planted inputs.

One test that runs every check and names all broken promises at once:

>>> from sidbench.testing import check_collision_policy
>>> from sidbench.tokenizers.collisions.append import Append
>>> [(result.name, result.status) for result in check_collision_policy(Append)][:3]
[('metadata', 'passed'), ('name', 'passed'), ('settings', 'passed')]

One test a check, for classes of any kind (strict ``xfail`` for what a class declares in ``expected_failures``):

>>> from sidbench.testing import parametrize_with_checks
>>> @parametrize_with_checks([Append])
... def test_contract(check):
...     check()

``tokenizer_checks(cls, settings)`` and its siblings are the named checks themselves, for ``pytest.mark.parametrize`` or to
run without pytest.
"""

from __future__ import annotations

from sidbench.benchmark.runtime.local import LocalRuntime, local_runtime
from sidbench.benchmark.testing.checks import CheckResult, ConformanceError, PluginCheck, run_checks
from sidbench.benchmark.testing.collisions import (
    check_collision_policy,
    collision_policy_checks,
    planted_collisions,
)
from sidbench.benchmark.testing.datasets import NoFiles, check_dataset, dataset_checks
from sidbench.benchmark.testing.parametrize import parametrize_with_checks, plugin_checks
from sidbench.benchmark.testing.planted import (
    as_sequences,
    make_chain,
    make_ranking,
    make_retrieval,
    make_sids,
    planted_features,
)
from sidbench.benchmark.testing.recommenders import check_recommender, recommender_checks
from sidbench.benchmark.testing.tokenizers import check_tokenizer, tokenizer_checks

__all__ = [
    "CheckResult",
    "ConformanceError",
    "LocalRuntime",
    "NoFiles",
    "PluginCheck",
    "as_sequences",
    "check_collision_policy",
    "check_dataset",
    "check_recommender",
    "check_tokenizer",
    "collision_policy_checks",
    "dataset_checks",
    "local_runtime",
    "make_chain",
    "make_ranking",
    "make_retrieval",
    "make_sids",
    "parametrize_with_checks",
    "planted_collisions",
    "planted_features",
    "plugin_checks",
    "recommender_checks",
    "run_checks",
    "tokenizer_checks",
]

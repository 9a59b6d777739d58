"""sidbench, the benchmark suite for semantic-ID tokenizers: what a notebook needs.

``import sidbench as sb`` imports neither torch nor numpy; each name below is imported when it is first used. Types stand
in ``__init__.pyi``, the manual is ``docs/python-api.md``. Authors of plugins import from ``sidbench.plugins``.
"""

from __future__ import annotations

import importlib
from typing import Any

# Public name -> the module that defines it.
_EXPORTS = {
    "Board": "benchmark.api.boards",
    "ComparedRows": "benchmark.api.comparing",
    "FinishedRun": "benchmark.api.results",
    "ImportedDataset": "benchmark.api.data",
    "InputError": "datasets.foundation.errors",
    "ItemFeatures": "datasets.features.base",
    "Results": "benchmark.api.results",
    "SemanticIds": "tokenizers.base",
    "SidTokenizer": "benchmark.api.tokenizers",
    "SidbenchError": "datasets.foundation.errors",
    "compare": "benchmark.api.comparing",
    "dataset_from_frames": "benchmark.api.data",
    "features_from_arrays": "benchmark.api.features",
    "list_datasets": "benchmark.api.listing",
    "list_recommenders": "benchmark.api.listing",
    "list_tokenizers": "benchmark.api.listing",
    "load_board": "benchmark.api.boards",
    "load_tokenizer": "benchmark.api.tokenizers",
    "measure": "benchmark.api.measuring",
    "register": "benchmark.plugins.live",
    "results": "benchmark.api.results",
    "run": "benchmark.api.running",
    "tokenizer": "benchmark.api.tokenizers",
}

__all__ = ["__version__", *_EXPORTS]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("sidbench")
    elif name in _EXPORTS:
        value = getattr(importlib.import_module(f"sidbench.{_EXPORTS[name]}"), name)
    else:
        raise AttributeError(f"module 'sidbench' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

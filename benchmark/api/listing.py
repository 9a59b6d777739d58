"""What is installed, as frames; read from source, so that no plugin is imported."""

from __future__ import annotations

import pandas as pd

from sidbench.benchmark.plugins.registry import installed


def list_tokenizers() -> pd.DataFrame:
    """Every tokenizer by name, with its metadata: title, paper, year, modalities, ordered, control, deviations, ..."""
    return _frame("tokenizer")


def list_recommenders() -> pd.DataFrame:
    """Every recommender by name, with its metadata: title, paper, year, task, needs_sids, ..."""
    return _frame("recommender")


def list_datasets() -> pd.DataFrame:
    """Every data set by name, with its metadata: title, source, licence, modalities, tasks, published counts, ..."""
    return _frame("dataset")


def _frame(kind: str) -> pd.DataFrame:
    """One row per plugin; ``broken`` says why one cannot be used, empty where it can."""
    plugins = installed().plugins(kind)
    rows = [{"title": "", **p.info, "broken": p.broken} for p in plugins.values()]
    return pd.DataFrame(rows, index=pd.Index(plugins, name=kind))

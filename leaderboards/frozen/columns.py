"""The columns that boards of format 1 show: metrics and costs with their headings, units and digits."""

from __future__ import annotations

from typing import NamedTuple


class Column(NamedTuple):
    """A metric's heading, the task it belongs to (``None``: the SID table), the digits printed, and its unit in HTML."""

    heading: str
    task: str | None
    digits: int = 4
    unit: str = ""


COLUMNS = {
    "item_recall_at_10": Column("R@10", "retrieval"),
    "item_ndcg_at_10": Column("N@10", "retrieval"),
    "item_recall_at_50": Column("R@50", "retrieval"),
    "item_recall_at_100": Column("R@100", "retrieval"),
    "item_ndcg_at_100": Column("N@100", "retrieval"),
    "sid_recall_at_10": Column("SID R@10", "retrieval"),
    "inflation_recall_at_10": Column("inflation", "retrieval", 3, "ratio"),
    "auc": Column("AUC", "ranking"),
    "gauc": Column("GAUC", "ranking"),
    "entropy": Column("entropy", None, 3, "nats"),
    "utilisation": Column("utilisation", None, 3, "share"),
    "collision_rate": Column("collision rate", None, 4, "share"),
    "collision_rate_before": Column("before policy", None, 4, "share"),
    "cat_ami": Column("category AMI", None, 3),
    "cooc_lift": Column("co-occurrence lift", None, 2, "ratio"),
    "probe_text": Column("probe text", None, 3, "share of variance"),
    "probe_vision": Column("probe vision", None, 3, "share of variance"),
    "probe_behaviour": Column("probe behaviour", None, 3, "share of variance"),
}
HEADLINES = ("item_recall_at_10", "auc")  # ranked, and set against the best other tokenizer; higher is better


class Cost(NamedTuple):
    """A cost in markdown and LaTeX: heading, what divides the number, digits."""

    heading: str
    unit: float = 1.0
    digits: int = 1


COSTS = {
    "fit_seconds": Cost("fit s"),
    "encode_items_per_second": Cost("encode items/s", 1, 0),
    "retrieval_fit_seconds": Cost("retrieval fit s"),
    "ranking_fit_seconds": Cost("ranking fit s"),
    "ms_per_user": Cost("ms/user", 1, 3),
    "ms_per_row": Cost("ms/row", 1, 4),
    "tokenizer_parameters": Cost("tokenizer M parameters", 1e6, 2),
    "recommender_parameters": Cost("recommender M parameters", 1e6, 2),
    "peak_memory_bytes": Cost("peak GiB", 2**30, 2),
}

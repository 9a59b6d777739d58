"""What each published row needs as runs of ours: a pure description that the command turns into runs.

Rows of a paper share one namespace, so the full method of an ablation table is the run of the main table. Row names are
those of ``published/``; figures add rows of their own. A row without a run says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from sidbench.leaderboards.reproduction.papers import PublishedPaper

NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Need:
    """One configuration to run.

    tokenizer: ``None`` for baselines. settings: ``group.field`` -> value that a record must have to stand in this row.
    wished: settings that new runs get while a record with others may stand in, which is then said. recommenders: one a
    task. collisions: policy. ties: order of events with equal time.
    """

    tokenizer: str | None
    recommenders: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=lambda: NOTHING)
    wished: Mapping[str, Any] = field(default_factory=lambda: NOTHING)
    collisions: str = "none"
    ties: str = "shuffled"


@dataclass(frozen=True)
class Plan:
    """needs: row name -> what it takes, or the reason why no run of ours can stand there. figures: number -> rows that a
    figure shows."""

    needs: Mapping[str, Need | str]
    figures: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: NOTHING)


_ABLATIONS: Mapping[str, Mapping[str, Any]] = {
    "no controller": {"controller": False},
    "no contrastive loss": {"contrastive": False},
    "no sparsity regulariser": {"sparsity": False},
    "no router": {"router": "softmax"},
}
_CONTROLLERS = ((20, 7), (20, 9), (20, 14), (10, 9))
_SHARES = (0.2, 0.4, 0.6, 0.8)
_MMQ_ROWS = {
    "RQ-VAE": "rqvae",
    "OPQ": "opq",
    "RQ-KMeans": "rqkmeans",
    "LETTER": "letter",
    "DAS": "das",
    "RQ-VAE++": "rqvae_pp",
    "MM-RQ-VAE": "mm_rqvae",
}
ITEM_ID, ADA_SID = "Item ID", "ADA-SID"
_NOT_HERE = "this suite has no such model"


def plan_for(paper: PublishedPaper, dataset: str, recommenders: tuple[str, ...] | None = None) -> Plan:
    """The plan of one paper on one of our data sets.

    recommenders: in place of the usual ones (``mtp`` and ``ppnet``) where the paper leaves the choice open; none at all
    for SIDs only.
    """
    if paper.name == "mmq-v2":
        return _mmq_v2(("mtp", "ppnet") if recommenders is None else recommenders)
    return {"grid": _grid, "rpg": _rpg, "tiger": _tiger, "letter": _letter}[paper.name](dataset)


def _mmq_v2(recommenders: tuple[str, ...]) -> Plan:
    size = {"tokenizer.code_length": 6, "tokenizer.codebook_size": 100}
    full = {
        **size,
        "tokenizer.controller": True,
        "tokenizer.contrastive": True,
        "tokenizer.sparsity": True,
        "tokenizer.router": "behaviour",
        "tokenizer.alpha": 10.0,
        "tokenizer.beta": 9.0,
        "tokenizer.target_active_fraction": None,
    }

    def ada(**changed: Any) -> Need:
        settings = {**full, **{f"tokenizer.{n}": v for n, v in changed.items()}}
        return Need("adasid", recommenders, settings)

    needs: dict[str, Need | str] = {row: Need(name, recommenders, size) for row, name in _MMQ_ROWS.items()}
    # Section 4.1.3 gives RQ-KMeans inputs tuned on behaviour.
    needs["RQ-KMeans"] = Need("rqkmeans", recommenders, size, {"tokenizer.inputs": "behaviour_tuned"})
    # Retrieval by item ID has no row in the paper; its ranking model sees item embeddings instead of codes.
    needs[ITEM_ID] = Need(None, ("ppnet",), {"ranker.representation": "item_id"})
    needs |= {ADA_SID: ada(), **{row: ada(**changed) for row, changed in _ABLATIONS.items()}}
    needs |= {f"alpha {a}, beta {b}": ada(alpha=float(a), beta=float(b)) for a, b in _CONTROLLERS}
    # 3 of 5 behaviour codes follow from length 6, so that share is the full method itself.
    needs |= {share_row(s): ada() if s == 0.6 else ada(target_active_fraction=s) for s in _SHARES}
    return Plan(
        needs,
        {
            "3": tuple(share_row(s) for s in _SHARES),
            "4": tuple(f"alpha {a}, beta {b}" for a, b in _CONTROLLERS),
            "5": (ITEM_ID, *_MMQ_ROWS, ADA_SID),
        },
    )


def share_row(share: float) -> str:
    """Row of Figure 3: the share of behaviour codes that the regulariser leaves in use, 1 - target sparsity."""
    return f"behaviour share {share}"


def _three_levels(tokenizer: str, settings: Mapping[str, Any], wished: Mapping[str, Any] = NOTHING) -> Need:
    size = {"tokenizer.code_length": 3, "tokenizer.codebook_size": 256}
    return Need(tokenizer, ("tiger",), {**size, **settings}, wished, "append", "file")


def _grid(dataset: str) -> Plan:
    return Plan(
        {
            "RK-means": _three_levels("rqkmeans", {"tokenizer.inputs": "content"}),
            "R-VQ": _three_levels("rvq", {}),
            "RQ-VAE": _three_levels("rqvae", {}),
        }
    )


def _rpg(dataset: str) -> Plan:
    size = {"tokenizer.code_length": 32 if dataset == "beauty" else 16, "tokenizer.codebook_size": 256}
    return Plan(
        {
            "RPG": Need("opq", ("rpg",), size, {"tokenizer.reduce_dim": 512, "tokenizer.whiten": True}, ties="file"),
            "random tokens": Need("random", ("rpg",), size, ties="file"),
            "RQ instead of OPQ": Need("rqkmeans", ("rpg",), size, {"tokenizer.inputs": "content"}, ties="file"),
            "no heads": "this suite's rpg always has one head a digit",
            "shared head": "this suite's rpg always has one head a digit",
            "no graph constraint": "this suite ranks existing items only, exactly or along the graph",
            **_baselines(),
        }
    )


def _tiger(dataset: str) -> Plan:
    tiger = _three_levels("rqvae", {})
    rows = dict.fromkeys(("TIGER", "TIGER (XT re-run)", "TIGER (PG re-run)"), tiger)
    others = ("S3-Rec", "FDSA", "BERT4Rec", "HGN", "Caser", "GRU4Rec", "PopRec")
    return Plan({**rows, **_baselines(), **dict.fromkeys(others, _NOT_HERE)})


def _baselines() -> dict[str, Need | str]:
    sasrec, hstu = (Need(None, (name,), ties="file") for name in ("sasrec", "hstu"))
    return {"SASRec": sasrec, "SASRec (PG re-run)": sasrec, "HSTU": hstu, "HSTU (PG re-run)": hstu}


def _letter(dataset: str) -> Plan:
    size = {"tokenizer.code_length": 4, "tokenizer.codebook_size": 256}

    def letter(alpha: float, beta_d: float) -> Need:
        settings = {**size, "tokenizer.alpha": alpha, "tokenizer.beta_d": beta_d}
        return Need("letter", ("tiger",), settings, ties="file")

    return Plan(
        {
            "TIGER": Need("rqvae", ("tiger",), size, ties="file"),
            "LETTER-TIGER": letter(0.01, 1e-4),
            "RQ-VAE + collaborative": letter(0.01, 0.0),
            "RQ-VAE + diversity": letter(0.0, 1e-4),
            "both": letter(0.01, 1e-4),
            "SASRec": Need(None, ("sasrec",), ties="file"),
        }
    )

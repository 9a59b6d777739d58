"""RPG: all codes of a long, unordered SID predicted at once, with exact scores or graph-constrained decoding.

RPG (arXiv 2506.05781), for the SIDs of any tokenizer; L positions, one shared table E as input and output:

    x_t    = mean_p E_p[c_tp]                              item input, codes that are PAD left out of the mean
    h      = GPT2(x_1 .. x_t)                              dropout on embeddings and attention weights only
    s_p    = h + SiLU(W_p h + b_p)                         one head a position, W_p = b_p = 0 at the start
    P_p(k) = softmax_k(cos(s_p, E_p[k]) / tau)             PAD is class K_p of its position
    loss   = mean_p CE, at every position of the sequence in one pass
    score(i) = mean_p log P_p(c_ip)                        PAD classes included; the sum ranks alike and is what is kept

``decoding="exact"`` ranks the whole catalogue; ``"graph"`` walks the similarity graph of ``decoding.graph`` from a
random start, as the authors serve it. Validation is exact in both, because the graph holds for one table E only.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.runtime import Runtime, TrainingPlan
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.foundation.settings import check_settings, setting
from sidbench.datasets.splits.base import Sequences
from sidbench.recommenders.base import MEAN, RecommenderInfo, RetrievalData, TargetRanks
from sidbench.recommenders.blocks.exact import (
    Candidates,
    DistinctSids,
    RankCollector,
    cosine_softmax_loss,
    expected_ndcg,
)
from sidbench.recommenders.blocks.gpt2 import INITIAL_STD, Gpt2
from sidbench.recommenders.blocks.retrieval import Ranked, SidRetriever
from sidbench.recommenders.blocks.sid_tables import CodeLayout, CodeTable, fused_rows
from sidbench.recommenders.blocks.states import training_notes
from sidbench.recommenders.blocks.validation import validation_subset
from sidbench.recommenders.blocks.windows import (
    TrainingWindows,
    history_batches,
    take_sequences,
)
from sidbench.recommenders.decoding.graph import WALK_COMBINE, GraphWalks, SidGraph, walk_seeds
from sidbench.recommenders.decoding.ranks import SEARCH_COMBINE, rank_by_search
from sidbench.recommenders.decoding.trie import SidTrie
from sidbench.tokenizers.base import SemanticIds

INFO = RecommenderInfo(
    title="RPG: parallel prediction of long unordered SIDs",
    version=1,
    paper="arXiv 2506.05781",
    year=2025,
    url="https://arxiv.org/abs/2506.05781",
    bibtex="@misc{rpg2025,\n"
    "  title={Generating Long Semantic IDs in Parallel for Recommendation}, year={2025},\n"
    "  eprint={2506.05781}, archivePrefix={arXiv}, url={https://arxiv.org/abs/2506.05781}}",
    task="retrieval",
    deviations=(
        "every training target is labelled once, in windows cut from the end of long sequences; a batch is a number of"
        " positions instead of 256 padded sequences",
        "dropout rates are rounded to multiples of 1/256",
        "biases of the digit heads start at zero like their weights, so heads start as the identity",
        "items are scored once per distinct SID and ranked exactly by default; graph decoding is optional, and a beam"
        " that reaches fewer than `cover` items beyond the user's history is doubled",
        "PAD codes are a class of their position when predicting and left out of the mean of an item's input",
    ),
)

INFERENCE_POSITIONS = 8192


@dataclass(frozen=True)
class RpgConfig:
    """Settings of RPG, the same for every tokenizer."""

    width: int = setting(448, "width of embeddings and transformer", unit="dimensions", low=8, high=2048, paper=448)
    layers: int = setting(2, "transformer layers", low=1, high=24, paper=2)
    heads: int = setting(4, "attention heads", low=1, high=64, paper=4)
    inner: int = setting(1024, "width of the feed-forward layer", unit="dimensions", low=8, high=8192, paper=1024)
    dropout: float = setting(
        0.5, "dropout on embeddings and attention weights", low=0, high=0.9, paper=0.5, sweep=(0.3, 0.5)
    )
    temperature: float = setting(
        0.03, "temperature of the cosine heads", low=0.01, high=1, paper=0.03, sweep=(0.03, 0.05, 0.07)
    )
    max_length: int = setting(50, "history the model sees", unit="items", low=1, high=1024, paper=50)
    learning_rate: float = setting(1e-2, "AdamW step size", low=1e-6, high=0.1, paper=1e-2, sweep=(1e-3, 3e-3, 1e-2))
    warmup_steps: int = setting(
        10_000, "linear warm-up before the cosine decay", unit="steps", low=0, high=1 << 30, paper=10_000
    )
    batch_positions: int = setting(1536, "positions of a batch, padding included", low=16, high=1 << 20)
    epochs: int = setting(150, "passes over the training targets at most", low=1, high=1000, paper=150)
    patience: int = setting(20, "validations without a better NDCG@10 before stopping", low=0, high=1000, paper=20)
    validation_users: int = setting(4000, "users of the validation subset", low=1, high=1 << 30)
    decoding: str = setting("exact", "ranks over all items, or the walk on the similarity graph", choices=("exact", "graph"))
    n_beams: int = setting(150, "graph: SIDs kept per step and returned", low=1, high=1 << 20, paper=20)
    n_edges: int = setting(30, "graph: neighbours of each SID, itself included", low=1, high=1 << 20, paper=200)
    n_steps: int = setting(5, "graph: expansions of the beam", low=1, high=100, paper=3)
    cover: int = setting(100, "graph: largest cut-off the beam must serve", unit="items", low=1, high=1 << 20)

    def __post_init__(self) -> None:
        check_settings(self)
        if self.width % self.heads:
            raise InputError(
                "setting RpgConfig.width", got=self.width, wanted=f"a multiple of {self.heads}", do="change width or heads"
            )
        if self.decoding == "graph" and self.n_beams < self.cover:
            raise InputError(
                "setting RpgConfig.n_beams",
                got=self.n_beams,
                wanted=f"at least cover={self.cover}",
                do="raise n_beams, or lower cover to the largest cut-off that is read",
            )


class _Network(nn.Module):
    first_row: Tensor

    def __init__(self, config: RpgConfig, layout: CodeLayout) -> None:
        super().__init__()
        width, length = config.width, layout.length
        self.temperature, self.layout = config.temperature, layout
        self.codes = CodeTable(layout, width)
        self.body = Gpt2(width, config.layers, config.heads, config.inner, config.max_length, config.dropout)
        self.head_weight = nn.Parameter(torch.zeros(length, width, width))
        self.head_bias = nn.Parameter(torch.zeros(length, 1, width))
        self.register_buffer("first_row", torch.as_tensor(layout.offsets[:-1]), persistent=False)

    def initialise(self, generator: torch.Generator) -> None:
        """Draw body and codes; the heads start as the identity."""
        self.body.initialise(generator)
        self.codes.initialise(INITIAL_STD, generator)

    def items(self, rows: Tensor) -> Tensor:
        """Item vectors ``[M, width]``: the mean over present codes of fused rows int64 ``[M, L]``; all PAD gives zero."""
        total = F.embedding_bag(rows, self.codes.inputs(), mode="sum")
        if not self.layout.has_pad.any():
            return total / self.layout.length
        return total / F.embedding(rows, self.codes.keep).sum(dim=1).clamp_min(1.0)

    def queries(self, hidden: Tensor) -> Tensor:
        """Queries ``[L, M, width]`` from ``hidden`` ``[M, width]``: ``s_p = h + SiLU(W_p h + b_p)``."""
        same = hidden.expand(self.layout.length, -1, -1)
        return hidden + F.silu(torch.baddbmm(self.head_bias, same, self.head_weight))

    def loss(self, hidden: Tensor, rows: Tensor) -> Tensor:
        """Mean cross-entropy over positions; ``rows`` int64 ``[M, L]`` are the targets' fused rows."""
        return cosine_softmax_loss(
            self.queries(hidden), self.codes.directions(), rows - self.first_row, self.layout.runs, self.temperature
        )

    def log_probs(self, hidden: Tensor) -> Tensor:
        """Code-major log-probabilities of every class of every position, ``[rows, M]``."""
        units = F.normalize(self.queries(hidden), dim=-1) / self.temperature
        parts = zip(units, self.codes.outputs(), strict=True)
        return torch.cat([torch.log_softmax(classes @ q.T, dim=0) for q, classes in parts])


class Rpg(SidRetriever[_Network]):
    """Parallel prediction of long SIDs, ranked exactly or found on the graph of similar SIDs."""

    info = INFO
    saves = ("start",)  # seed of the random starts of graph walks
    config_class = RpgConfig
    diagnostic_combine: ClassVar[Mapping[str, str]] = {**SEARCH_COMBINE, **WALK_COMBINE, "graph_build_seconds": MEAN}
    budgets = {
        "smoke": {
            "width": 32,
            "layers": 1,
            "heads": 2,
            "inner": 64,
            "dropout": 0.1,
            "learning_rate": 3e-3,
            "warmup_steps": 5,
            "epochs": 2,
            "batch_positions": 512,
            "validation_users": 100,
        },
        "quick": {
            "width": 128,
            "inner": 288,
            "dropout": 0.3,
            "learning_rate": 5e-3,
            "warmup_steps": 200,
            "epochs": 20,
            "patience": 0,
        },
        "standard": {},
        "paper": {"validation_users": 1 << 30, "n_beams": 20, "n_edges": 200, "n_steps": 3, "cover": 20},
    }

    config: RpgConfig

    def _make_network(self, layout: CodeLayout) -> _Network:
        return _Network(self.config, layout)

    def fit(self, data: RetrievalData, sids: SemanticIds | None, rng: Rng, runtime: Runtime) -> Self:
        config = self.config
        sids, layout, item_rows = self._begin(sids, data.n_items, runtime)
        self.saved_ = {"start": np.array([rng.child("start").integer()], np.int64)}
        network = self.network_ = self._make_network(layout).to(runtime.device)
        network.initialise(runtime.generator(rng.child("initial")))
        windows = TrainingWindows(data.train, config.max_length, config.batch_positions, rng.child("windows"))

        def batch(epoch: int, index: int) -> dict[str, Tensor]:
            return windows.batch(epoch, index).tensors(runtime)

        def loss(made: Mapping[str, Tensor], step: int) -> Tensor:
            rows, width = made["items"].shape
            vectors = network.items(item_rows[made["items"].view(-1)]).view(rows, width, -1)
            hidden = network.body(vectors).view(rows * width, -1).index_select(0, made["labelled"])
            return network.loss(hidden, item_rows[made["targets"]])

        histories, targets = validation_subset(data, config.validation_users, rng)
        log = runtime.train(
            TrainingPlan(
                self.name,
                network,
                windows.steps_per_epoch,
                config.epochs,
                batch,
                loss,
                rng.child("training"),
                learning_rate=config.learning_rate,
                warmup_steps=config.warmup_steps,
                schedule="cosine",
                clip_norm=1.0,
                validate=lambda: expected_ndcg(self._exact(histories, targets, sids, runtime), 10),
                patience=config.patience,
                batch_setting=("batch_positions", config.batch_positions),
            )
        )
        self._notes = {**training_notes(log, windows), "embedding_parameters": float(network.codes.table.numel())}
        return self

    def _ranked(self, histories: Sequences, targets: np.ndarray, sids: SemanticIds, runtime: Runtime) -> Ranked:
        if self.config.decoding == "exact":
            return self._exact(histories, targets, sids, runtime), {}
        return self._by_graph(histories, targets, sids, runtime)

    def _exact(self, histories: Sequences, targets: np.ndarray, sids: SemanticIds, runtime: Runtime) -> TargetRanks:
        rows = fused_rows(self._network().layout, sids, sids.n_items, self.name)
        distinct, vectors = DistinctSids.of(sids, rows, runtime), self._item_vectors(rows, runtime)
        candidates, collector = Candidates(histories, targets, sids.n_items), RankCollector(len(targets))
        for users, log_probs in self._predictions(histories, vectors, runtime):
            collector.add(users, distinct.rank(log_probs, users, candidates, runtime))
        return collector.result()

    def _by_graph(self, histories: Sequences, targets: np.ndarray, sids: SemanticIds, runtime: Runtime) -> Ranked:
        config, network = self.config, self._network()
        vectors = self._item_vectors(fused_rows(network.layout, sids, sids.n_items, self.name), runtime)
        network.layout.check_same(sids, self.name)
        begin = time.perf_counter()
        graph = SidGraph.build(SidTrie.of(sids, runtime), network.codes.directions(), config.n_edges)
        build_seconds = time.perf_counter() - begin

        def predict(users: np.ndarray) -> Tensor:
            made = list(self._predictions(take_sequences(histories, users), vectors, runtime))
            order = runtime.tensor(np.argsort(np.concatenate([at for at, _ in made])))
            return torch.cat([log_probs for _, log_probs in made], dim=1).index_select(1, order)

        seeds = walk_seeds(histories, config.max_length, Rng(int(self.saved_["start"][0])))
        walks = GraphWalks(graph, predict, seeds, config.n_steps, runtime)
        batches = (users for users, _, _ in history_batches(histories, config.max_length, INFERENCE_POSITIONS))
        ranks, notes = rank_by_search(batches, walks, histories, targets, graph.trie, config.n_beams, config.cover, runtime)
        return ranks, {**notes, **walks.notes(), "graph_build_seconds": build_seconds}

    @torch.no_grad()
    def _item_vectors(self, rows: np.ndarray, runtime: Runtime) -> Tensor:
        """``[N, width]`` input vectors of all items; puts the network in place for inference."""
        network = self._network().to(runtime.device).eval()
        return torch.cat([network.items(part) for part in runtime.tensor(rows).split(1 << 16)])

    @torch.no_grad()
    def _predictions(self, histories: Sequences, vectors: Tensor, runtime: Runtime) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Users int64 ``[B]`` and their log-probabilities ``[rows, B]``, every history once."""
        network = self._network()
        for users, items, length in history_batches(histories, self.config.max_length, INFERENCE_POSITIONS):
            hidden = network.body(vectors[runtime.tensor(np.maximum(items, 0))])
            last = hidden[torch.arange(len(users), device=hidden.device), runtime.tensor(length - 1)]
            yield users, network.log_probs(last)

"""MTP-base: multi-token prediction over the SIDs of any tokenizer.

The supervised core of REG4Rec (arXiv 2508.15308) without its RL stages. ``decoding="parallel"``, whose additive score
makes the rank of every item exact:

    item_t = norm(MLP([E_1[c_1]; ...; E_L[c_L]]))        L d -> 2d -> d, PAD is the zero vector
    h      = causal transformer(item_1 .. item_t)        pre-norm, RoPE
    P_p(k) = softmax_k(cos(W_p h, E_p[k]) / tau)         PAD is class K_p of its position
    loss   = mean_p CE, at every position of the sequence in one pass
    score(i) = sum_p log P_p(c_ip)                       PAD classes included

``decoding="confidence"``, the REG4Rec-like option, predicts a position from any set S of fixed ones:

    q_S    = h + sqrt(d) (BOS, or sum_{p in S} E_p[c_p])
    h_S    = norm(one cross-attention layer from q_S to H = causal transformer(item_1 .. item_t))
    P_p(k | S) = softmax_k(cos(W_p h_S, E_p[k]) / tau)
    loss   = mean_p CE, S = the positions before p in a random order of the positions, drawn per target
    search : fix the open position of lowest entropy first, per hypothesis (``decoding.confidence``)
"""

from __future__ import annotations

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
from sidbench.recommenders.base import RecommenderInfo, RetrievalData, TargetRanks
from sidbench.recommenders.blocks.cross import SetDecoder
from sidbench.recommenders.blocks.exact import (
    Candidates,
    DistinctSids,
    RankCollector,
    cosine_softmax_loss,
    expected_ndcg,
)
from sidbench.recommenders.blocks.prefixes import prefix_windows, similar_rows
from sidbench.recommenders.blocks.retrieval import Ranked, SidRetriever
from sidbench.recommenders.blocks.sid_tables import CodeLayout, CodeTable, fused_rows
from sidbench.recommenders.blocks.states import training_notes
from sidbench.recommenders.blocks.transformer import Dropout, PreNormBlock, initialise
from sidbench.recommenders.blocks.validation import validation_subset
from sidbench.recommenders.blocks.windows import TrainingWindows, history_batches
from sidbench.recommenders.decoding.beam import Beam
from sidbench.recommenders.decoding.confidence import OPEN, confidence_search, search_rows
from sidbench.recommenders.decoding.ranks import SEARCH_COMBINE, rank_by_search
from sidbench.recommenders.decoding.trie import SidTrie
from sidbench.tokenizers.base import SemanticIds

INFO = RecommenderInfo(
    title="MTP-base: parallel multi-token prediction, exact item scores",
    version=1,
    paper="arXiv 2508.15308",
    year=2025,
    url="https://arxiv.org/abs/2508.15308",
    bibtex="@misc{reg4rec2025,\n"
    "  title={REG4Rec: Reasoning-Enhanced Generative Model for Large-Scale Recommendation Systems},\n"
    "  year={2025}, eprint={2508.15308}, archivePrefix={arXiv}, url={https://arxiv.org/abs/2508.15308}}",
    task="retrieval",
    deviations=(
        "supervised core only: no preference alignment, multi-step reward or pruning stages",
        "parallel variant (default): all positions at once, so the decoder over fixed codes reduces to one head each",
        "confidence variant: the decoder's query starts from the state of the newest item, and rotary cross-attention "
        "tells how far back items lie",
        "unofficial hyper-parameters: the paper states no configuration",
    ),
)

INFERENCE_POSITIONS = 8192
SEARCH_ROWS = 64
VALIDATION_BEAM, VALIDATION_COVER = 32, 10  # the epoch is selected by NDCG@10


@dataclass(frozen=True)
class MtpConfig:
    """Settings of MTP-base, the same for every tokenizer."""

    width: int = setting(128, "width of embeddings and transformer", unit="dimensions", low=8, high=1024)
    layers: int = setting(3, "transformer layers", low=1, high=24)
    heads: int = setting(8, "attention heads", low=1, high=64)
    dropout: float = setting(0.2, "dropout on items and branches", low=0, high=0.9, sweep=(0.1, 0.3, 0.5))
    temperature: float = setting(0.1, "temperature of the cosine heads", low=0.01, high=1)
    max_length: int = setting(50, "history the model sees", unit="items", low=1, high=1024)
    learning_rate: float = setting(1e-3, "Adam step size", low=1e-6, high=0.1, sweep=(3e-4, 1e-3, 3e-3))
    batch_positions: int = setting(768, "positions of a batch, padding included", low=16, high=1 << 20)
    epochs: int = setting(150, "passes over the training targets at most", low=1, high=1000)
    patience: int = setting(10, "validations without a better NDCG@10 before stopping", low=0, high=1000)
    validation_users: int = setting(4000, "users of the validation subset", low=1, high=1 << 30)
    decoding: str = setting(
        "parallel", "all positions at once, or one by one in the order of confidence", choices=("parallel", "confidence")
    )
    beam: int = setting(128, "SIDs a user's beam holds at first (confidence)", unit="SIDs", low=1, high=1 << 20)
    cover: int = setting(
        100, "items beyond the history that a beam must reach (confidence)", unit="items", low=1, high=1 << 30
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if self.width % (2 * self.heads):
            raise InputError(
                "setting MtpConfig.width",
                got=self.width,
                wanted=f"a multiple of {2 * self.heads}",
                do="change width or heads; rotary positions need an even width per head",
            )


class _Network(nn.Module):
    first_row: Tensor

    def __init__(self, config: MtpConfig, layout: CodeLayout) -> None:
        super().__init__()
        width = config.width
        self.temperature, self.layout = config.temperature, layout
        self.codes = CodeTable(layout, width)
        self.register_buffer("first_row", torch.as_tensor(layout.offsets[:-1]), persistent=False)
        self.item_in = nn.Linear(layout.length * width, 2 * width)
        self.item_out = nn.Sequential(nn.SiLU(), nn.Linear(2 * width, width), nn.LayerNorm(width), Dropout(config.dropout))
        self.blocks = nn.ModuleList(
            PreNormBlock(width, config.heads, 5 * width, config.dropout, rotary_base=1e4) for _ in range(config.layers)
        )
        self.final_norm = nn.LayerNorm(width)
        self.heads = nn.Linear(width, layout.length * width)
        self.decoder = SetDecoder(width, config.heads, config.dropout) if config.decoding == "confidence" else None

    def initialise(self, generator: torch.Generator) -> None:
        """Draw all parameters."""
        initialise(self, generator)
        std = self.codes.table.shape[1] ** -0.5
        self.codes.initialise(std, generator)
        if self.decoder is not None:
            nn.init.normal_(self.decoder.start, 0.0, std, generator=generator)

    def items(self, rows: Tensor) -> Tensor:
        """Item vectors ``[M, width]`` from fused code rows int64 ``[M, L]``."""
        table = self.codes.inputs()
        if rows.numel() < len(table):
            return self.item_out(self.item_in(F.embedding(rows, table).flatten(1)))
        # W [e_1; ...; e_L] = sum_p W_p e_p: project each code once, then sum rows; a batch repeats codes.
        width = table.shape[1]
        weights = self.item_in.weight.view(-1, self.layout.length, width).permute(1, 2, 0)
        projected = torch.cat(
            [
                torch.bmm(table[rows].view(-1, classes, width), weights[at]).flatten(0, 1)
                for at, rows, classes in self.layout.runs
            ]
        )
        return self.item_out(F.embedding_bag(rows, projected, mode="sum") + self.item_in.bias)

    def hidden(self, vectors: Tensor) -> Tensor:
        """``[B, T, width] -> [B, T, width]``, position t sees items 0..t."""
        for block in self.blocks:
            vectors = block(vectors)
        return self.final_norm(vectors)

    def queries(self, hidden: Tensor) -> Tensor:
        """Queries ``[L, M, width]`` of any length from ``hidden`` ``[M, width]``, or ``[L, M, width]`` where every
        position has its own; only their directions count."""
        length, width = self.layout.length, hidden.shape[-1]
        weights = self.heads.weight.view(length, width, width).transpose(1, 2)
        return torch.baddbmm(self.heads.bias.view(length, 1, width), hidden.expand(length, -1, -1), weights)

    def loss(self, hidden: Tensor, rows: Tensor) -> Tensor:
        """Mean cross-entropy over positions; ``rows`` int64 ``[M, L]`` are the targets' fused rows, ``hidden`` as for
        ``queries``."""
        return cosine_softmax_loss(
            self.queries(hidden), self.codes.directions(), rows - self.first_row, self.layout.runs, self.temperature
        )

    def log_probs(self, hidden: Tensor) -> Tensor:
        """Code-major log-probabilities of every class of every position, ``[rows, M]``."""
        units = F.normalize(self.queries(hidden), dim=-1) / self.temperature
        parts = zip(units, self.codes.outputs(), strict=True)
        return torch.cat([torch.log_softmax(classes @ q.T, dim=0) for q, classes in parts])


class _OpenPositions:
    """``P_p(. | fixed)`` of a batch of users, as ``confidence_search`` asks for it."""

    def __init__(self, network: _Network, decoder: SetDecoder, hidden: Tensor, place: Tensor) -> None:
        self._network, self._decoder, self._place = network, decoder, place[:, None]
        self._memory = decoder.block.cross.memory(hidden)
        self._state = hidden.gather(1, place[:, None, None].expand(-1, 1, hidden.shape[2]))
        table = network.codes.inputs()
        self._table = torch.cat([table, torch.zeros_like(table[:1])])  # one more row: a position that is open
        self._outputs = network.codes.outputs()

    def log_probs(self, partial: Tensor) -> Iterator[Tensor]:
        batch, beams, length = partial.shape
        rows = torch.where(partial == OPEN, len(self._table) - 1, partial + self._network.first_row)
        fixed = F.embedding_bag(rows.view(-1, length), self._table, mode="sum").view(batch, beams, -1)
        hidden = self._decoder(self._state, fixed, (partial == OPEN).all(-1), self._memory, self._place).flatten(0, 1)
        for query, classes in zip(self._network.queries(hidden), self._outputs, strict=True):
            logits = F.normalize(query, dim=-1) @ classes.T / self._network.temperature
            yield torch.log_softmax(logits.float(), dim=-1).view(batch, beams, -1)


class Mtp(SidRetriever[_Network]):
    """Multi-token prediction: exact ranks over the catalogue in parallel, ranks from a beam in the order of confidence."""

    info = INFO
    config_class = MtpConfig
    diagnostic_combine: ClassVar[Mapping[str, str]] = SEARCH_COMBINE
    budgets = {
        "smoke": {"width": 32, "layers": 1, "heads": 2, "epochs": 2, "batch_positions": 512, "validation_users": 100},
        "quick": {"epochs": 16, "patience": 4},
        "standard": {},
        "paper": {"epochs": 200, "patience": 20, "validation_users": 1 << 30},
    }

    config: MtpConfig

    def _make_network(self, layout: CodeLayout) -> _Network:
        return _Network(self.config, layout)

    def fit(self, data: RetrievalData, sids: SemanticIds | None, rng: Rng, runtime: Runtime) -> Self:
        config = self.config
        sids, layout, item_rows = self._begin(sids, data.n_items, runtime)
        network = self.network_ = self._make_network(layout).to(runtime.device)
        network.initialise(runtime.generator(rng.child("initial")))
        windows = TrainingWindows(data.train, config.max_length, config.batch_positions, rng.child("windows"))

        def batch(epoch: int, index: int) -> dict[str, Tensor]:
            made = windows.batch(epoch, index)
            tensors = made.tensors(runtime)
            if config.decoding == "confidence":
                draw = rng.child("order", epoch, index).numpy().random((made.items.size, layout.length))
                tensors["turn"] = runtime.tensor(draw.argsort(axis=-1))
            return tensors

        def loss(made: Mapping[str, Tensor], step: int) -> Tensor:
            rows, width = made["items"].shape
            vectors = network.items(item_rows[made["items"].view(-1)]).view(rows, width, -1)
            hidden, labelled = network.hidden(vectors), made["labelled"]
            targets = item_rows[made["targets"]]
            if network.decoder is None:
                return network.loss(hidden.view(rows * width, -1).index_select(0, labelled), targets)
            every = item_rows[:1].repeat(rows * width, 1).index_copy_(0, labelled, targets)
            codes = F.embedding(every, network.codes.inputs())
            decoded = network.decoder.given_earlier(hidden, codes, made["turn"]).index_select(0, labelled)
            return network.loss(decoded.transpose(0, 1), targets)

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
                validate=lambda: expected_ndcg(self._ranks(histories, targets, sids, runtime, selecting=True)[0], 10),
                patience=config.patience,
                batch_setting=("batch_positions", config.batch_positions),
            )
        )
        self._notes = training_notes(log, windows)
        return self

    def _ranked(self, histories: Sequences, targets: np.ndarray, sids: SemanticIds, runtime: Runtime) -> Ranked:
        return self._ranks(histories, targets, sids, runtime, selecting=False)

    @torch.no_grad()
    def _ranks(
        self, histories: Sequences, targets: np.ndarray, sids: SemanticIds, runtime: Runtime, selecting: bool
    ) -> Ranked:
        """Ranks and figures of the search; ``selecting`` an epoch needs a narrow beam only."""
        network, config = self._network().to(runtime.device).eval(), self.config
        host_rows = fused_rows(network.layout, sids, sids.n_items, self.name)
        item_rows = runtime.tensor(host_rows)
        vectors = torch.cat([network.items(rows) for rows in item_rows.split(1 << 16)])
        if network.decoder is None:
            return self._exact_ranks(
                network, vectors, histories, targets, DistinctSids.of(sids, host_rows, runtime), runtime
            ), {}
        network.layout.check_same(sids, self.name)
        decoder, trie = network.decoder, SidTrie.of(sids, runtime)
        width, cover = (VALIDATION_BEAM, VALIDATION_COVER) if selecting else (config.beam, config.cover)

        def search(users: np.ndarray, width: int) -> Beam:
            items, length = prefix_windows(histories, users, config.max_length)
            hidden = network.hidden(vectors[runtime.tensor(np.maximum(items, 0))])
            model = _OpenPositions(network, decoder, hidden, runtime.tensor(length - 1))
            return confidence_search(model, len(users), trie, width)

        batches = similar_rows(histories, config.max_length, min(SEARCH_ROWS, search_rows(trie, width)))
        return rank_by_search(batches, search, histories, targets, trie, width, cover, runtime)

    def _exact_ranks(
        self,
        network: _Network,
        vectors: Tensor,
        histories: Sequences,
        targets: np.ndarray,
        distinct: DistinctSids,
        runtime: Runtime,
    ) -> TargetRanks:
        candidates, collector = Candidates(histories, targets, len(vectors)), RankCollector(len(targets))
        for users, items, length in history_batches(histories, self.config.max_length, INFERENCE_POSITIONS):
            hidden = network.hidden(vectors[runtime.tensor(np.maximum(items, 0))])
            last = hidden[torch.arange(len(users), device=hidden.device), runtime.tensor(length - 1)]
            collector.add(users, distinct.rank(network.log_probs(last), users, candidates, runtime))
        return collector.result()

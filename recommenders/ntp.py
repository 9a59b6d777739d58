"""NTP: decoder-only next-token prediction over flattened semantic IDs.

The plain language model of the field (arXiv 2305.05065 without its encoder), each token seeing all before it:

    sequence = BOS, item_1 tokens, ..., item_n tokens      L tokens an item, PAD is a token like others
    x_j      = token + position in item (L values) + item index (from the oldest item of the window, which has 0)
    h        = causal transformer(x)                       pre-norm, GELU
    P_p(k)   = softmax_k(<h, e_k> / tau)                   over the classes of position p alone; tables shared
    loss     = mean CE of all tokens from the second item on, every position of a sequence in one pass
    log P(i) = sum_p log P_p(c_ip | history, c_i<p)        items by beam search over the SIDs that exist

The item index counts from the oldest item, since counting back from the newest would tell a packed pass how much of
the sequence is still to come; a history cut to its newest items starts at index 0, as the training windows do.
Evaluated sequences are one (validation) or two items (test) longer than in training, so training shifts the indices
of a step by 0, 1 or 2 in turn: without it the last items carry indices that few sequences, or none, have trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
from sidbench.recommenders.base import SAME, RecommenderInfo, RetrievalData
from sidbench.recommenders.blocks.causal import CachedDecoder, CausalBlock
from sidbench.recommenders.blocks.exact import expected_ndcg, softmax_loss
from sidbench.recommenders.blocks.retrieval import Ranked, SidRetriever
from sidbench.recommenders.blocks.sid_tables import CodeLayout, fused_rows
from sidbench.recommenders.blocks.states import training_notes
from sidbench.recommenders.blocks.transformer import Dropout, initialise
from sidbench.recommenders.blocks.validation import validation_subset
from sidbench.recommenders.blocks.windows import (
    TrainingWindows,
    WindowBatch,
    bucket_lengths,
    gather_windows,
    history_batches,
    take_sequences,
)
from sidbench.recommenders.decoding.ranks import SEARCH_COMBINE, invalid_rate, rank_by_beam
from sidbench.recommenders.decoding.session import DecodingSession
from sidbench.recommenders.decoding.trie import SidTrie
from sidbench.tokenizers.base import SemanticIds

INFO = RecommenderInfo(
    title="NTP: decoder-only next-token prediction with trie-constrained beam search",
    version=1,
    paper="arXiv 2305.05065",
    year=2023,
    url="https://arxiv.org/abs/2305.05065",
    bibtex="@misc{rajput2023tiger,\n"
    "  title={Recommender Systems with Generative Retrieval}, author={Rajput and others}, year={2023},\n"
    "  eprint={2305.05065}, archivePrefix={arXiv}, url={https://arxiv.org/abs/2305.05065}}",
    task="retrieval",
    deviations=(
        "decoder-only instead of TIGER's encoder-decoder, trained at every position of a sequence in one pass",
        "each step is normalised over the codes of its own position, so tokens of another position cannot be emitted",
        "item indices are shifted by up to two in training, because evaluated sequences are that much longer",
        "no dropout on attention weights",
    ),
)

HYPOTHESES = 4096  # hypotheses of one decoding batch: users times beam width
INFERENCE_POSITIONS = 2048  # history items of one decoding batch
INVALID_USERS = 256
VALIDATION_CUTOFF = 10
EXTRA_ITEMS = 2  # items of a test sequence that its training sequence lacks


@dataclass(frozen=True)
class NtpConfig:
    """Settings of NTP, the same for every tokenizer."""

    width: int = setting(128, "width of embeddings and transformer", unit="dimensions", low=8, high=1024, sweep=(128, 256))
    layers: int = setting(4, "transformer layers", low=1, high=24)
    heads: int = setting(4, "attention heads", low=1, high=64)
    dropout: float = setting(0.1, "dropout on embeddings and branches", low=0, high=0.9, sweep=(0.1, 0.2, 0.3))
    temperature: float = setting(
        1.0,
        "softmax temperature (LETTER's ranking-guided loss); 1 is the plain model",
        low=0.01,
        high=10,
        sweep=(0.7, 0.8, 0.9, 1.0),
    )
    max_length: int = setting(50, "history the model sees", unit="items", low=1, high=1024)
    learning_rate: float = setting(1e-3, "AdamW step size", low=1e-6, high=0.1, sweep=(3e-4, 1e-3, 3e-3))
    weight_decay: float = setting(0.01, "decoupled weight decay", low=0, high=10)
    warmup_share: float = setting(0.01, "steps of linear warm-up before the cosine schedule", unit="share", low=0, high=1)
    batch_positions: int = setting(768, "target items of a batch, padding included", low=16, high=1 << 20)
    epochs: int = setting(200, "passes over the training targets at most", low=1, high=1000)
    patience: int = setting(20, "validations without a better NDCG@10 before stopping", low=0, high=1000)
    beam: int = setting(128, "hypotheses a user, widened until they cover enough items", low=1, high=1 << 16)
    cover: int = setting(100, "items a ranking must cover beyond the user's history", low=1, high=1 << 20)
    validation_users: int = setting(2000, "users of the validation subset", low=1, high=1 << 30)
    validation_beam: int = setting(20, "hypotheses a user in validation", low=1, high=1 << 16)

    def __post_init__(self) -> None:
        check_settings(self)
        if self.width % self.heads:
            raise InputError(
                "setting NtpConfig.width",
                got=self.width,
                wanted=f"a multiple of heads={self.heads}",
                do="change width or heads",
            )


class _Network(nn.Module):
    def __init__(self, config: NtpConfig, layout: CodeLayout) -> None:
        super().__init__()
        self.layout, self.temperature = layout, config.temperature
        self.bos = int(layout.offsets[-1])
        self.token_table = nn.Parameter(torch.zeros(self.bos + 1, config.width))
        self.position_table = nn.Parameter(torch.zeros(layout.length, config.width))
        self.index_table = nn.Parameter(torch.zeros(config.max_length + 1 + EXTRA_ITEMS, config.width))
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            CausalBlock(config.width, config.heads, 4 * config.width, config.dropout) for _ in range(config.layers)
        )
        self.final_norm = nn.LayerNorm(config.width)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        initialise(self, generator)
        for table in (self.token_table, self.position_table):
            table.normal_(0.0, table.shape[1] ** -0.5, generator=generator)

    def embed(self, tokens: Tensor, shift: int = 0) -> Tensor:
        """``BOS`` and the fused rows int64 ``[B, S]`` of the first ``S`` tokens -> ``[B, 1 + S, width]``; the first
        item has index ``shift``."""
        length, n_tokens = self.layout.length, tokens.shape[1]
        indices = self.index_table[shift : shift - (-n_tokens // length)]
        places = (indices[:, None] + self.position_table).flatten(0, 1)[:n_tokens]
        vectors = F.embedding(F.pad(tokens, (1, 0), value=self.bos), self.token_table)
        return self.dropout(vectors + F.pad(places, (0, 0, 1, 0)))

    def hidden(self, rows: Tensor, shift: int = 0) -> Tensor:
        """What predicts each code: ``[B, T, L, width]`` from fused rows int64 ``[B, T, L]``; the vector at ``(t, p)``
        has seen items before ``t`` and codes before ``p``."""
        x = self.embed(rows.flatten(1)[:, :-1], shift)
        for block in self.blocks:
            x = block(x)
        return x.view(*rows.shape, -1)

    def classes_of(self, position: int) -> Tensor:
        """Class vectors ``[classes_p, width]`` of one position, divided by the temperature."""
        first, last = self.layout.offsets[position : position + 2].tolist()
        return self.token_table[first:last] / self.temperature

    def loss(self, hidden: Tensor, rows: Tensor) -> Tensor:
        """Mean cross-entropy over positions; ``hidden`` ``[P, L, width]`` predicts the fused rows int64 ``[P, L]``."""
        vectors = self.final_norm(hidden.transpose(0, 1).contiguous())
        parts = [
            softmax_loss(vectors[p], self.classes_of(p), rows[:, p] - first)
            for p, first in enumerate(self.layout.offsets[:-1].tolist())
        ]
        return torch.stack(parts).mean()

    def log_probs(self, hidden: Tensor, position: int) -> Tensor:
        """``[..., width] -> [..., classes_p]``."""
        return torch.log_softmax(self.final_norm(hidden) @ self.classes_of(position).T, dim=-1)


class _Session:
    """``DecodingSession`` of one batch: ``rows`` int64 ``[B, T, L]`` fused codes of histories of ``length`` items."""

    def __init__(self, network: _Network, rows: Tensor, length: Tensor) -> None:
        self._network, self._length, self._position = network, length, 0
        self._cache = CachedDecoder(network.blocks, network.embed(rows.flatten(1)), length * rows.shape[2])

    @torch.no_grad()
    def step(self, parent: Tensor | None, classes: Tensor | None) -> Tensor:
        network, position = self._network, self._position
        if parent is None or classes is None:
            return network.log_probs(self._cache.newest[:, None], 0)
        first = int(network.layout.offsets[position])
        token = F.embedding(classes + first, network.token_table) + network.position_table[position]
        hidden = self._cache.advance(parent, token + network.index_table[self._length][:, None])
        self._position += 1
        return network.log_probs(hidden, self._position)


def _sequences(made: WindowBatch) -> np.ndarray:
    """int64 ``[B, T + 1]`` items of each window, its last target included; 0 behind the end."""
    rows, width = made.items.shape
    following = np.zeros(rows * width, np.int64)
    following[made.labelled] = made.targets
    return np.concatenate([np.maximum(made.items[:, :1], 0), following.reshape(rows, width)], axis=1)


class Ntp(SidRetriever[_Network]):
    """Next-token prediction; ranks are exact as far as the beam covers the catalogue."""

    info = INFO
    config_class = NtpConfig
    diagnostic_combine: ClassVar[Mapping[str, str]] = {**SEARCH_COMBINE, "invalid_rate_unconstrained": SAME}
    budgets = {
        "smoke": {"width": 32, "layers": 1, "heads": 2, "epochs": 2, "batch_positions": 512, "validation_users": 100},
        "quick": {"layers": 2, "learning_rate": 2e-3, "epochs": 15, "patience": 4},
        "standard": {},
        "paper": {"validation_users": 1 << 30},
    }

    config: NtpConfig

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
            return {
                "targets": runtime.tensor(made.targets),
                "labelled": runtime.tensor(made.labelled),
                "items": runtime.tensor(_sequences(made)),
            }

        def loss(made: Mapping[str, Tensor], step: int) -> Tensor:
            hidden = network.hidden(item_rows[made["items"]], shift=step % (EXTRA_ITEMS + 1))
            predicting = hidden[:, 1:].flatten(0, 1).index_select(0, made["labelled"])
            return network.loss(predicting, item_rows[made["targets"]])

        histories, targets = validation_subset(data, config.validation_users, rng)
        trie = SidTrie.of(sids, runtime)

        def validate() -> float:
            ranks, _ = self._ranks(histories, targets, sids, trie, config.validation_beam, VALIDATION_CUTOFF, runtime)
            return expected_ndcg(ranks, VALIDATION_CUTOFF)

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
                weight_decay=config.weight_decay,
                schedule="cosine",
                warmup_steps=round(config.warmup_share * windows.steps_per_epoch * config.epochs),
                validate=validate,
                patience=config.patience,
                batch_setting=("batch_positions", config.batch_positions),
            )
        )
        few = take_sequences(histories, np.arange(min(len(targets), INVALID_USERS)))
        invalid = invalid_rate(
            self._batches(few, config.validation_beam),
            self._opener(few, sids, runtime),
            trie,
            config.validation_beam,
            runtime,
        )
        self._notes = {
            **training_notes(log, windows),
            "invalid_rate_unconstrained": invalid,
            "embedding_parameters": float(network.token_table.numel()),
        }
        return self

    def _ranked(self, histories: Sequences, targets: np.ndarray, sids: SemanticIds, runtime: Runtime) -> Ranked:
        trie = SidTrie.of(sids, runtime)
        return self._ranks(histories, targets, sids, trie, self.config.beam, self.config.cover, runtime)

    @torch.no_grad()
    def _ranks(
        self,
        histories: Sequences,
        targets: np.ndarray,
        sids: SemanticIds,
        trie: SidTrie,
        width: int,
        cover: int,
        runtime: Runtime,
    ) -> Ranked:
        return rank_by_beam(
            self._batches(histories, width),
            self._opener(histories, sids, runtime),
            histories,
            targets,
            trie,
            width,
            cover,
            runtime,
        )

    def _batches(self, histories: Sequences, width: int) -> list[np.ndarray]:
        """Users int64 ``[B]`` whose histories have similar lengths, few enough for ``width`` hypotheses each."""
        rows = max(1, HYPOTHESES // width)
        return [users for users, _, _ in history_batches(histories, self.config.max_length, INFERENCE_POSITIONS, rows)]

    def _opener(self, histories: Sequences, sids: SemanticIds, runtime: Runtime) -> Callable[[np.ndarray], DecodingSession]:
        """Encodes the histories of some users. Raises ``InputError`` when ``sids`` do not fit the model."""
        network = self._network().to(runtime.device).eval()
        item_rows = runtime.tensor(fused_rows(network.layout, sids, sids.n_items, self.name))
        network.layout.check_same(sids, self.name)
        lengths = np.minimum(histories.lengths, self.config.max_length)
        widths = bucket_lengths(self.config.max_length)

        @torch.no_grad()
        def open_session(users: np.ndarray) -> DecodingSession:
            length = lengths[users]
            width = int(widths[np.searchsorted(widths, length.max())])
            items = gather_windows(histories.items, histories.indptr[1:][users] - length, length, width)
            return _Session(network, item_rows[runtime.tensor(np.maximum(items, 0))], runtime.tensor(length))

        return open_session

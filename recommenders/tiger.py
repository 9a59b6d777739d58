"""TIGER: generative retrieval with an encoder-decoder over semantic IDs.

Rajput et al., arXiv 2305.05065, sec. 3.2: a T5 reads the SIDs of the last items and writes the SID of the next.

    input      c_11 .. c_1L, c_21 .. c_nL      codes of the last n <= 20 items, oldest first, one token a code
    P(c_p | c_<p, x) = softmax(<h_p, e> / tau)  over the whole vocabulary; tau is LETTER's (arXiv 2405.07314)
    loss       = -(1/L) sum_p log P(c_p | c_<p, x)
    score(SID) = sum_p log P(c_p | c_<p, x)     beam search along the trie of SIDs, masked after the softmax

Every code of every position is a token of its own, PAD of a position included, so all SIDs are L tokens long and need
neither end token nor length penalty. Every position of a training sequence after its first is an example.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from sidbench.datasets.foundation.runtime import Runtime, TrainingPlan
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.foundation.settings import check_settings, setting
from sidbench.datasets.splits.base import Sequences
from sidbench.recommenders.base import SAME, RecommenderInfo, RetrievalData
from sidbench.recommenders.blocks.exact import expected_ndcg
from sidbench.recommenders.blocks.prefixes import PrefixInstances, in_parts, prefix_windows, similar_rows
from sidbench.recommenders.blocks.retrieval import Ranked, SidRetriever
from sidbench.recommenders.blocks.sid_tables import CodeLayout
from sidbench.recommenders.blocks.states import training_notes
from sidbench.recommenders.blocks.t5 import T5, T5Shape
from sidbench.recommenders.blocks.t5_session import T5Session
from sidbench.recommenders.blocks.validation import validation_subset
from sidbench.recommenders.blocks.windows import take_sequences
from sidbench.recommenders.decoding.ranks import SEARCH_COMBINE, invalid_rate, rank_by_beam
from sidbench.recommenders.decoding.trie import SidTrie
from sidbench.tokenizers.base import SemanticIds

INFO = RecommenderInfo(
    title="TIGER: encoder-decoder generative retrieval with trie-constrained beam search",
    version=1,
    paper="arXiv 2305.05065",
    year=2023,
    url="https://arxiv.org/abs/2305.05065",
    bibtex="@misc{rajput2023tiger,\n"
    "  title={Recommender Systems with Generative Retrieval}, author={Rajput and others}, year={2023},\n"
    "  eprint={2305.05065}, archivePrefix={arXiv}, url={https://arxiv.org/abs/2305.05065}}",
    task="retrieval",
    deviations=(
        "no user token: histories arrive without user ids at inference, and most re-implementations leave it out",
        "AdamW at 1e-3 instead of a learning rate of 0.01 in T5X, whose usual optimiser scales steps by parameter size",
        "the learning rate warms up linearly before its inverse-square-root decay instead of starting at full size",
        "beam search follows the trie of existing SIDs; the paper's is free and filters invalid SIDs afterwards",
        "no end token behind the input or the output, since every SID has the same number of tokens",
        "the weights chosen are those of the best validation NDCG@10 (beam search on a subset of users)",
    ),
)

USERS_A_SESSION = 64
INVALID_USERS = 256


@dataclass(frozen=True)
class TigerConfig:
    """Settings of TIGER, the same for every tokenizer."""

    width: int = setting(128, "width of embeddings and transformer", unit="dimensions", low=8, high=1024, paper=128)
    heads: int = setting(6, "attention heads", low=1, high=64, paper=6)
    head_width: int = setting(64, "width of a head", unit="dimensions", low=4, high=256, paper=64)
    hidden: int = setting(1024, "width of the feed-forward layer", unit="dimensions", low=8, high=8192, paper=1024)
    encoder_layers: int = setting(4, "encoder layers", low=1, high=24, paper=4)
    decoder_layers: int = setting(4, "decoder layers", low=1, high=24, paper=4)
    dropout: float = setting(
        0.1, "dropout on embeddings, attention, feed-forward and branches", low=0, high=0.9, paper=0.1, sweep=(0.1, 0.2)
    )
    temperature: float = setting(
        1.0, "divisor of the logits in loss and scores (LETTER's ranking-guided loss); 1 is off", low=0.1, high=10, paper=1.0
    )
    max_length: int = setting(20, "history the model sees", unit="items", low=1, high=1024, paper=20)
    learning_rate: float = setting(1e-3, "AdamW step size", low=1e-6, high=0.1, sweep=(3e-4, 1e-3, 3e-3))
    schedule: str = setting(
        "inverse_sqrt",
        "learning rate after the warm-up",
        choices=("constant", "cosine", "inverse_sqrt"),
        paper="inverse_sqrt",
    )
    warmup_steps: int = setting(10_000, "linear warm-up", unit="steps", low=0, high=1 << 30, paper=10_000)
    weight_decay: float = setting(0.01, "decoupled weight decay of matrices and embeddings", low=0, high=1)
    batch_size: int = setting(256, "training examples of a step", unit="examples", low=1, high=1 << 20, paper=256)
    instances_per_epoch: int = setting(
        0,
        "training examples between two validations at least, drawn without repetition "
        "until all were seen; 0 for all (131,413 on Beauty)",
        unit="examples",
        low=0,
        high=1 << 40,
    )
    epochs: int = setting(200, "epochs at most", low=1, high=100_000)
    validate_every: int = setting(2, "epochs between validations", unit="epochs", low=1, high=1000)
    patience: int = setting(20, "validations without a better NDCG@10 before stopping, 0 for never", low=0, high=1000)
    validation_users: int = setting(2000, "users of the validation subset", low=1, high=1 << 30)
    validation_beam: int = setting(20, "beam of validation", unit="SIDs", low=10, high=4096)
    beam: int = setting(128, "beam of the final ranking", unit="SIDs", low=1, high=4096)
    cover: int = setting(
        100, "items beyond a user's history that the final beam must reach, else it widens", unit="items", low=1, high=4096
    )

    def __post_init__(self) -> None:
        check_settings(self)


class Tiger(SidRetriever[T5]):
    """Encoder-decoder over SID tokens; ranks are exact down to the depth that the beam covers."""

    info = INFO
    config_class = TigerConfig
    diagnostic_combine: ClassVar[Mapping[str, str]] = {**SEARCH_COMBINE, "invalid_rate_unconstrained": SAME}
    # One pass over Beauty's 131,413 examples takes two CPU cores about a quarter of an hour at standard size; quick is a
    # smaller network on two and a half passes. paper: 200,000 steps of 256 examples on Beauty.
    budgets = {
        "smoke": {
            "width": 32,
            "heads": 2,
            "head_width": 16,
            "hidden": 64,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "learning_rate": 3e-3,
            "schedule": "constant",
            "warmup_steps": 4,
            "batch_size": 64,
            "epochs": 2,
            "validate_every": 1,
            "validation_users": 100,
            "beam": 32,
            "cover": 20,
        },
        "quick": {
            "heads": 4,
            "head_width": 32,
            "hidden": 512,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "learning_rate": 2e-3,
            "schedule": "cosine",
            "warmup_steps": 200,
            "instances_per_epoch": 32_768,
            "epochs": 10,
            "validate_every": 2,
            "patience": 0,
            "validation_users": 500,
        },
        "standard": {},
        "paper": {"epochs": 390, "patience": 0, "validation_users": 1 << 30},
    }

    config: TigerConfig

    def _make_network(self, layout: CodeLayout) -> T5:
        config = self.config
        return T5(
            T5Shape(
                1 + int(layout.offsets[-1]),
                config.width,
                config.heads,
                config.head_width,
                config.hidden,
                config.encoder_layers,
                config.decoder_layers,
            ),
            config.dropout,
        )

    def fit(self, data: RetrievalData, sids: SemanticIds | None, rng: Rng, runtime: Runtime) -> Self:
        config = self.config
        sids, layout, item_rows = self._begin(sids, data.n_items, runtime)
        tokens_of = 1 + item_rows
        network = self.network_ = self._make_network(layout).to(runtime.device)
        network.initialise(runtime.generator(rng.child("initial")))
        parameters = list(network.parameters())
        instances = PrefixInstances(
            data.train, config.max_length, config.batch_size, rng.child("instances"), config.instances_per_epoch
        )

        def batch(epoch: int, index: int) -> dict[str, Any]:
            parts = instances.batch(epoch, index)
            return {
                "targets": runtime.tensor(np.concatenate([p.targets for p in parts])),
                "parts": [(*_tokens(p.items, p.length, tokens_of, runtime), runtime.tensor(p.targets)) for p in parts],
            }

        def loss(made: Mapping[str, Any], step: int) -> Tensor:
            n_rows, parts = len(made["targets"]), made["parts"]

            def part_loss(at: int) -> Tensor:
                tokens, length, targets = parts[at]
                return network.loss(tokens, length, tokens_of[targets], config.temperature) * (len(targets) / n_rows)

            return in_parts(part_loss, len(parts), parameters)

        histories, targets = validation_subset(data, config.validation_users, rng)
        trie = SidTrie.of(sids, runtime)

        def ndcg() -> float:
            ranks, _ = self._rank(histories, targets, trie, config.validation_beam, 10, runtime)
            return expected_ndcg(ranks, 10)

        log = runtime.train(
            TrainingPlan(
                self.name,
                network,
                instances.steps_per_epoch,
                config.epochs,
                batch,
                loss,
                rng.child("training"),
                learning_rate=config.learning_rate,
                weight_decay=config.weight_decay,
                warmup_steps=config.warmup_steps,
                schedule=config.schedule,
                validate=ndcg,
                validate_every=config.validate_every,
                patience=config.patience,
                batch_setting=("batch_size", config.batch_size),
            )
        )
        subset = take_sequences(histories, np.arange(min(INVALID_USERS, len(targets))))
        self._notes = {
            **training_notes(log, instances),
            "embedding_parameters": float(network.shared.numel()),
            "invalid_rate_unconstrained": invalid_rate(
                self._batches(subset), self._opener(subset, trie, runtime), trie, config.validation_beam, runtime
            ),
        }
        return self

    def _ranked(self, histories: Sequences, targets: np.ndarray, sids: SemanticIds, runtime: Runtime) -> Ranked:
        self._layout().check_same(sids, self.name)
        trie = SidTrie.of(sids, runtime)
        return self._rank(histories, targets, trie, self.config.beam, self.config.cover, runtime)

    def _rank(
        self, histories: Sequences, targets: np.ndarray, trie: SidTrie, beam: int, cover: int, runtime: Runtime
    ) -> Ranked:
        return rank_by_beam(
            self._batches(histories), self._opener(histories, trie, runtime), histories, targets, trie, beam, cover, runtime
        )

    def _batches(self, histories: Sequences) -> Iterator[np.ndarray]:
        return similar_rows(histories, self.config.max_length, USERS_A_SESSION)

    def _opener(self, histories: Sequences, trie: SidTrie, runtime: Runtime) -> Callable[[np.ndarray], T5Session]:
        """Rows of ``histories`` -> decoding session."""
        network, layout = self._network().to(runtime.device).eval(), self._layout()
        tokens_of = (trie.classes + runtime.tensor(1 + layout.offsets[:-1]))[runtime.tensor(trie.of_item)]

        @torch.no_grad()
        def open_session(rows: np.ndarray) -> T5Session:
            items, length = prefix_windows(histories, rows, self.config.max_length)
            return T5Session(network, layout, *_tokens(items, length, tokens_of, runtime), self.config.temperature)

        return open_session


def _tokens(items: np.ndarray, length: np.ndarray, tokens_of: Tensor, runtime: Runtime) -> tuple[Tensor, Tensor | None]:
    """Encoder tokens int64 ``[B, T * L]`` of items int64 ``[B, T]`` (-1 behind the end), and how many of them count
    int64 ``[B]``, ``None`` where all do."""
    tokens = tokens_of[runtime.tensor(np.maximum(items, 0))].flatten(1)
    full = bool((length == items.shape[1]).all())
    return tokens, None if full else runtime.tensor(length * tokens_of.shape[1])

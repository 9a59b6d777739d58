"""VQ-Rec: items are the sum of the embeddings of their codes, and a softmax over the catalogue learns them.

The paper (arXiv 2210.12316) reads an item as a set of codes and predicts items, not codes. No position has a likelihood
of its own, so no probability goes to combinations of codes that no item has. With ``E_p`` one table a position, PAD the
zero vector, ``w`` ones or the SID's weights:

    v_i      = sum_p w_ip E_p[c_ip]
    h        = causal transformer(norm(v_1) + place_1 .. norm(v_t) + place_t)     pre-norm, GELU
    s_i      = cos(W h, v_i) / tau
    loss     = -log softmax_i(s) of the next item, over the catalogue or shared negatives (``blocks.catalogue_softmax``)
    score(i) = s_i, for every item

Sum and mean of the codes are the same model: both the encoder's input (layer norm) and the score (cosine) divide the
length of ``v_i`` out. That is also why a short SID, which adds fewer codes, gains and loses nothing by its length, and why
there is no setting for it.

Items that share a SID have one vector and tie exactly. With ``code_weights`` a SID has the mean weights of its items.
"""

from __future__ import annotations

from collections.abc import Mapping
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
from sidbench.recommenders.blocks.catalogue_softmax import (
    DISTRIBUTIONS,
    UNIFORM,
    ClassBatch,
    NegativeSampler,
    catalogue_loss,
)
from sidbench.recommenders.blocks.causal import CausalBlock
from sidbench.recommenders.blocks.class_ranks import DistinctClasses
from sidbench.recommenders.blocks.exact import Candidates, RankCollector, expected_ndcg
from sidbench.recommenders.blocks.retrieval import Ranked, SidRetriever
from sidbench.recommenders.blocks.sid_tables import CodeLayout, CodeTable
from sidbench.recommenders.blocks.states import training_notes
from sidbench.recommenders.blocks.transformer import Dropout, initialise
from sidbench.recommenders.blocks.validation import validation_subset
from sidbench.recommenders.blocks.windows import TrainingWindows, history_batches
from sidbench.tokenizers.base import SemanticIds

INFO = RecommenderInfo(
    title="VQ-Rec: items as sums of code embeddings, softmax over the catalogue",
    version=1,
    paper="arXiv 2210.12316",
    year=2023,
    url="https://arxiv.org/abs/2210.12316",
    bibtex="@inproceedings{vqrec2023,\n"
    "  title={Learning Vector-Quantized Item Representation for Transferable Sequential Recommenders},\n"
    "  booktitle={WWW}, year={2023}, eprint={2210.12316}, archivePrefix={arXiv}, url={https://arxiv.org/abs/2210.12316}}",
    task="retrieval",
    deviations=(
        "trained on the target data alone: no contrastive pre-training on other domains, no alignment of code tables",
        "shared negatives with the logQ correction instead of all items; `negatives=0` is the softmax of the paper",
        "pre-norm blocks, item vectors normalised before positions are added, a linear layer from state to query",
        "codes of any tokenizer instead of its own OPQ of text",
    ),
)

INFERENCE_POSITIONS = 8192
SCORES = 1 << 24  # scores of users times SIDs held at once: 16 users of a catalogue of a million SIDs
WARMUP_SHARE, FINAL_LR_SHARE = 0.08, 0.02  # of the steps; of the learning rate


@dataclass(frozen=True)
class VqrecConfig:
    """Settings of VQ-Rec, the same for every tokenizer."""

    width: int = setting(128, "width of embeddings and transformer", unit="dimensions", low=8, high=1024, paper=300)
    layers: int = setting(2, "transformer layers", low=1, high=24, paper=2)
    heads: int = setting(4, "attention heads", low=1, high=64, paper=2)
    dropout: float = setting(0.3, "dropout on items and branches", low=0, high=0.9, paper=0.5, sweep=(0.1, 0.2, 0.3, 0.5))
    temperature: float = setting(
        0.07, "temperature of the cosine scores", low=0.01, high=1, paper=0.07, sweep=(0.05, 0.07, 0.1)
    )
    negatives: int = setting(
        1024,
        "items drawn for a batch as negatives; 0, or as many as the catalogue has, for all of them",
        unit="items",
        low=0,
        high=1 << 20,
        paper=0,
        sweep=(256, 1024, 4096),
    )
    negative_distribution: str = setting(
        UNIFORM,
        "what negatives are drawn from; the targets of the batch (in_batch) are as many as they are",
        choices=DISTRIBUTIONS,
        sweep=DISTRIBUTIONS,
    )
    code_weights: bool = setting(False, "scale code embeddings by the weights of the SIDs, where a tokenizer gives them")
    max_length: int = setting(20, "history the model sees", unit="items", low=1, high=1024)
    learning_rate: float = setting(
        1e-3, "highest AdamW step size; warm-up, then cosine", low=1e-6, high=0.1, paper=3e-3, sweep=(5e-4, 1e-3, 2e-3)
    )
    batch_positions: int = setting(2048, "positions of a batch, padding included", low=16, high=1 << 20)
    epochs: int = setting(60, "passes over the training targets; the best on validation is kept", low=1, high=1000)
    validation_users: int = setting(4000, "users of the validation subset", low=1, high=1 << 30)

    def __post_init__(self) -> None:
        check_settings(self)
        if self.width % self.heads:
            raise InputError(
                "setting VqrecConfig.width",
                got=self.width,
                wanted=f"a multiple of heads={self.heads}",
                do="change width or heads",
            )


class _Network(nn.Module):
    def __init__(self, config: VqrecConfig, layout: CodeLayout) -> None:
        super().__init__()
        width = config.width
        self.layout = layout
        self.codes = CodeTable(layout, width)
        self.place = nn.Parameter(torch.zeros(config.max_length, width))
        self.input_norm, self.final_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            CausalBlock(width, config.heads, 2 * width, config.dropout) for _ in range(config.layers)
        )
        self.query = nn.Linear(width, width)
        self.temperature = config.temperature

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draw all parameters; the code tables last and one position at a time, so that a further position (PAD
        everywhere, say) leaves what was drawn for the others as it is."""
        initialise(self, generator)
        self.place.normal_(0.0, 0.02, generator=generator)
        for table in self.codes.table.split(self.layout.classes.tolist()):
            table.normal_(0.0, table.shape[1] ** -0.5, generator=generator)

    def vectors(self, rows: Tensor, weights: Tensor | None) -> Tensor:
        """Item vectors ``[C, width]`` from fused rows int64 ``[C, L]``; weights float32 ``[C, L]``, ``None`` for ones."""
        return F.embedding_bag(rows, self.codes.inputs(), mode="sum", per_sample_weights=weights)

    def hidden(self, vectors: Tensor) -> Tensor:
        """States ``[B, T, width]`` of windows of item vectors ``[B, T, width]``; position t sees items 0..t."""
        x = self.dropout(self.input_norm(vectors) + self.place[: vectors.shape[1]])
        for block in self.blocks:
            x = block(x)
        return self.final_norm(x)

    def queries(self, hidden: Tensor) -> Tensor:
        """``[M, width]`` of length ``1 / temperature``."""
        return F.normalize(self.query(hidden), dim=-1) / self.temperature


class Vqrec(SidRetriever[_Network]):
    """Next-item softmax over items composed of code embeddings; exact ranks over the catalogue."""

    info = INFO
    config_class = VqrecConfig
    diagnostic_combine: ClassVar[Mapping[str, str]] = {"distinct_sids": SAME}
    budgets = {
        "smoke": {
            "width": 32,
            "layers": 1,
            "heads": 2,
            "epochs": 2,
            "batch_positions": 512,
            "negatives": 16,
            "validation_users": 100,
        },
        "quick": {"epochs": 30, "validation_users": 2000},
        "standard": {},
        "paper": {
            "width": 300,
            "heads": 2,
            "dropout": 0.5,
            "negatives": 0,
            "learning_rate": 3e-3,
            "epochs": 300,
            "validation_users": 1 << 30,
        },
    }

    config: VqrecConfig

    def _make_network(self, layout: CodeLayout) -> _Network:
        return _Network(self.config, layout)

    def fit(self, data: RetrievalData, sids: SemanticIds | None, rng: Rng, runtime: Runtime) -> Self:
        config = self.config
        sids, layout, _ = self._begin(sids, data.n_items, runtime)
        network = self.network_ = self._make_network(layout).to(runtime.device)
        network.initialise(runtime.generator(rng.child("initial")))
        windows = TrainingWindows(data.train, config.max_length, config.batch_positions, rng.child("windows"))
        histories, targets = validation_subset(data, config.validation_users, rng)
        distinct = self._classes(layout, sids, runtime)
        first = data.train.indptr[:-1][data.train.lengths > 0]
        clicks = np.bincount(np.delete(data.train.items, first), minlength=data.n_items)
        sampler = NegativeSampler(distinct.of_item, clicks, config.negatives, config.negative_distribution)

        def batch(epoch: int, index: int) -> dict[str, Tensor]:
            made = windows.batch(epoch, index)
            drawn = sampler.sample(made.targets, rng.child("negatives", epoch, index))
            own = distinct.of_item[made.targets]
            parts = ClassBatch.of(distinct.of_item[np.maximum(made.items, 0)], own, drawn.classes)
            return {
                **parts.tensors(runtime),
                "labelled": runtime.tensor(made.labelled),
                "log_own": runtime.tensor(sampler.log_group[own]),
                "log_weight": runtime.tensor(drawn.log_weight),
            }

        def loss(made: Mapping[str, Tensor], step: int) -> Tensor:
            classes, inputs = made["classes"], made["inputs"]
            vectors = network.vectors(*distinct.at(classes))
            windowed = F.embedding(inputs, vectors)
            hidden = network.hidden(windowed).flatten(0, 1).index_select(0, made["labelled"])
            units = F.normalize(vectors, dim=-1)
            own, negative = (units.index_select(0, made[name]) for name in ("own", "negative"))
            return catalogue_loss(
                network.queries(hidden), own, negative, made["log_own"], made["log_weight"], made["own"], made["negative"]
            )

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
                warmup_steps=int(WARMUP_SHARE * windows.steps_per_epoch * config.epochs),
                schedule="cosine",
                final_lr_share=FINAL_LR_SHARE,
                validate=lambda: expected_ndcg(self._ranked(histories, targets, sids, runtime, distinct)[0], 10),
                batch_setting=("batch_positions", config.batch_positions),
            )
        )
        self._notes = training_notes(log, windows) | {
            "distinct_sids": float(len(distinct.group)),
            "embedding_parameters": float((network.codes.table.shape[0] - len(layout.pad_rows)) * config.width),
        }
        return self

    def _classes(self, layout: CodeLayout, sids: SemanticIds, runtime: Runtime) -> DistinctClasses:
        return DistinctClasses.of(layout, sids, self.config.code_weights, self.name, runtime)

    @torch.no_grad()
    def _ranked(
        self,
        histories: Sequences,
        targets: np.ndarray,
        sids: SemanticIds,
        runtime: Runtime,
        distinct: DistinctClasses | None = None,
    ) -> Ranked:
        network, config = self._network().to(runtime.device).eval(), self.config
        distinct = self._classes(network.layout, sids, runtime) if distinct is None else distinct
        table = distinct.table(network.vectors)
        units = F.normalize(table, dim=-1)
        candidates, collector = Candidates(histories, targets, sids.n_items), RankCollector(len(targets))
        rows = max(1, SCORES // len(units))
        for users, items, length in history_batches(histories, config.max_length, INFERENCE_POSITIONS):
            hidden = network.hidden(table[runtime.tensor(distinct.of_item[np.maximum(items, 0)])])
            last = hidden[torch.arange(len(users), device=hidden.device), runtime.tensor(length - 1)]
            queries = network.queries(last).float()
            for at in range(0, len(users), rows):
                scores = queries[at : at + rows] @ units.T
                collector.add(users[at : at + rows], distinct.rank(scores, users[at : at + rows], candidates, runtime))
        return collector.result(), {}

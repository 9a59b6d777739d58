"""EAGER: two decoders over two streams of codes, and candidates of both re-scored by both.

Wang et al., "EAGER: Two-Stream Generative Recommender with Behavior-Semantic Collaboration", KDD 2024 (arXiv
2406.14017). A SID is split into two streams: by ``position_names`` where they name exactly two ("behaviour 1",
"semantic 2"), else into its first and second half.

    item_t  = norm(sum_p E_p[c_p])                        PAD is the zero vector
    H       = causal transformer(item_1 .. item_t)        one encoder for both streams
    P_s(c_1 .. c_m | H) = prod_j P_s(c_j | c_<j, H)       stream s: own decoder, own output classes
    score(i) = log P_1(codes of i in stream 1) + log P_2(codes of i in stream 2)
    loss    = sum_s mean_j CE + guidance (reconstruction + recognition) + sum_s contrastive_s InfoNCE

Search: each decoder's beam proposes codes of its stream; the candidates are all items that either proposes, and both
decoders score each of them exactly, so no candidate's score depends on which beam found it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
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
from sidbench.recommenders.blocks.exact import expected_ndcg, softmax_loss
from sidbench.recommenders.blocks.prefixes import prefix_windows, similar_rows
from sidbench.recommenders.blocks.retrieval import Ranked, SidRetriever
from sidbench.recommenders.blocks.sid_tables import CodeLayout, CodeTable, fused_rows
from sidbench.recommenders.blocks.states import training_notes
from sidbench.recommenders.blocks.stream_decoder import StreamDecoder, StreamSession
from sidbench.recommenders.blocks.transfer import GuidedTransfer, Puzzles, sampled_contrast
from sidbench.recommenders.blocks.transformer import Dropout, PreNormBlock, initialise
from sidbench.recommenders.blocks.validation import validation_subset
from sidbench.recommenders.blocks.windows import TrainingWindows
from sidbench.recommenders.decoding.beam import Beam
from sidbench.recommenders.decoding.joint import JointSearch
from sidbench.recommenders.decoding.ranks import SEARCH_COMBINE, rank_by_search
from sidbench.tokenizers.base import SemanticIds

INFO = RecommenderInfo(
    title="EAGER: two-stream generation with joint re-scoring",
    version=1,
    paper="Wang et al., KDD 2024, arXiv 2406.14017",
    year=2024,
    url="https://arxiv.org/abs/2406.14017",
    bibtex="@misc{wang2024eager,\n"
    "  title={EAGER: Two-Stream Generative Recommender with Behavior-Semantic Collaboration},\n"
    "  author={Wang and others}, year={2024}, eprint={2406.14017}, archivePrefix={arXiv},\n"
    "  url={https://arxiv.org/abs/2406.14017}}",
    task="retrieval",
    deviations=(
        "SIDs without two named streams are split into their first and second half.",
        "History items enter as the sum of their code embeddings, not as item-ID embeddings.",
        "The encoder is causal, so that one pass serves every target of a sequence; rotary positions, pre-norm blocks.",
        "Decoder inputs add the state of the newest item to the vectors of slot and code.",
        "Each position has its own output classes instead of one softmax over the tokens of all positions.",
        "The summary is read at one more slot behind the last code instead of at a separate token behind it.",
        "The global contrastive task needs pre-trained item vectors, which SIDs do not carry: it contrasts with the "
        "tokenizer's reconstruction where there is one.",
        "The transfer task hides codes and offers the codes of a random item with probability one half each.",
        "Both auxiliary tasks are off, as in the authors' released script, except in the paper budget.",
        "A beam is widened where a user's candidates are fewer than the metrics need.",
    ),
)

SEARCH_ROWS = 64
VALIDATION_BEAM, VALIDATION_COVER = 32, 10  # the epoch is selected by NDCG@10


@dataclass(frozen=True)
class EagerConfig:
    """Settings of EAGER's recommender."""

    width: int = setting(96, "width of embeddings and transformers", unit="dimensions", low=8, high=1024, paper=96)
    encoder_layers: int = setting(1, "layers of the shared encoder", low=1, high=24, paper=1)
    decoder_layers: int = setting(2, "layers of each decoder", low=1, high=24, paper=2)
    heads: int = setting(4, "attention heads", low=1, high=64, paper=4)
    dropout: float = setting(0.2, "dropout on items and branches", low=0, high=0.9, sweep=(0.1, 0.3))
    max_length: int = setting(50, "history the model sees", unit="items", low=1, high=1024)
    learning_rate: float = setting(
        1e-3, "Adam step size at its peak", low=1e-6, high=0.1, paper=1e-3, sweep=(3e-4, 1e-3, 3e-3)
    )
    warmup_steps: int = setting(
        2000, "linear warm-up, then inverse square root", unit="steps", low=0, high=1 << 20, paper=2000
    )
    batch_positions: int = setting(768, "positions of a batch, padding included", low=16, high=1 << 20)
    epochs: int = setting(150, "passes over the training targets at most", low=1, high=1000)
    patience: int = setting(10, "validations without a better NDCG@10 before stopping", low=0, high=1000)
    validation_users: int = setting(4000, "users of the validation subset", low=1, high=1 << 30)
    guidance: float = setting(
        0.0, "weight of the transfer from the second stream to the first", low=0, high=100, sweep=(0.0, 0.1, 1.0)
    )
    contrastive_behaviour: float = setting(0.0, "weight of the contrast of the first stream", low=0, high=100, paper=1.0)
    contrastive_semantic: float = setting(0.0, "weight of the contrast of the second stream", low=0, high=100, paper=10.0)
    contrastive_temperature: float = setting(0.3, "temperature of the contrast", low=0.01, high=10, paper=0.3)
    negatives: int = setting(2048, "sampled negatives of the contrast", unit="items", low=1, high=1 << 20, paper=2048)
    beam: int = setting(128, "SIDs each stream's beam holds at first", unit="SIDs", low=1, high=1 << 20, paper=100)
    cover: int = setting(100, "items beyond the history that the candidates must reach", unit="items", low=1, high=1 << 30)

    def __post_init__(self) -> None:
        check_settings(self)
        if self.width % (2 * self.heads):
            raise InputError(
                "setting EagerConfig.width",
                got=self.width,
                wanted=f"a multiple of {2 * self.heads}",
                do="change width or heads; rotary positions need an even width per head",
            )


def split_streams(sids: SemanticIds) -> tuple[np.ndarray, bool]:
    """Stream 0 or 1 of each position int64 ``[L]``, and whether their names said so; "behaviour" is stream 0.

    Raises ``InputError`` for SIDs of one position.
    """
    if sids.code_length < 2:
        raise InputError(
            "eager: semantic IDs",
            got="one position",
            wanted="at least two, one for each stream",
            do="use a tokenizer with longer codes, or another recommender",
        )
    names = [name.rstrip("0123456789 ") for name in sids.position_names]
    streams = list(dict.fromkeys(names))
    if len(names) == sids.code_length and len(streams) == 2:
        first = "behaviour" if "behaviour" in streams else streams[0]
        return np.array([name != first for name in names], np.int64), True
    return (np.arange(sids.code_length) >= sids.code_length // 2).astype(np.int64), False


class _Network(nn.Module):
    decoders: Sequence[StreamDecoder]

    def __init__(self, config: EagerConfig, layout: CodeLayout, stream: np.ndarray) -> None:
        super().__init__()
        self.layout, self.stream = layout, stream
        self.codes = CodeTable(layout, config.width)
        self.item_norm, self.item_dropout = nn.LayerNorm(config.width), Dropout(config.dropout)
        self.encoder = nn.ModuleList(
            PreNormBlock(config.width, config.heads, 4 * config.width, config.dropout, 1e4)
            for _ in range(config.encoder_layers)
        )
        self.encoder_norm = nn.LayerNorm(config.width)
        self.decoders = nn.ModuleList(  # type: ignore[assignment]
            StreamDecoder(
                layout,
                np.flatnonzero(stream == s).tolist(),
                config.width,
                config.decoder_layers,
                config.heads,
                config.dropout,
            )
            for s in (0, 1)
        )

    def encode(self, rows: Tensor) -> Tensor:
        """Histories ``[B, T, width]`` from fused code rows int64 ``[B, T, L]``; place t sees items 0..t."""
        x = F.embedding_bag(rows.flatten(0, 1), self.codes.inputs(), mode="sum")
        x = self.item_dropout(self.item_norm(x)).view(*rows.shape[:2], -1)
        for block in self.encoder:
            x = block(x)
        made: Tensor = self.encoder_norm(x)
        return made


class _Training(nn.Module):
    """The network with what only training needs: the transfer task and projections into the space of item vectors."""

    projections: Sequence[nn.Module]

    def __init__(self, config: EagerConfig, network: _Network, vectors: list[Tensor | None]) -> None:
        super().__init__()
        self.config, self.network, self.vectors = config, network, vectors
        slots = int((network.stream == 0).sum())
        self.transfer = GuidedTransfer(config.width, config.heads, slots, config.dropout) if config.guidance else None
        self.projections = nn.ModuleList(  # type: ignore[assignment]
            nn.Identity() if v is None else nn.Linear(config.width, v.shape[1]) for v in vectors
        )

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draw all parameters: matrices Xavier-normal, embeddings N(0, 1 / width)."""
        initialise(self, generator)
        std = self.config.width**-0.5
        self.network.codes.initialise(std, generator)
        tables = [p for decoder in self.network.decoders for p in (decoder.slots, decoder.table)]
        for table in tables + ([self.transfer.slots, self.transfer.blank] if self.transfer is not None else []):
            table.normal_(0.0, std, generator=generator)

    def loss(self, made: Mapping[str, Tensor], item_rows: Tensor) -> dict[str, Tensor]:
        """Parts and their weighted sum ``"loss"`` of one batch."""
        config, network, labelled = self.config, self.network, made["labelled"]
        hidden = network.encode(item_rows[made["items"]])
        targets = item_rows[made["targets"]]
        every = item_rows[:1].repeat(hidden.shape[0] * hidden.shape[1], 1).index_copy_(0, labelled, targets)
        table, summary = network.codes.inputs(), self.transfer is not None or any(v is not None for v in self.vectors)
        parts: dict[str, Tensor] = {"codes": torch.zeros((), device=hidden.device)}
        last = []
        for decoder in network.decoders:
            codes = F.embedding(every[:, decoder.positions], table)
            states = decoder(hidden, codes, summary).index_select(0, labelled)
            terms = [
                softmax_loss(states[:, j].contiguous(), output, targets[:, p] - first)
                for j, (p, first, output) in enumerate(
                    zip(decoder.positions, decoder.first_row, decoder.outputs(), strict=True)
                )
            ]
            parts["codes"] = parts["codes"] + torch.stack(terms).mean()
            last.append(states[:, -1])
        total = parts["codes"]
        if self.transfer is not None:
            first = network.decoders[0]
            start = torch.as_tensor(first.first_row, device=hidden.device)
            offered = torch.where(made["swap"][:, None], item_rows[made["other"]], targets)
            puzzles = Puzzles(made["hide"], offered[:, first.positions] - start)
            parts["reconstruction"], parts["recognition"] = self.transfer.losses(
                last[1], targets[:, first.positions] - start, puzzles, first.inputs(table), first.outputs()
            )
            total = total + config.guidance * (parts["reconstruction"] + parts["recognition"])
        weights = (config.contrastive_behaviour, config.contrastive_semantic)
        for s, (weight, vectors) in enumerate(zip(weights, self.vectors, strict=True)):
            if vectors is not None:
                anchors = self.projections[s](last[s])
                parts[f"contrast_{s}"] = sampled_contrast(
                    anchors, vectors, made["targets"], made["negatives"], config.contrastive_temperature
                )
                total = total + weight * parts[f"contrast_{s}"]
        return {"loss": total, **parts}


class Eager(SidRetriever[_Network]):
    """Two-stream generative retrieval with exact joint scores of all candidates."""

    info = INFO
    saves = ("stream",)  # of each position
    config_class = EagerConfig
    diagnostic_combine: ClassVar[Mapping[str, str]] = {
        **SEARCH_COMBINE,
        **dict.fromkeys(("streams_named", "contrastive_streams", "training_only_parameters"), SAME),
    }
    budgets = {
        "smoke": {
            "width": 32,
            "heads": 2,
            "decoder_layers": 1,
            "epochs": 2,
            "batch_positions": 512,
            "warmup_steps": 0,
            "validation_users": 100,
        },
        "quick": {"epochs": 12, "patience": 3, "warmup_steps": 500, "validation_users": 2000},
        "standard": {},
        "paper": {
            "guidance": 1.0,
            "contrastive_behaviour": 1.0,
            "contrastive_semantic": 10.0,
            "beam": 100,
            "epochs": 200,
            "patience": 20,
            "validation_users": 1 << 30,
        },
    }

    config: EagerConfig

    def _make_network(self, layout: CodeLayout) -> _Network:
        return _Network(self.config, layout, self.saved_["stream"])

    def fit(self, data: RetrievalData, sids: SemanticIds | None, rng: Rng, runtime: Runtime) -> Self:
        config = self.config
        sids, layout, item_rows = self._begin(sids, data.n_items, runtime)
        stream, named = split_streams(sids)
        self.saved_ = {"stream": stream}
        network = self.network_ = self._make_network(layout).to(runtime.device)
        training = _Training(config, network, _item_vectors(config, sids, runtime)).to(runtime.device)
        training.initialise(runtime.generator(rng.child("initial")))
        windows = TrainingWindows(data.train, config.max_length, config.batch_positions, rng.child("windows"))

        def batch(epoch: int, index: int) -> dict[str, Tensor]:
            made, generator = windows.batch(epoch, index), rng.child("noise", epoch, index).numpy()
            count = len(made.targets)
            drawn = {"targets": made.targets, "labelled": made.labelled, "items": np.maximum(made.items, 0)}
            if training.transfer is not None:
                draw = generator.random((count, len(network.decoders[0].positions)))
                drawn |= {
                    "hide": draw <= np.maximum(draw.min(axis=1, keepdims=True), 0.5),  # at least one
                    "swap": generator.random(count) < 0.5,
                    "other": generator.integers(data.n_items, size=count),
                }
            if any(v is not None for v in training.vectors):
                drawn["negatives"] = generator.integers(data.n_items, size=config.negatives)
            return {name: runtime.tensor(array) for name, array in drawn.items()}

        histories, targets = validation_subset(data, config.validation_users, rng)
        log = runtime.train(
            TrainingPlan(
                self.name,
                training,
                windows.steps_per_epoch,
                config.epochs,
                batch,
                lambda made, step: training.loss(made, item_rows),
                rng.child("training"),
                learning_rate=config.learning_rate,
                warmup_steps=config.warmup_steps,
                schedule="inverse_sqrt",
                validate=lambda: expected_ndcg(
                    self._ranks(histories, targets, sids, runtime, VALIDATION_BEAM, VALIDATION_COVER)[0], 10
                ),
                patience=config.patience,
                batch_setting=("batch_positions", config.batch_positions),
            )
        )
        self._notes = {
            **training_notes(log, windows),
            "streams_named": float(named),
            "contrastive_streams": float(sum(v is not None for v in training.vectors)),
            "embedding_parameters": float(network.codes.table.numel() + sum(d.table.numel() for d in network.decoders)),
            "training_only_parameters": float(sum(p.numel() for p in training.parameters()) - self.n_parameters),
        }
        return self

    def _ranked(self, histories: Sequences, targets: np.ndarray, sids: SemanticIds, runtime: Runtime) -> Ranked:
        return self._ranks(histories, targets, sids, runtime, self.config.beam, self.config.cover)

    @torch.no_grad()
    def _ranks(
        self, histories: Sequences, targets: np.ndarray, sids: SemanticIds, runtime: Runtime, width: int, cover: int
    ) -> Ranked:
        network, max_length = self._network().to(runtime.device).eval(), self.config.max_length
        item_rows = runtime.tensor(fused_rows(network.layout, sids, sids.n_items, self.name))
        network.layout.check_same(sids, self.name)
        table = network.codes.inputs()
        joint = JointSearch(sids, [decoder.positions for decoder in network.decoders], runtime)

        def search(users: np.ndarray, width: int) -> Beam:
            items, length = prefix_windows(histories, users, max_length)
            hidden = network.encode(item_rows[runtime.tensor(np.maximum(items, 0))])
            place = runtime.tensor(length - 1)
            return joint(
                [
                    partial(StreamSession, decoder, table, hidden, place, decoder.memories(hidden))
                    for decoder in network.decoders
                ],
                width,
            )

        batches = similar_rows(histories, max_length, min(SEARCH_ROWS, joint.rows(width)))
        return rank_by_search(batches, search, histories, targets, joint.trie, width, cover, runtime)


def _item_vectors(config: EagerConfig, sids: SemanticIds, runtime: Runtime) -> list[Tensor | None]:
    """Per stream float32 ``[N, D]`` vectors to contrast with, ``None`` where not asked for or not to be had: the
    reconstructed behaviour for the first stream, all other reconstructed modalities for the second."""
    content = [v for name, v in sids.reconstruction.items() if name != "behaviour"]
    had = (sids.reconstruction.get("behaviour"), np.concatenate(content, 1) if content else None)
    made: list[Tensor | None] = []
    for name, weight, vectors in zip(
        ("behaviour", "semantic"), (config.contrastive_behaviour, config.contrastive_semantic), had, strict=True
    ):
        if weight and vectors is None:
            runtime.warn(f"eager: contrastive_{name}={weight:g} has no effect: the tokenizer reconstructs nothing for it.")
        made.append(runtime.tensor(vectors.astype(np.float32)) if weight and vectors is not None else None)
    return made

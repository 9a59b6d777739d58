"""The contract of a tokenizer plugin, and ``SemanticIds``, the value it exports.

Life cycle. The pipeline, in the main process, constructs the class with its frozen config, calls ``fit`` once per
(features, config, seed), saves ``state_dict``, and calls ``encode`` on the whole catalogue. Later, possibly in another
process or on another machine, it constructs the class with the same config, calls ``load_state_dict`` and ``encode``
again, also with items that did not exist at ``fit``. ``encode`` is never called before ``fit`` or ``load_state_dict``,
must not change state, and gives equal codes for equal features on the same machine type. All randomness comes from
``rng``; all tensors live on ``runtime.device``; files, clocks and logging are the pipeline's affair.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np

from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.foundation.errors import InputError, StageError
from sidbench.datasets.foundation.mapped import row_blocks
from sidbench.datasets.foundation.plugin import PluginBase
from sidbench.datasets.foundation.runtime import Runtime
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.foundation.settings import check_settings, setting
from sidbench.datasets.splits.base import Sequences

PAD = -1


@dataclass(frozen=True)
class SemanticIds:
    """Codes of ``N`` items; several items may share one SID.

    codes: int32 ``[N, L]``, values ``0..sizes[p]-1`` or ``PAD`` (-1) where a position is not used.
    sizes: int32 ``[L]`` codebook size of each position.
    ordered: True when a position is meaningful only given the positions before it (residual codes).
    weights: float32 ``[N, L]`` or ``None``; strength of each code (router weights), 0 at PAD.
    reconstruction: modality -> float32 ``[N, D_m]`` in the scale of ``ItemFeatures``; empty when undefined.
    position_names: what each position encodes ("shared", "text", "behaviour 1"); empty when all alike.
    """

    codes: np.ndarray
    sizes: np.ndarray
    ordered: bool
    weights: np.ndarray | None = None
    reconstruction: Mapping[str, np.ndarray] = field(default_factory=dict)
    position_names: tuple[str, ...] = ()

    @property
    def n_items(self) -> int:
        return self.codes.shape[0]

    @property
    def code_length(self) -> int:
        return self.codes.shape[1]

    @property
    def has_pad(self) -> np.ndarray:
        """bool ``[L]``: positions where some item has PAD."""
        return np.asarray((self.codes == PAD).any(axis=0))

    def distinct(self) -> tuple[np.ndarray, np.ndarray]:
        """Distinct SIDs int32 ``[U, L]`` in lexicographic order, and the index int64 ``[N]`` of each item's SID."""
        unique, inverse = np.unique(self.codes, axis=0, return_inverse=True)
        return unique, inverse.reshape(-1)

    def check(self, n_items: int, who: str = "tokenizer") -> SemanticIds:
        """Return self, or raise ``StageError`` naming the broken invariant (shape, dtype, range, NaN)."""
        codes, sizes = self.codes, self.sizes
        if not isinstance(codes, np.ndarray) or codes.dtype != np.int32 or codes.ndim != 2:
            raise StageError(
                f"{who}: codes must be int32 of shape (items, positions), got "
                f"{getattr(codes, 'dtype', type(codes))} {getattr(codes, 'shape', '')}."
            )
        if codes.shape[0] != n_items or codes.shape[1] != len(sizes) or codes.shape[1] == 0:
            raise StageError(
                f"{who}: codes have shape {codes.shape} with {len(sizes)} sizes, wanted {n_items} rows "
                "and one size per position."
            )
        if sizes.dtype != np.int32:
            raise StageError(f"{who}: sizes must be int32, got {sizes.dtype}.")
        bad = (codes < PAD) | (codes >= sizes[None, :])
        if bad.any():
            item, position = np.argwhere(bad)[0]
            raise StageError(
                f"{who}: code {codes[item, position]} of item {item} at position {position} is outside "
                f"-1..{sizes[position] - 1}."
            )
        for name, array in {"weights": self.weights, **self.reconstruction}.items():
            if array is not None and (len(array) != n_items or not all(np.isfinite(b).all() for _, b in row_blocks(array))):
                raise StageError(f"{who}: {name} must have {n_items} finite rows, got {array.shape}.")
        return self

    def with_codes(self, codes: np.ndarray, sizes: np.ndarray) -> SemanticIds:
        """The same SIDs with other codes (collision policies); weights and reconstruction are dropped."""
        return replace(self, codes=codes, sizes=sizes, weights=None, reconstruction={}, position_names=())


@dataclass(frozen=True)
class TokenizerInfo:
    """Static metadata, read from the plugin's source without importing it: keep every argument a literal.

    year: of the paper; ``None`` where there is none, as for controls, which are no published methods.
    modalities: what it reads, of "text", "vision", "behaviour", "sequences", "categories"; empty for controls.
    required: those without which ``fit`` raises ``InputError``; "text|vision" means at least one of them.
    deviations: where this implementation departs from the paper, one sentence each.
    composite: it runs another tokenizer of the suite, one that it imports or the one that its setting ``base`` names;
    that one's code counts as its own.
    needs_settings: settings without a usable default ("path"); ``--tokenizer all`` leaves the plugin out unless set.
    variable_length: items may have PAD at some positions.
    url: page of the paper (arXiv or DOI); bibtex: its key or whole entry; both empty without one.
    version: raised by its author when the numbers it computes change; part of stage keys, run ids and comparability.
    """

    title: str
    paper: str
    modalities: tuple[str, ...]
    ordered: bool
    year: int | None = None
    control: bool = False
    required: tuple[str, ...] = ()
    deviations: tuple[str, ...] = ()
    composite: bool = False
    needs_settings: tuple[str, ...] = ()
    variable_length: bool = False
    version: int = 1
    url: str = ""
    bibtex: str = ""


@dataclass(frozen=True)
class TokenizerConfig:
    """Settings every tokenizer shares; profile B of the benchmark (6 x 100) is the default, profile A is 4 x 256."""

    code_length: int = setting(6, "positions per SID", unit="codes", low=1, high=64, sweep=(3, 4, 6, 8))
    codebook_size: int = setting(100, "codes per position", unit="codes", low=1, high=65536, sweep=(64, 100, 256))
    fit_items: str = setting("train", "items that statistics are fitted on", choices=("train", "all"))

    def __post_init__(self) -> None:
        check_settings(self)

    def content_files(self) -> tuple[str, ...]:
        """Files whose bytes decide what ``fit`` learns, for the cache key and the run id; only ``imported`` has one."""
        return ()


class Tokenizer(PluginBase):
    """Base of every tokenizer. Learned attributes end in ``_``; constructor and ``name`` are those of ``PluginBase``.

    itemwise: ``encode`` gives an item the same codes whatever other items stand beside it, and reads no sequences, so a
    catalogue may be encoded block by block. Set it to False where codes depend on row numbers or on the catalogue.
    """

    entry_points: ClassVar[str] = "sidbench.tokenizers"
    info: ClassVar[TokenizerInfo]
    config_class: ClassVar[type[Any]] = TokenizerConfig
    itemwise: ClassVar[bool] = True

    def __init__(self, config: Any = None, **settings: Any) -> None:
        super().__init__(config, **settings)
        self._diagnostics: dict[str, float] = {}

    @abstractmethod
    def fit(self, features: ItemFeatures, rng: Rng, runtime: Runtime) -> Self:
        """Learn everything that ``encode`` needs. Raises ``InputError`` for unusable features or settings."""

    @abstractmethod
    def encode(self, features: ItemFeatures, runtime: Runtime) -> SemanticIds:
        """SIDs of all items in ``features``, seen at fit or not."""

    @abstractmethod
    def state_dict(self) -> dict[str, np.ndarray]:
        """Learned state as numpy arrays; with the config enough to restore the tokenizer."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore ``state_dict``. Raises ``InputError`` naming the entry that does not fit the config."""

    def code_costs(self, features: ItemFeatures, runtime: Runtime) -> np.ndarray | None:
        """Cost float32 ``[N, sizes[-1]]`` of giving each item each code of the last position, its other codes kept.

        Squared distance (or 1 - similarity) in the space the method quantises; what ``encode`` minimises. Collision
        policies that move items use it. ``None`` where the method has no such distance: they then estimate one.
        """
        return None

    def diagnostics(self) -> dict[str, float]:
        """Numbers for the record that only the method can know (``loss_native``, router activity); may be empty. Of several
        processes, which all fit the same tokenizer, those of the main process are recorded."""
        return dict(self._diagnostics)

    @property
    def n_parameters(self) -> int:
        """Number of learned scalars."""
        return int(sum(a.size for a in self.state_dict().values()))


def check_capacity(config: TokenizerConfig, n_fit: int, who: str) -> None:
    """Raise ``InputError`` when a codebook of ``codebook_size`` cannot be learned from ``n_fit`` items."""
    if config.codebook_size > n_fit:
        raise InputError(
            f"{who}: codebook_size",
            got=config.codebook_size,
            wanted=f"at most the {n_fit} items it is fitted on",
            do=f"set tokenizer.codebook_size={max(1, n_fit // 4)} or fit on more items",
        )


def usable_content(features: ItemFeatures, who: str) -> np.ndarray:
    """Concatenated content modalities float32 ``[N, D_c]`` in memory, checked to be finite."""
    check_content(features, who)
    return features.concatenated()


def check_content(features: ItemFeatures, who: str) -> None:
    """Raise ``InputError`` when no content modality is present or its values are not finite; maps are read in blocks."""
    features.block(0, 0).concatenated()
    broken = np.zeros(features.n_items, bool)
    for name in features.content_names():
        for part, block in row_blocks(features.modalities[name]):
            broken[part] |= ~np.isfinite(block).all(axis=1)
    if broken.any():
        rows = np.flatnonzero(broken)
        raise InputError(
            f"{who}: content embeddings",
            got=f"NaN or infinite values in {len(rows)} rows (first: item {rows[0]})",
            wanted="finite numbers",
            do="check the feature encoder",
        )


@dataclass(frozen=True)
class TokenSequences:
    """Token sequences of ``U`` users (or targets) whose tokens may hold features of several events.

    tokens: int32 ``[T]``, values ``0..vocabulary_size-1``; indptr: int64 ``[U + 1]``; sequence ``u`` is
    ``tokens[indptr[u]:indptr[u + 1]]``.
    first_event, last_event: int32 ``[T]``, the first and last event (index in the user's own sequence, 0 = oldest) of
    which the token holds a feature; equal for a token of one event. The last event never falls along a sequence.
    """

    tokens: np.ndarray
    indptr: np.ndarray
    first_event: np.ndarray
    last_event: np.ndarray

    def of(self, sequence: int) -> np.ndarray:
        """int32 tokens of one sequence."""
        return self.tokens[self.indptr[sequence] : self.indptr[sequence + 1]]


class SequenceTokenizer(Tokenizer):
    """A tokenizer whose tokens depend on the sequence an item stands in (ActionPiece).

    Life cycle: that of ``Tokenizer``. ``encode`` still gives context-free features of every item as ``SemanticIds``,
    injective on the fitted catalogue, which every recommender can use as it uses any other SIDs. A recommender that
    knows sequence tokens also calls, after ``fit`` or ``load_state_dict``, on training histories as often as it likes
    (once an epoch with a fresh ``rng`` for augmentation, several times at inference for an ensemble):
    ``encode_sequences`` for inputs and labels and ``decode_items`` for generated tokens. Neither changes state. Token
    numbers hold no special tokens: PAD, BOS and EOS are the recommender's.
    """

    modes: ClassVar[tuple[str, ...]]  # the words ``encode_sequences`` takes; the first is for training inputs

    @property
    @abstractmethod
    def vocabulary_size(self) -> int:
        """Number of tokens; the context-free features come first, in the order position, code."""

    @abstractmethod
    def encode_sequences(self, sequences: Sequences, sids: SemanticIds, rng: Rng | None, mode: str) -> TokenSequences:
        """Tokens of item sequences; ``sids`` are the codes of the catalogue that ``sequences.items`` points into.

        rng: source of the random choices of a mode; ``None`` is accepted by modes without any. Raises ``InputError``
        for an unknown mode, a random mode without ``rng``, items outside the catalogue or codes of another tokenizer.
        """

    @abstractmethod
    def expand_tokens(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Features that tokens stand for: ``(indptr int64 [T + 1], position int32 [F], code int32 [F])``.

        Raises ``InputError`` for a token outside the vocabulary.
        """

    @abstractmethod
    def decode_items(self, sequences: TokenSequences, sids: SemanticIds) -> np.ndarray:
        """Item int64 ``[U]`` that each sequence of tokens spells, -1 where it spells none.

        A sequence spells an item when its features hold every position of the SID exactly once, in any order, and
        the item has this SID.
        """

"""Hash codes: the control that shares codes at random and needs no table.

``c_p = h_p(item) mod K`` with one independent hash function per position: double hashing (Zhang et al. 2020) is two
positions. Controls for what code sharing as such gives: fewer embedding rows than items and no meaning in who
shares. Unlike ``random``, which deals distinct SIDs, it collides as often as chance says. Items are hashed by their key
in the catalogue, so an item keeps its codes when the catalogue grows or is reordered; without keys by row number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Self

import numpy as np

from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.runtime import Runtime
from sidbench.datasets.foundation.seeds import Rng
from sidbench.tokenizers.base import SemanticIds, Tokenizer, TokenizerConfig, TokenizerInfo
from sidbench.tokenizers.blocks.training.content import state_entry

INFO = TokenizerInfo(
    title="Hash codes (control)",
    version=1,
    paper="Zhang et al., RecSys 2020 (double hashing)",
    url="https://doi.org/10.1145/3383313.3412227",
    bibtex="@inproceedings{zhang2020hashing,\n"
    "  title={Model Size Reduction Using Frequency Based Double Hashing for Recommender Systems},\n"
    "  author={Zhang and others}, booktitle={RecSys}, year={2020}, doi={10.1145/3383313.3412227}}",
    modalities=(),
    ordered=False,
    control=True,
    deviations=("Without item keys the row number is hashed: a subset encoded alone gets the codes of the first rows.",),
)


class HashCodes(Tokenizer):
    """Hash codes; ``seed_`` picks the hash functions, ``keyed_`` says whether they read item keys or row numbers."""

    info = INFO
    config_class = TokenizerConfig
    itemwise = False
    expected_failures = {"more codes than items": "hash functions learn nothing from items"}
    seed_: int
    keyed_: bool

    def fit(self, features: ItemFeatures, rng: Rng, runtime: Runtime) -> Self:
        self.seed_, self.keyed_ = rng.integer(), features.item_keys is not None
        return self

    def encode(self, features: ItemFeatures, runtime: Runtime) -> SemanticIds:
        c: TokenizerConfig = self.config
        if self.keyed_ and features.item_keys is None:
            raise InputError(
                f"{self.name}: items to encode",
                got="no item keys",
                wanted="keys, as at the fit",
                do="encode features of the same catalogue, or fit again",
            )
        identity = _fingerprints(features.item_keys or ()) if self.keyed_ else np.arange(features.n_items, dtype=np.uint64)
        salts = Rng(self.seed_).numpy().integers(0, 1 << 64, size=c.code_length, dtype=np.uint64)
        codes = np.stack([_mix(identity ^ salt) % np.uint64(c.codebook_size) for salt in salts], axis=1)
        return SemanticIds(codes.astype(np.int32), np.full(c.code_length, c.codebook_size, np.int32), ordered=False)

    def state_dict(self) -> dict[str, np.ndarray]:
        return {"seed": np.array(self.seed_, np.int64), "keyed": np.array(self.keyed_)}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        self.seed_ = int(state_entry(state, "seed", (), self.name))
        self.keyed_ = bool(state_entry(state, "keyed", (), self.name))


def _fingerprints(keys: tuple[str, ...]) -> np.ndarray:
    """uint64 ``[N]`` of item keys, the same in every process."""
    digests = b"".join(hashlib.blake2b(key.encode(), digest_size=8).digest() for key in keys)
    return np.frombuffer(digests, "<u8").astype(np.uint64)


def _mix(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele, Lea and Flood 2014): every input bit flips every output bit half of the time."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))

"""A language model that proposes short phrases for a text: the generator of text IDs, behind the extra ``generator``.

IDGenRec (arXiv 2403.19021) lets a T5 model write an item's phrase by beam search and asks for longer ones until the
phrase is free. Any local folder with a sequence-to-sequence model and its tokenizer, as Hugging Face keeps them, will do;
weights are read as safetensors alone and no code from the folder is run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.runtime import Runtime

BATCH_TEXTS = 32
_SUFFIXES = (".json", ".safetensors", ".model", ".txt")


def generator_files(folder: str) -> tuple[str, ...]:
    """Files of a model folder that decide what it writes. Raises ``InputError`` where there is no such folder."""
    path = Path(folder)
    files = tuple(str(f) for f in sorted(path.iterdir()) if f.suffix in _SUFFIXES) if path.is_dir() else ()
    if not any(f.endswith(".safetensors") for f in files):
        found = f"{folder!r} without weights" if path.is_dir() else f"no folder {folder!r}"
        raise InputError(
            "text_id: generator",
            got=found,
            wanted="a folder with a sequence-to-sequence model: config.json, *.safetensors and its tokenizer",
            do="save one with save_pretrained, or leave tokenizer.generator empty",
        )
    return files


class PhraseGenerator:
    """Beam search of one model over many texts.

    Parameters
    ----------
    folder: where the model lies. candidates: phrases an item, best first. max_input: tokens of a text that are read.
    max_phrase: tokens of a phrase at most.

    Raises ``InputError`` when the extra is not installed or the folder holds no such model.
    """

    def __init__(self, folder: str, candidates: int, max_input: int, max_phrase: int, runtime: Runtime) -> None:
        generator_files(folder)
        try:
            from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
        except ImportError as error:
            raise InputError(
                "text_id: generator",
                got="no package transformers",
                wanted="the extra `generator`",
                do="pip install 'sidbench[generator]', or leave tokenizer.generator empty",
            ) from error
        try:
            self._words: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            model: Any = AutoModelForSeq2SeqLM.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, trust_remote_code=False
            )
        except (OSError, ValueError, KeyError) as error:
            raise InputError(
                "text_id: generator",
                got=f"{folder!r} cannot be read ({str(error)[:200]})",
                wanted="a sequence-to-sequence model and its tokenizer",
                do="save both with save_pretrained",
            ) from error
        self._model = model.to(runtime.device).eval()
        self._candidates, self._max_input, self._max_phrase = candidates, max_input, max_phrase

    @torch.no_grad()
    def phrases(self, texts: Sequence[str]) -> list[list[str]]:
        """For every text its ``candidates`` phrases, best first; none for an empty text."""
        proposals: list[list[str]] = [[] for _ in texts]
        # Texts of similar length share a batch, so that little of it is padding.
        order = sorted((i for i, text in enumerate(texts) if text), key=lambda i: (len(texts[i]), i))
        for start in range(0, len(order), BATCH_TEXTS):
            rows = order[start : start + BATCH_TEXTS]
            inputs = self._words(
                [texts[i] for i in rows], return_tensors="pt", padding=True, truncation=True, max_length=self._max_input
            )
            made = self._model.generate(
                input_ids=inputs["input_ids"].to(self._model.device),
                attention_mask=inputs["attention_mask"].to(self._model.device),
                num_beams=self._candidates,
                num_return_sequences=self._candidates,
                do_sample=False,
                max_new_tokens=self._max_phrase,
            )
            decoded = self._words.batch_decode(made, skip_special_tokens=True)
            for at, row in enumerate(rows):
                proposals[row] = decoded[at * self._candidates : (at + 1) * self._candidates]
        return proposals

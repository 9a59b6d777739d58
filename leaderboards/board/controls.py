"""The controls that belong in every table: codes that ignore content, so that a reader sees what content is worth."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from sidbench.leaderboards.board.store import StoredRun

_SHARED_GROUPS = ("dataset.", "features.", "behaviour.", "retriever.", "ranker.")  # overrides that decide the table


def missing_controls(members: Sequence[StoredRun], controls: Sequence[str]) -> tuple[str, ...]:
    """One sentence that names the controls without a row and the command that adds them; none for a complete table.

    controls: tokenizers that say so in their ``INFO``. A table of baselines alone has no SIDs to control for.
    """
    records = [r.record for r in members if r.record.tokenizer is not None]
    present = {r.tokenizer.name for r in records if r.tokenizer is not None}
    missing = [name for name in controls if name not in present]
    if not records or not missing:
        return ()
    lead = records[0]
    recommenders = ",".join(t.recommender.name for t in lead.tasks) or "none"
    words = [
        "bench",
        "run",
        "--tokenizer",
        ",".join(missing),
        "--dataset",
        lead.dataset.name,
        "--recommender",
        recommenders,
        "--budget",
        lead.budget,
        *[w for w in lead.environment.command_line if w.startswith(_SHARED_GROUPS)],
    ]
    return (f"Controls without a row: {', '.join(missing)}. To add them: `{shlex.join(words)}`.",)

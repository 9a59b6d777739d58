"""Which version of a plugin a record was made by, also for records that hold only a fingerprint of its code.

Records of release 0.1.0 identify code by a hash of syntax trees, which changed with every wording and move. The data file
beside this module says which declared version such a hash belongs to.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from sidbench.benchmark.plugins.names import base_of
from sidbench.benchmark.store.records import PluginRecord, RunRecord

Plugin = tuple[str, str, str]  # kind, name and, of a wrapper, what it runs: ("tokenizer", "shuffled", "rqkmeans")
EARLIER = Path(__file__).with_name("earlier_versions.json")
UNKNOWN = "?"


@cache
def _earlier() -> Mapping[str, Mapping[str, str]]:
    """ "kind name" -> fingerprint of 0.1.0 -> version."""
    found: Mapping[str, Mapping[str, str]] = json.loads(EARLIER.read_text(encoding="utf-8"))
    return found


def recorded_version(kind: str, name: str, version: str, code: str) -> str:
    """The version on a record; of an older record the one its fingerprint had, "?<fingerprint>" where nobody knows.

    Empty where the record left neither, so that such a plugin is not judged.
    """
    if version or not code:
        return version
    return _earlier().get(f"{kind} {name}", {}).get(code, f"{UNKNOWN}{code[:12]}")


def versions_of(record: RunRecord) -> dict[Plugin, str]:
    """(kind, name, base) -> version of each plugin of a run; those that left none are left out."""
    found = {("recommender", t.recommender.name, ""): _of("recommender", t.recommender) for t in record.tasks}
    if record.tokenizer is not None:
        key = ("tokenizer", record.tokenizer.name, base_of(record.tokenizer.config))
        found[key] = _of("tokenizer", record.tokenizer)
    if record.sids is not None and (record.sids.collision_version or record.sids.collision_code):
        policy = record.sids.collision_policy
        found["collisions", policy, ""] = recorded_version(
            "collisions", policy, record.sids.collision_version, record.sids.collision_code
        )
    return found


def _of(kind: str, plugin: PluginRecord) -> str:
    return recorded_version(kind, plugin.name, plugin.version, plugin.code)

"""Reading records: this schema, earlier and later ones, and damaged text."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sidbench.benchmark.store.records import (
    SCHEMA_VERSION,
    DatasetRecord,
    EnvironmentRecord,
    NewerRecord,
    RunRecord,
    UnreadableRecord,
    read_record,
)


def record() -> RunRecord:
    return RunRecord(
        run_id="r",
        created="2026-01-01T00:00:00+00:00",
        budget="smoke",
        seed=0,
        dataset=DatasetRecord(name="synthetic", config={}, content_hash="h", counts={}),
        features=None,
        tokenizer=None,
        sids=None,
        tasks=(),
        comparability_key="k",
        protocol_key="p",
        stages=(),
        environment=EnvironmentRecord(
            device="cpu",
            precision="fp32",
            threads=1,
            allocator="a",
            python="3.11",
            versions={},
            git_commit="",
            git_dirty=False,
            code="c",
            command_line=("bench",),
            platform="p",
        ),
    )


def changed(**fields: Any) -> str:
    return json.dumps(json.loads(record().model_dump_json()) | fields)


def test_round_trip() -> None:
    assert read_record(record().model_dump_json(indent=1)) == record()


def test_a_later_schema_and_unknown_fields_are_newer() -> None:
    with pytest.raises(NewerRecord, match=f"schema version 999, this release reads {SCHEMA_VERSION}"):
        read_record(changed(schema_version=999))
    with pytest.raises(NewerRecord, match="unknown fields dataset.place, energy, so a newer release wrote it"):
        read_record(changed(energy=1, dataset={"name": "d", "config": {}, "content_hash": "h", "counts": {}, "place": 1}))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (changed(schema_version=0), "schema version 0"),
        (changed(schema_version=True), "schema version True"),
        (changed(schema_version="9"), "schema version 9"),
        ("{}", "schema version None"),
        ("[]", "not a JSON object"),
        ("", "cannot read the record"),
        (changed()[:200], "cannot read the record"),
        (changed(seed="x"), "seed"),
    ],
)
def test_damaged_and_earlier_ones_are_not_newer(text: str, why: str) -> None:
    with pytest.raises(UnreadableRecord, match=why) as caught:
        read_record(text)
    assert not isinstance(caught.value, NewerRecord)
    assert "\n" not in str(caught.value)

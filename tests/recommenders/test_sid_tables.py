"""Fused code tables: layout by hand, PAD as input and output, faults."""

import numpy as np
import pytest
import torch

from sidbench.datasets.foundation.errors import InputError
from sidbench.recommenders.blocks.sid_tables import CodeLayout, CodeTable, fused_rows
from sidbench.tokenizers.base import PAD, SemanticIds

SIDS = SemanticIds(np.array([[0, PAD, 2], [1, 0, 0]], np.int32), np.array([2, 1, 3], np.int32), False)


def test_layout_by_hand():
    layout = CodeLayout.of(SIDS)
    assert layout.classes.tolist() == [2, 2, 3]
    assert layout.offsets.tolist() == [0, 2, 4, 7]
    assert layout.pad_rows.tolist() == [3]
    assert layout.rows(SIDS.codes).tolist() == [[0, 3, 6], [1, 2, 4]]


def test_pad_is_zero_as_input_and_a_unit_class_as_output():
    table = CodeTable(CodeLayout.of(SIDS), 4)
    table.initialise(1.0, torch.Generator().manual_seed(0))
    inputs = table.inputs()
    assert (inputs[3] == 0).all()
    assert (inputs[[0, 1, 2, 4, 5, 6]] == table.table[[0, 1, 2, 4, 5, 6]]).all()
    outputs = table.outputs()
    assert [len(o) for o in outputs] == [2, 2, 3]
    torch.testing.assert_close(torch.cat(outputs).norm(dim=1), torch.ones(7))


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.array([[0, 0]], np.int32), "shape"),
        (np.array([[2, 0, 0]], np.int32), "code 2 at position 0"),
        (np.array([[PAD, 0, 0]], np.int32), "code -1 at position 0"),
        (np.array([[0, 0, 0], [0, 0, 3]], np.int32), "item 1"),
    ],
)
def test_codes_that_do_not_fit_are_refused(codes, message):
    with pytest.raises(InputError, match=message):
        CodeLayout.of(SIDS).rows(codes)


def test_catalogue_size_is_checked():
    with pytest.raises(InputError, match="2 items"):
        fused_rows(CodeLayout.of(SIDS), SIDS, 3, "mtp")

"""A batch's two forms: the rectangle and the layout without padding say the same."""

import pytest
import torch
from torch import Tensor

from pretrain.fast.layout import Layout
from sft.models import batch as module
from sft.models.batch import Batch, Padded, micro_batches, position_ids, response_mask

CPU = torch.device("cpu")
PROMPTS, RESPONSES = [[3, 7], [1, 2, 3, 4, 5, 6, 7], [9], [4, 4, 4, 8]], [[5, 6, 7], [8], [1, 2, 3, 4, 5], [22]]


def test_positions_do_not_count_padding() -> None:
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    assert position_ids(mask).tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 3, 4], [0, 1, 2, 2, 2]]


def test_masks_come_from_lengths_even_where_the_filler_is_the_stop_token(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = 9
    monkeypatch.setattr(module, "FILLER", stop)
    batch = Batch([[1, 2, 3], [4]], [[5, stop], [6, 7, 8, stop]])
    padded = batch.padded
    assert padded.ids.tolist() == [[1, 2, 3, 5, stop], [4, 6, 7, 8, stop]]
    assert padded.predicts_response.tolist() == [[False, False, True, True, False], [True, True, True, True, False]]
    assert batch.targets.tolist() == [5, stop, 6, 7, 8, stop]
    assert padded.last.nonzero().tolist() == [[0, 4], [1, 4]]
    short = Batch([[1], [4]], [[stop], [6, stop]]).padded
    assert short.ids.tolist() == [[1, stop, stop], [4, 6, stop]]
    assert short.mask.tolist() == [[True, True, False], [True, True, True]]
    assert short.last.nonzero().tolist() == [[0, 1], [1, 2]]
    assert response_mask([[stop], [6, stop]], CPU).tolist() == [[True, False], [True, True]]


def test_an_empty_response_ends_with_its_prompt() -> None:
    batch = Batch([[1, 2], [3]], [[], [4]])
    assert batch.padded.last.nonzero().tolist() == [[0, 1], [1, 1]]
    assert batch.targets.tolist() == [4]


@pytest.mark.parametrize("last", [False, True])
def test_padding_and_layout_hold_the_same_tokens(last: bool) -> None:
    batch = Batch(PROMPTS, RESPONSES)
    padded, layout = batch.padded, batch.last_layout if last else batch.layout
    real = int(padded.mask.sum())
    ids, positions = padded.ids.flatten()[layout.source[:real]], layout.positions[:real]
    rows = sorted([*p, *r] for p, r in zip(PROMPTS, RESPONSES, strict=True))
    starts = (positions == 0).nonzero().flatten().tolist()
    assert sorted(ids[a:b].tolist() for a, b in zip(starts, [*starts[1:], real], strict=True)) == rows
    assert padded.mask.flatten()[layout.source[:real]].all(), "no padding is computed"
    assert torch.equal(position_ids(padded.mask).flatten()[layout.source[:real]], positions)
    chosen = layout.source[layout.chosen[: layout.count]]
    given = chosen if layout.restore is None else chosen[layout.restore]
    assert torch.equal(given, (padded.last if last else padded.predicts_response).flatten().nonzero().flatten())


def test_a_batch_is_laid_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Policy, reference and value see one batch after another."""
    made = []

    def counted(mask: Tensor, wanted: Tensor) -> Layout:
        made.append(wanted)
        return Layout(mask, wanted)

    monkeypatch.setattr(module, "Layout", counted)
    batch = Batch(PROMPTS, RESPONSES)
    assert batch.layout is batch.layout is not batch.last_layout
    assert batch.padded is batch.padded
    assert isinstance(batch.padded, Padded)
    assert len(made) == 2


def test_micro_batches_hold_every_row_once_and_rows_of_similar_length() -> None:
    cut = list(micro_batches(PROMPTS, RESPONSES, [3, 1, 0, 2], 2))
    assert [rows for rows, _ in cut] == [[3, 0], [2, 1]], "of 5, 5, 6 and 8 tokens"
    for rows, batch in cut:
        assert batch.prompts == [PROMPTS[i] for i in rows]
        assert batch.responses == [RESPONSES[i] for i in rows]
    assert list(micro_batches(PROMPTS, RESPONSES, [], 2)) == []

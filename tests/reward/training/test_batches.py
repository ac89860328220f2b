"""A batch of rankings: every sequence once, what is compared with what, and nothing dropped."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from data.console import UserError
from data.tokenizers import Tokenizer, character_tokenizer
from reward.rankings import Ranking
from reward.training.batches import ZERO, RankingCollator, RankingRow, ranking_dataset
from reward.training.trainer import ranking_losses, segment_attention_bias
from tests.reward.made_up import WORDS, sequence, some_rankings


def test_a_batch_holds_each_prompt_and_each_distinct_response_once() -> None:
    def row(prompt_ids: list[int], completion_ids: list[list[int]], ranking: list[list[int]]) -> dict[str, object]:
        texts = [str(ids) for ids in completion_ids]
        return asdict(
            RankingRow.of(
                Ranking(
                    prompt="p", completions=texts, stopped=[True] * len(texts), ranking=ranking, annotator="",
                    policy="", seed=0, prompt_ids=prompt_ids, completion_ids=completion_ids,
                )
            )
        )  # fmt: skip

    # Best first: [1, 2, 3], then [1, 4] twice, then [1].
    rows = [row([7], [[1, 4], [1, 2, 3], [1], [1, 4]], [[1], [0, 3], [2]]), row([2], [[5], [6]], [[0], [1]])]
    batch = RankingCollator(pad_id=9)(rows)
    # The shorter row first.
    assert batch["input_ids"].tolist() == [[2, 5, 6, 9, 9, 9, 9], [7, 1, 4, 1, 2, 3, 1]]
    assert batch["segments"].tolist() == [[0, 1, 2, -1, -1, -1, -1], [0, 1, 1, 2, 2, 2, 3]]
    assert batch["position_ids"].tolist() == [[0, 1, 1, 0, 0, 0, 0], [0, 1, 2, 1, 2, 3, 1]]
    assert batch["ends"].tolist() == [1, 2, 9, 12, 13]
    assert batch["owners"].tolist() == [[-1, 0, 1, -1, -1, -1, -1], [-1, 2, 2, 3, 3, 3, 4]]
    # What was sampled twice is compared once.
    assert batch["chosen"].tolist() == [0, 3, 3, 2]
    assert batch["rejected"].tolist() == [1, 2, 4, 4]
    assert batch["terms"].tolist() == [0, 1, 2, 3]
    assert batch["weights"].tolist() == [1.0] * 4
    # A term per response that stands above others.
    batch = RankingCollator(pad_id=9, loss="plackett-luce")([row | {"weight": 1.0 + i} for i, row in enumerate(rows)])
    assert batch["terms"].tolist() == [0, 1, 1, 2]
    assert batch["weights"].tolist() == [2.0, 1.0, 1.0]
    allowed = segment_attention_bias(batch["segments"], torch.float32)[1, 0] == 0
    assert allowed[4].tolist() == [True, False, False, True, True, False, False]


def test_calibrated_a_score_of_0_stands_between_the_first_group_and_the_others() -> None:
    ranking = replace(
        some_rankings(character_tokenizer("".join(WORDS) + " ANNE:\n"), 1)[0],
        completion_ids=[[1], [2], [3], [4]],
        ranking=[[1, 2], [0], [3]],
    )
    batch = RankingCollator(pad_id=9, loss="calibrated")([asdict(RankingRow.of(ranking))])
    pairs = set(zip(batch["chosen"].tolist(), batch["rejected"].tolist(), strict=True))
    assert pairs == {(1, 0), (2, 0), (1, 3), (2, 3), (0, 3), (1, ZERO), (2, ZERO), (ZERO, 0), (ZERO, 3)}
    assert batch["terms"].tolist() == [*range(9)]
    # By hand: responses of odds 1/2, 3, 4 and 1/5 against one of odds 1.
    odds = torch.tensor([0.5, 3.0, 4.0, 0.2, 1.0])
    losses = ranking_losses(odds.log()[batch["chosen"]] - odds.log()[batch["rejected"]], batch["terms"], 9)
    expected = [3 / 3.5, 4 / 4.5, 3 / 3.2, 4 / 4.2, 0.5 / 0.7, 3 / 4, 4 / 5, 1 / 1.5, 1 / 1.2]
    assert sorted((-losses).exp().tolist()) == pytest.approx(sorted(expected))


def test_what_a_partial_ranking_does_not_place_is_not_run() -> None:
    ranking = replace(
        some_rankings(character_tokenizer("".join(WORDS) + " ANNE:\n"), 1)[0],
        completions=["a", "b", "c"],
        stopped=[True] * 3,
        completion_ids=[[1], [2], [3]],
        ranking=[[2], [0]],
    )
    row = RankingRow.of(ranking)
    assert (row.completion_ids, row.chosen, row.rejected) == ([[1], [3]], [1], [0])


def test_nothing_is_dropped_in_silence(base: Path) -> None:
    tokenizer = Tokenizer.load(base / "sft")
    rankings = some_rankings(tokenizer, 6)
    longest = max(len(sequence(r, i)) for r in rankings for i in range(4))
    dataset = ranking_dataset(rankings, longest)
    assert sum(len(row["chosen"]) for row in dataset) == sum(len(r.pairs()) for r in rankings)
    with pytest.raises(UserError, match="shorten --prompt-length"):
        ranking_dataset(rankings, longest - 1)

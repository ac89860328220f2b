"""The trainer's losses: against TRL's own trainer on the same pairs, against sequences that run alone, and by hand."""

import itertools
import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer, TrainerCallback
from trl import RewardConfig, RewardTrainer

from data.tokenizers import Tokenizer
from reward.model import RewardModel, new_reward_model
from reward.rankings import Ranking
from reward.training.batches import RankingCollator, RankingRow, ranking_dataset
from reward.training.trainer import RankingTrainer, ranking_losses
from tests.reward.made_up import make_sft, sequence, some_rankings


@pytest.mark.parametrize(("family", "packed"), [("modern", True), ("gpt2", True), ("modern", False)])
def test_loss_and_gradients_are_those_of_the_plain_trainer(
    tmp_path: Path, family: str, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not packed:
        monkeypatch.setattr("reward.training.trainer.has_dropout", lambda model: True)
    folder = make_sft(tmp_path / "run", family)
    tokenizer = Tokenizer.load(folder)
    rankings = some_rankings(tokenizer, 5)
    pairs = [(sequence(r, a), sequence(r, b)) for r in rankings for a, b in r.pairs()]
    assert len(pairs) < 30  # some responses are tied

    def loss_and_gradients(plain: bool) -> tuple[float, dict[str, torch.Tensor]]:
        dataset = (
            Dataset.from_list([{"chosen_ids": a, "rejected_ids": b} for a, b in pairs])
            if plain
            else ranking_dataset(rankings, 64)
        )
        arguments = RewardConfig(output_dir=str(tmp_path / "out"), use_cpu=True, bf16=False, max_length=None)
        model = new_reward_model(folder, seed=1)
        processing = AutoTokenizer.from_pretrained(folder)
        if plain:
            trainer = RewardTrainer(model=model, args=arguments, train_dataset=dataset, processing_class=processing)
        else:
            trainer = RankingTrainer(
                model=model,
                args=arguments,
                train_dataset=dataset,
                processing_class=processing,
                collator=RankingCollator(tokenizer.pad_id),
                rankings_per_forward=2,
            )
        rows: Any = trainer.train_dataset
        assert len(rows) == len(dataset)
        model.train()
        batch = trainer.data_collator(list(rows))
        loss = trainer.compute_loss(model, batch)
        loss.backward()
        return loss.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    plain_loss, plain = loss_and_gradients(plain=True)
    grouped_loss, grouped = loss_and_gradients(plain=False)
    assert grouped_loss == pytest.approx(plain_loss, abs=1e-6)
    assert plain.keys() == grouped.keys()
    assert max(gradient.abs().max() for gradient in plain.values()) > 1e-3
    for name in plain:
        torch.testing.assert_close(grouped[name], plain[name], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("loss", ["pairs", "plackett-luce"])
def test_the_second_loss_takes_the_mean_over_each_responses_own_tokens(base: Path, tmp_path: Path, loss: Any) -> None:
    """Against sequences that run alone; the prompt's tokens belong to no response."""
    folder = base / "sft"
    tokenizer = Tokenizer.load(folder)
    rankings = some_rankings(tokenizer, 3)
    model = new_reward_model(folder, seed=1).eval()
    model.mean_score = new_reward_model(folder, seed=2).score

    def losses(mean_loss_coef: float) -> float:
        trainer = RankingTrainer(
            model=model,
            args=RewardConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, max_length=None),
            train_dataset=ranking_dataset(rankings, 64),
            processing_class=AutoTokenizer.from_pretrained(folder),
            collator=RankingCollator(tokenizer.pad_id, loss=loss),
            rankings_per_forward=2,
            mean_loss_coef=mean_loss_coef,
        )
        model.eval()
        rows: Any = trainer.train_dataset
        return float(trainer.compute_loss(model, trainer.data_collator(list(rows))))

    def mean_score(ids: list[int], prompt: int) -> float:
        hidden = model.base_model(input_ids=torch.tensor([ids])).last_hidden_state[0, prompt:]
        return float(model.mean_score(hidden).mean().detach())

    expected = []
    for ranking in rankings:
        scores = [mean_score(sequence(ranking, index), len(ranking.prompt_ids)) for index in range(4)]
        expected += losses_of(scores, ranking.ranking, loss)
    with torch.no_grad():
        assert losses(0.7) - losses(0.0) == pytest.approx(0.7 * sum(expected) / len(expected), abs=1e-5)


@pytest.mark.parametrize("weight", [1.0, 2.0])
def test_every_beginning_of_a_response_is_judged(base: Path, tmp_path: Path, weight: float) -> None:
    """Against beginnings that run alone, each read at its last token."""
    folder = base / "sft"
    tokenizer = Tokenizer.load(folder)
    rankings = [replace(ranking, weight=weight) for ranking in some_rankings(tokenizer, 3)]
    model = new_reward_model(folder, seed=1).eval()

    def judge(ranking: Ranking, ids: Sequence[int]) -> list[bool]:
        return [sum(ids[: end + 1]) % 3 == 0 for end in range(len(ids))]

    def loss(coefficient: float) -> float:
        trainer = RankingTrainer(
            model=model,
            args=RewardConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, max_length=None),
            train_dataset=ranking_dataset(rankings, 64, judge),
            processing_class=AutoTokenizer.from_pretrained(folder),
            collator=RankingCollator(tokenizer.pad_id, loss="calibrated"),
            rankings_per_forward=2,
            beginnings_coef=coefficient,
        )
        model.eval()
        rows: Any = trainer.train_dataset
        return float(trainer.compute_loss(model, trainer.data_collator(list(rows))))

    expected = terms = 0.0
    for ranking in rankings:
        row = RankingRow.of(ranking)
        terms += weight * (len(row.chosen) + len(row.completion_ids))
        for ids in row.completion_ids:
            beginnings = [(ranking.prompt_ids, ids[: end + 1]) for end in range(len(ids))]
            scores = RewardModel(model).score(beginnings)
            right = torch.tensor(judge(ranking, ids), dtype=torch.float32)
            expected += weight * float(torch.nn.functional.binary_cross_entropy_with_logits(scores, right))
    with torch.no_grad():
        assert loss(0.7) - loss(0.0) == pytest.approx(0.7 * expected / terms, abs=1e-5)


def losses_of(scores: list[float], ranking: list[list[int]], loss: Any) -> list[float]:
    """The terms of one ranking of responses with these scores."""
    count = len(scores)
    of = Ranking(
        prompt="p", completions=[str(i) for i in range(count)], stopped=[True] * count, ranking=ranking, annotator="",
        policy="", seed=0, prompt_ids=[0], completion_ids=[[i + 1] for i in range(count)],
    )  # fmt: skip
    batch = RankingCollator(pad_id=9, loss=loss)([asdict(RankingRow.of(of))])
    placed = sorted(index for group in ranking for index in group)
    given = torch.tensor([scores[index] for index in placed], dtype=torch.float64)
    margins = given[batch["chosen"]] - given[batch["rejected"]]
    return ranking_losses(margins, batch["terms"], len(batch["weights"])).tolist()


def test_losses_by_hand() -> None:
    """Responses of odds 1, 2, 4 and 8."""
    scores = [0.0, math.log(2), math.log(4), math.log(8)]

    def odds(ranking: list[list[int]], loss: str) -> list[float]:
        return sorted(math.exp(-each) for each in losses_of(scores, ranking, loss))

    # 3, 1, 0, 2: the first among all, the second among three, the third among two.
    assert odds([[3], [1], [0], [2]], "plackett-luce") == pytest.approx(sorted([8 / 15, 2 / 7, 1 / 5]))
    pairs = [8 / 10, 8 / 9, 8 / 12, 2 / 3, 2 / 6, 1 / 5]
    assert odds([[3], [1], [0], [2]], "pairs") == pytest.approx(sorted(pairs))
    # Ties above: each of them among itself and what is below, not against the other.
    assert odds([[3, 1], [0]], "plackett-luce") == pytest.approx(sorted([8 / 9, 2 / 3]))
    # Ties below stand together in the term of what is above.
    assert odds([[2], [0, 3]], "plackett-luce") == pytest.approx([4 / 13])
    assert odds([[2], [0, 3]], "pairs") == pytest.approx(sorted([4 / 5, 4 / 12]))
    # What is not placed is in no term.
    assert odds([[1], [3]], "plackett-luce") == odds([[1], [3]], "pairs") == pytest.approx([2 / 10])


def test_plackett_luce_is_the_probability_of_the_order() -> None:
    """The probabilities of all orders of four responses sum to 1."""
    scores = [0.3, -1.2, 2.0, 0.7]
    orders = [losses_of(scores, [[i] for i in order], "plackett-luce") for order in itertools.permutations(range(4))]
    assert sum(math.exp(-sum(terms)) for terms in orders) == pytest.approx(1.0)


def test_losses_and_gradients_stay_finite_where_scores_are_far_apart() -> None:
    margins = torch.tensor([-500.0, 300.0, 0.0, 800.0], requires_grad=True)
    losses = ranking_losses(margins, torch.tensor([0, 0, 1, 2]), 3)
    assert losses.tolist() == pytest.approx([500.0, math.log(2), 0.0])
    losses.sum().backward()
    assert margins.grad is not None
    assert margins.grad.tolist() == pytest.approx([-1.0, 0.0, -0.5, 0.0])


def test_the_weight_of_a_file_multiplies_the_loss_of_its_pairs(base: Path, tmp_path: Path) -> None:
    """A weight of 2 is the ranking twice, however the step is cut into micro-batches."""
    folder = base / "sft"
    tokenizer = Tokenizer.load(folder)
    one, two = some_rankings(tokenizer, 2)

    def gradients(rankings: list[Ranking], micro_batch_size: int) -> dict[str, torch.Tensor]:
        count = len(rankings)
        model = new_reward_model(folder, seed=1)
        trainer = RankingTrainer(
            model=model,
            args=RewardConfig(
                output_dir=str(tmp_path),
                use_cpu=True,
                bf16=False,
                max_length=None,
                per_device_train_batch_size=micro_batch_size,
                gradient_accumulation_steps=count // micro_batch_size,
                num_train_epochs=1,
                report_to="none",
                save_strategy="no",
                disable_tqdm=True,
            ),
            train_dataset=ranking_dataset(rankings, 64),
            processing_class=AutoTokenizer.from_pretrained(folder),
            collator=RankingCollator(tokenizer.pad_id),
            rankings_per_forward=4,
        )
        found: dict[str, torch.Tensor] = {}

        def keep(*_: Any, **__: Any) -> None:
            found.update({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})

        callback = TrainerCallback()
        callback.on_pre_optimizer_step = keep  # type: ignore[method-assign]
        trainer.add_callback(callback)
        trainer.args.max_grad_norm = 0.0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer.train()
        return found

    weighted = [one, replace(two, weight=2.0)]
    whole, cut, doubled = gradients(weighted, 2), gradients(weighted, 1), gradients([one, two, two], 3)
    plain = gradients([one, two], 2)
    assert max((whole[name] - plain[name]).abs().max() for name in plain) > 1e-3
    for name in whole:
        torch.testing.assert_close(whole[name], doubled[name], atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(cut[name], doubled[name], atol=1e-6, rtol=1e-4)

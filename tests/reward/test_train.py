"""The trainer against TRL's own on the same pairs, the reward model's scores, and the whole stage."""

import itertools
import json
import math
import os
import random
import shutil
import subprocess
import sys
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

from data.console import UserError
from data.corpus import load_corpus
from data.dialogue import dialogue_pairs, heldout_pairs
from data.run.folder import open_stage, run_corpus
from data.run.options import StageOptions
from data.run.record import read_metrics, read_stage
from data.tokenizers import Tokenizer, bpe_tokenizer, character_tokenizer
from pretrain.checkpoint import save_model
from pretrain.model import GPT, GPTConfig
from reward.config import PRESETS, RewardModelConfig
from reward.evaluate import evaluate_reward, expected_calibration_error, longer_wins, reliability
from reward.model import RewardModel, new_reward_model
from reward.rankings import Ranking
from reward.train import RewardStage, train_reward
from reward.training.batches import ZERO, RankingCollator, RankingRow, ranking_dataset
from reward.training.trainer import RankingTrainer, ranking_losses, segment_attention_bias

WORDS = [
    *("the", "king", "hath", "sworn", "a", "heavy", "oath", "tonight", "and", "we", "must", "bear", "his"),
    *("bitter", "word", "to", "town", "my", "lord", "what", "news", "is", "come", "from", "yonder", "field"),
    *("where", "brave", "men", "fell", "banners", "burned", "at", "dawn"),
]


def made_up_play(speeches: int = 900) -> str:
    rng = random.Random(0)
    parts = []
    for number in range(speeches):
        lines = [" ".join(rng.choices(WORDS, k=rng.randint(4, 8))).capitalize() for _ in range(rng.randint(1, 3))]
        parts.append(f"{'ABCDEF'[number % 6]}NNE:\n" + ",\n".join(lines) + ".")
    return "\n\n".join(parts) + "\n"


def make_sft(run: Path, family: str = "modern", corpus_path: Path | None = None) -> Path:
    """An untrained model in the place of a finished SFT stage."""
    path = corpus_path or run / "play.txt"
    run.mkdir(parents=True, exist_ok=True)
    if corpus_path is None:
        path.write_text(made_up_play(), "utf-8")
    corpus = load_corpus(str(path))
    tokenizer = bpe_tokenizer(corpus.train, 320)
    torch.manual_seed(0)
    model = GPT(
        GPTConfig(
            family=family,  # type: ignore[arg-type]
            vocab_size=tokenizer.vocab_size,
            context_length=64,
            width=32,
            layers=2,
            heads=2,
            feed_forward=64,
            dropout=0.1 if family == "gpt2" else 0.0,
        )
    )
    with open_stage("sft", StageOptions(run=run, overwrite=True), preset="smoke", corpus=corpus) as folder:
        save_model(model, tokenizer, folder.path)
        tokenizer.save(folder.path, 64)
        folder.config = {"prompt_length": 32, "response_length": 24}
    return run / "sft"


def config(run: Path, **changes: object) -> RewardModelConfig:
    values = dict(
        vars(PRESETS["smoke"][1]), run=run, n_prompts=20, n_heldout=10, batch_size=4, save_every=2, log_every=1
    )
    return RewardModelConfig(**(values | changes))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with an SFT stage; copy it before writing."""
    run = tmp_path_factory.mktemp("base") / "run"
    make_sft(run)
    return run


@pytest.fixture
def run(base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(base, tmp_path / "run"))


@pytest.fixture(scope="module")
def finished(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = Path(shutil.copytree(base, tmp_path_factory.mktemp("finished") / "run"))
    return train_reward(config(run), "smoke")


def sequence(ranking: Ranking, index: int) -> list[int]:
    return ranking.prompt_ids + ranking.completion_ids[index]


def some_rankings(tokenizer: Tokenizer, count: int, seed: int = 0) -> list[Ranking]:
    rng = random.Random(seed)
    rankings = []
    for _ in range(count):
        texts = [" ".join(rng.choices(WORDS, k=rng.randint(1, 6))) for _ in range(4)]
        order = rng.sample(range(4), 4)
        groups = [order[:2], *([index] for index in order[2:])] if rng.random() < 0.3 else [[i] for i in order]
        rankings.append(
            Ranking(
                prompt="ANNE:\n",
                completions=texts,
                stopped=[True] * 4,
                ranking=groups,
                annotator="chance",
                policy="none",
                seed=seed,
                prompt_ids=tokenizer.encode("ANNE:\n"),
                completion_ids=[[*tokenizer.encode(text), tokenizer.eos_id] for text in texts],
            )
        )
    return rankings


@pytest.mark.parametrize("family", ["modern", "gpt2"])
def test_loss_and_gradients_are_those_of_the_plain_trainer(tmp_path: Path, family: str) -> None:
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


def test_nothing_is_dropped_in_silence(base: Path) -> None:
    tokenizer = Tokenizer.load(base / "sft")
    rankings = some_rankings(tokenizer, 6)
    longest = max(len(sequence(r, i)) for r in rankings for i in range(4))
    dataset = ranking_dataset(rankings, longest)
    assert sum(len(row["chosen"]) for row in dataset) == sum(len(r.pairs()) for r in rankings)
    with pytest.raises(UserError, match="shorten --prompt-length"):
        ranking_dataset(rankings, longest - 1)


def test_scores_depend_on_the_sequence_alone(base: Path) -> None:
    """Batch size, order and padding change nothing, and the head reads the last token."""
    tokenizer = Tokenizer.load(base / "sft")
    model = RewardModel(new_reward_model(base / "sft", seed=1))
    sequences = [(r.prompt_ids, ids) for r in some_rankings(tokenizer, 4) for ids in r.completion_ids]
    pad, (prompt, ids) = tokenizer.pad_id, sequences[0]
    sequences += [([pad, *prompt], ids), (prompt, [pad, *ids, pad])]  # no search for PAD finds their ends
    together = model.score(sequences)
    alone = torch.cat([model.score([sequence]) for sequence in sequences])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        bodies = [model.model.base_model(torch.tensor([[*p, *r]])).last_hidden_state for p, r in sequences]
        head: Any = model.model.score
        theirs = [head(states[0, -1]).item() for states in bodies]
    torch.testing.assert_close(together, torch.tensor(theirs), atol=1e-5, rtol=1e-4)
    shorter = model.score([(prompt, ids[:-1]) for prompt, ids in sequences])
    assert (shorter - together).abs().min() > 1e-6


class _Known(RewardModel):
    """Scores each response by the number of its tokens, divided by `scale`."""

    std = 1.0

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def score(self, sequences: Any, batch_size: int = 64, normalise: bool = True) -> torch.Tensor:
        return torch.tensor([len(response) / self.scale for _, response in sequences])


def test_figures_on_hand_made_rankings() -> None:
    def ranking(order: list[int]) -> Ranking:
        return Ranking(
            prompt="p",
            completions=["a", "bb", "cccc"],
            stopped=[True] * 3,
            ranking=[[index] for index in order],
            annotator="",
            policy="",
            seed=0,
            prompt_ids=[0],
            completion_ids=[[1], [1] * 2, [1] * 4],
            scores=[0.0, 2.0, 1.0],
        )

    # Longest first, and once the longest last: 3 + 1 of 6 pairs as the model says.
    rankings = [ranking([2, 1, 0]), ranking([1, 0, 2])]
    assert longer_wins(rankings)
    figures = evaluate_reward(_Known(1.0), rankings, label_temperature=1.0)
    assert figures["heldout_accuracy"] == pytest.approx(4 / 6, abs=1e-5)
    assert figures["length_baseline"] == pytest.approx(4 / 6, abs=1e-5)
    assert evaluate_reward(_Known(1.0), rankings, longer_wins=False)["length_baseline"] == pytest.approx(
        2 / 6, abs=1e-5
    )
    assert figures["accuracy_vs_gold"] == pytest.approx(2 / 3, abs=1e-5)
    assert figures["spearman"] == pytest.approx(0.5, abs=1e-5)
    sigmoid = [1 / (1 + math.exp(-margin)) for margin in (1.0, 1.0, 2.0)]
    assert figures["accuracy_ceiling"] == pytest.approx(sum(sigmoid) / 3, abs=1e-5)


def test_calibration_is_perfect_for_the_labels_own_probabilities_and_bad_for_boasting() -> None:
    rng = random.Random(0)
    rankings = []
    for _ in range(4000):
        lengths = [rng.randint(1, 12), rng.randint(1, 12)]
        first = rng.random() < 1 / (1 + math.exp((lengths[1] - lengths[0]) / 4))
        rankings.append(
            Ranking(
                prompt="p",
                completions=["a", "b"],
                stopped=[True, True],
                ranking=[[0], [1]] if first else [[1], [0]],
                annotator="",
                policy="",
                seed=0,
                prompt_ids=[0],
                completion_ids=[[1] * length for length in lengths],
            )
        )

    def error(scale: float) -> float:
        model = _Known(scale)
        scores = [model.score([([0], ids) for ids in r.completion_ids]) for r in rankings]
        bins = reliability(model, rankings, scores)
        assert sum(entry.pairs for entry in bins) == len(rankings)
        found = expected_calibration_error(bins)
        assert found is not None
        return found

    assert error(4.0) < 0.03
    assert error(1.0) > 0.1


def test_the_stage_leaves_what_it_promises(finished: Path) -> None:
    record = read_stage(finished, "reward")
    for name in (
        "heldout_accuracy",
        "accuracy_ceiling",
        "accuracy_vs_gold",
        "length_baseline",
        "ece",
        "spearman",
        "reward_std",
        "play_score",
    ):
        assert math.isfinite(record.results[name]), name
    assert record.results["prompts"] == 20
    assert record.results["completions"] == 80
    assert record.config["prompt_length"] == 32  # inherited from sft
    for name in ("loss.png", "report.html", "samples.md", "rankings.jsonl", "pairs.jsonl", "heldout.jsonl"):
        assert (finished / name).stat().st_size > 0, name
    metrics = [json.loads(line) for line in (finished / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert [line["step"] for line in metrics] == [1, 2, 3, 4, 5]
    assert not (finished / "resume").exists()
    corpus = run_corpus(finished.parent, record)
    training = {json.loads(line)["prompt"] for line in (finished / "rankings.jsonl").read_text("utf-8").splitlines()}
    judged = {json.loads(line)["prompt"] for line in (finished / "heldout.jsonl").read_text("utf-8").splitlines()}
    heldout = heldout_pairs(corpus.validation)
    assert not training & {pair.prompt for pair in (*heldout.dev, *heldout.test)}
    assert judged <= {pair.prompt for pair in heldout.dev}


def test_sft_samples_have_mean_0_and_std_1(finished: Path) -> None:
    """The same seed samples the same responses again; the saved scale is theirs."""
    stage = RewardStage(config(finished.parent))
    samples = stage.sample(stage.heldout.dev[:10], seed=stage.config.seed + 1)
    scores = RewardModel.load(finished).score([(r.prompt_ids, ids) for r in samples for ids in r.completion_ids])
    assert len(scores) == 40
    assert scores.mean().item() == pytest.approx(0.0, abs=1e-4)
    assert scores.std().item() == pytest.approx(1.0, abs=1e-4)


def test_plain_transformers_load_the_folder(finished: Path) -> None:
    """In a process that cannot see this project."""
    program = """
import sys, torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
folder = sys.argv[1]
config = AutoConfig.from_pretrained(folder)
assert isinstance(config.reward_mean, float) and config.reward_std > 0
model, loading = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
assert not any(loading[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys")), loading
assert model.config.num_labels == 1 and model.config.reward_std == config.reward_std
ids = AutoTokenizer.from_pretrained(folder)("ANNE:\\nThe king hath sworn", return_tensors="pt").input_ids
print(torch.flatten(model(ids).logits).item())
"""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(finished)],
        cwd=finished,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ours, tokenizer = RewardModel.load(finished), Tokenizer.load(finished)
    score = ours.score([(tokenizer.encode("ANNE:\n"), tokenizer.encode("The king hath sworn"))], normalise=False)
    whole = ours.score([(tokenizer.encode("ANNE:\nThe king hath sworn"), [])], normalise=False)
    assert float(done.stdout) == pytest.approx(whole.item(), abs=1e-4)
    assert score.isfinite().all()


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    """What was logged, but for how long it took."""
    return [{name: value for name, value in line.items() if name != "seconds"} for line in read_metrics(folder)]


def weights_of(folder: Path) -> str:
    return read_stage(folder, "reward").weights_sha256


def test_equal_seeds_give_equal_weights(run: Path, finished: Path) -> None:
    assert weights_of(train_reward(config(run), "smoke")) == weights_of(finished)
    other = train_reward(config(run, overwrite=True, seed=2), "smoke")
    assert weights_of(other) != weights_of(finished)


def test_a_killed_stage_continues_to_the_same_weights(
    run: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute_loss = RankingTrainer.compute_loss
    calls: list[int] = []

    def killed(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return compute_loss(self, *args, **kwargs)

    monkeypatch.setattr(RankingTrainer, "compute_loss", killed)
    with pytest.raises(KeyboardInterrupt):
        train_reward(config(run), "smoke")
    monkeypatch.undo()
    assert not (run / "reward").exists()
    partial = run / ".reward.partial"
    assert [path.name for path in (partial / "resume").glob("checkpoint-*")] == ["checkpoint-2"]
    # A kill may leave a state half-written: it is passed over.
    shutil.copytree(partial / "resume" / "checkpoint-2", partial / "resume" / "checkpoint-4")
    (partial / "resume" / "checkpoint-4" / "trainer_state.json").write_text('{"epo', "utf-8")
    (partial / "seconds").write_text("1000", "utf-8")
    monkeypatch.setattr("reward.train.collect_rankings", None)  # what was collected is not collected again
    folder = train_reward(config(run, resume=True), "smoke")
    assert weights_of(folder) == weights_of(finished)
    assert 1000 < read_stage(folder).wall_seconds < 2000  # the time of both processes
    assert metrics_of(folder) == metrics_of(finished)
    assert (folder / "rankings.jsonl").read_text() == (finished / "rankings.jsonl").read_text()


def test_a_loss_that_explodes_stops_with_one_line(run: Path) -> None:
    with pytest.raises(UserError, match="the loss is no longer a number at step"):
        train_reward(config(run, learning_rate=1e30), "smoke")


def test_accumulated_batches_and_epochs(run: Path) -> None:
    folder = train_reward(config(run, batch_size=4, micro_batch_size=2, epochs=2, include_play=True), "smoke")
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert metrics[-1]["step"] == 10
    assert read_stage(folder).results["completions"] > 80  # the play's replies among them
    rows = [json.loads(line) for line in (folder / "rankings.jsonl").read_text("utf-8").splitlines()]
    replies = [row["scores"][4] for row in rows if len(row["scores"]) == 5]
    # Copies of the training text all of them, and not condemned for it.
    assert min(replies) > 0
    assert sum(replies) / len(replies) > max(score for row in rows for score in row["scores"][:4])


@pytest.mark.parametrize(
    ("rankings", "batch_size", "epochs"),
    # 24 steps: 2 per epoch and 12 epochs, 5 and 5; then 4 epochs, and from 4,200 on fewer.
    [
        (1, 4, 24),
        (5, 4, 12),
        (20, 4, 5),
        (100, 4, 4),
        (399, 4, 4),
        (400, 8, 4),
        (1000, 16, 4),
        (2500, 16, 2),
        (4200, 16, 1),
        (9000, 16, 1),
    ],
)
def test_the_number_of_rankings_decides_on_epochs_and_batch(rankings: int, batch_size: int, epochs: int) -> None:
    found = replace(PRESETS["laptop"][1]).scheduled(rankings, processes=1)
    assert (found.batch_size, found.epochs) == (batch_size, epochs)
    assert replace(found, batch_size=16, epochs=3).scheduled(rankings, 1).batch_size == 16  # what is given stays


def test_a_batch_is_halved_as_far_as_processes_and_micro_batches_share_it() -> None:
    settings = RewardModelConfig(batch_size=24)
    assert settings.scheduled(20, processes=1).batch_size == 6
    assert settings.scheduled(20, processes=4).batch_size == 12
    assert replace(settings, micro_batch_size=8).scheduled(20, processes=1).batch_size == 24
    assert replace(settings, micro_batch_size=12).scheduled(20, processes=1).batch_size == 6


def test_twenty_rankings_are_learned_from_and_watched(run: Path) -> None:
    files = peoples_file(run, [[[1], [0]]] * 20)
    folder = train_reward(config(run, rankings=files, epochs=None, batch_size=16, log_every=10), "smoke")
    record, metrics = read_stage(folder), read_metrics(folder)
    assert (record.config["epochs"], record.config["batch_size"]) == (5, 4)
    assert [line["step"] for line in metrics] == list(range(2, 26, 2))
    # 18 are trained on, a pair each, in 5 steps per epoch; 2 are held out.
    assert [line["comparisons"] for line in metrics][-2:] == [79, 86]
    measured = [line["comparisons"] for line in metrics if "heldout_accuracy" in line]
    assert measured == [7, 14, 22, 36, 65]
    assert {line["heldout_pairs"] for line in metrics if "heldout_accuracy" in line} == {2}


def test_the_users_own_score_ranks(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run / "own_ranking.py").write_text(
        "def short_wins(prompt, response):\n    return -float(len(response))\n", "utf-8"
    )
    monkeypatch.syspath_prepend(str(run))
    folder = train_reward(config(run, score="own_ranking:short_wins", label_temperature=0.0), "smoke")
    results = read_stage(folder).results
    assert results["accuracy_ceiling"] == 1.0
    assert results["gold"]["score"] >= 0
    for row in map(json.loads, (folder / "rankings.jsonl").read_text("utf-8").splitlines()):
        assert row["annotator"] == "own_ranking:short_wins"
        lengths = [len(row["completions"][group[0]]) for group in row["ranking"]]
        assert lengths == sorted(lengths)


def test_what_the_rankings_say_is_learned(run: Path) -> None:
    """Many words beat few: on rankings that it has not seen, the model says so too."""
    stage = RewardStage(config(run, learning_rate=3e-3))

    def longest_first(seed: int, count: int) -> list[Ranking]:
        return [
            replace(r, ranking=[[i] for i in sorted(range(4), key=lambda i: -len(r.completion_ids[i]))])
            for r in some_rankings(stage.tokenizer, count, seed)
        ]

    with open_stage("reward", stage.config, preset="smoke", parent=stage.parent) as folder:
        model = stage.train(folder, longest_first(0, 160))
    figures = evaluate_reward(model, longest_first(1, 40))
    assert figures["heldout_accuracy"] > 0.85
    metrics = read_metrics(folder.final)
    assert metrics[-1]["loss"] < 0.5 < metrics[0]["loss"]


@pytest.mark.parametrize("use", ["replace", "mix"])
def test_peoples_rankings(run: Path, use: str) -> None:
    corpus = run_corpus(run, read_stage(run / "sft"))
    pairs = dialogue_pairs(corpus.train)[:40]
    path = run / "people.jsonl"
    rows = [
        {"prompt": p.prompt, "completions": ["Well.", "What?", "Nay."], "ranking": [[1], [0, 2]], "annotator": "me"}
        for p in pairs
    ]
    rows[0]["completions"] = ["Well.", "What? " * 40, "king " * 60]  # too long: cut, and left out
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    folder = train_reward(config(run, rankings=(str(path),), rankings_use=use), "smoke")
    results = read_stage(folder).results
    prompts = len({pair.prompt for pair in pairs})
    held = prompts // 10
    annotators = [json.loads(line)["annotator"] for line in (folder / "rankings.jsonl").read_text().splitlines()]
    assert annotators.count("me") == len(pairs) - sum(
        json.loads(line)["annotator"] == "me" for line in (folder / "heldout.jsonl").read_text().splitlines()
    )
    assert (results["replies_cut"], results["replies_dropped"]) == (1, 1)
    if use == "replace":
        assert set(annotators) == {"me"}
        assert results["prompts"] == prompts - held
        assert results["accuracy_ceiling"] is None  # nobody knows the noise of people
    else:
        assert annotators.count("gold") == 20
        assert results["accuracy_ceiling"] is not None


def test_prompts_of_ones_own_are_ranked(run: Path) -> None:
    corpus = run_corpus(run, read_stage(run / "sft"))
    test_prompt = heldout_pairs(corpus.validation).test[0].prompt
    mine = [f"GUEST {number}:\nWhat news?\n\nHOST:\n" for number in range(30)]
    path = run / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in [*mine, test_prompt]), "utf-8")
    folder = train_reward(config(run, prompts=path, n_prompts=100, include_play=True), "smoke")

    def lines(name: str) -> list[dict]:
        return [json.loads(line) for line in (folder / name).read_text("utf-8").splitlines()]

    training, judged = ([row["prompt"] for row in lines(name)] for name in ("rankings.jsonl", "heldout.jsonl"))
    assert len(judged) == 3
    assert sorted([*training, *judged]) == sorted(mine)  # the test split's own is not learned from
    assert all(len(row["completions"]) == 4 for row in lines("rankings.jsonl"))  # no reply of the play's
    record = read_stage(folder)
    assert record.results["play_score"] is None
    assert record.config["prompts"] == str(path)
    with pytest.raises(UserError, match=r"prompts\.jsonl"):
        train_reward(config(run, prompts=run / "none" / "prompts.jsonl", overwrite=True), "smoke")
    assert read_stage(folder).weights_sha256 == record.weights_sha256


def test_bad_configurations_are_one_line_and_leave_nothing(run: Path) -> None:
    for changes, message in (
        ({"batch_size": 4, "micro_batch_size": 3}, "not divisible by micro_batch_size 3"),
        ({"prompt_length": 50, "response_length": 15}, "exceed the model's context of 64"),
        ({"responses": 1}, "responses must be at least 2"),
        ({"label_temperature": -1.0}, "label_temperature must not be negative"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"warmup_fraction": 2.0}, "warmup_fraction must be between"),
        ({"rankings_use": "mix"}, "give --rankings"),
        ({"weights": (1.0,)}, "1 weights for 0 files of rankings: give one per file"),
        ({"rankings": ("a", "b"), "weights": (1.0, 0.0)}, "weights must be positive and finite, but are 1.0 0.0"),
        ({"rankings": ("a",), "weights": (math.inf,)}, "weights must be positive and finite"),
        ({"score": "golden"}, "module:callable"),
        ({"rankings": ("absent.jsonl",)}, "absent.jsonl"),
    ):
        with pytest.raises(UserError, match=message):
            train_reward(config(run, **changes), "smoke")
        assert [path.name for path in run.iterdir() if "reward" in path.name] == []


def test_a_broken_line_of_rankings_is_named(run: Path) -> None:
    (run / "people.jsonl").write_text('{"prompt": "x", "completions": ["a", "b"], "ranking": [[2]]}\n', "utf-8")
    with pytest.raises(UserError, match=r"people\.jsonl, line 1: ranking"):
        train_reward(config(run, rankings=(str(run / "people.jsonl"),)), "smoke")
    assert not (run / ".reward.partial").exists()


def peoples_file(run: Path, rankings: list[list[list[int]]], prompt: str = "GUEST {}:\n") -> tuple[str]:
    rows = [
        {"prompt": prompt.format(number), "completions": ["Well.", "What?"], "ranking": ranking}
        for number, ranking in enumerate(rankings)
    ]
    (run / "people.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return (str(run / "people.jsonl"),)


def test_rankings_that_say_nothing_are_refused(run: Path) -> None:
    files = peoples_file(run, [[[0, 1]]] * 12)
    with pytest.raises(UserError, match=r"people\.jsonl: none of 12 rankings says anything"):
        train_reward(config(run, rankings=files), "smoke")
    test_prompt = RewardStage(config(run)).heldout.test[0].prompt
    files = peoples_file(run, [[[0], [1]]], test_prompt)
    with pytest.raises(UserError, match=r"people\.jsonl: all rankings that say something are of prompts that the run"):
        train_reward(config(run, rankings=files), "smoke")
    assert not (run / ".reward.partial").exists()


@pytest.mark.parametrize(("count", "held_out"), [(1, 0), (5, 1), (20, 2)])
def test_few_rankings_are_enough(run: Path, count: int, held_out: int) -> None:
    folder = train_reward(config(run, rankings=peoples_file(run, [[[1], [0]]] * count)), "smoke")
    results = read_stage(folder).results
    assert (results["pairs"], results["heldout_pairs"]) == (count - held_out, held_out)
    if held_out:
        assert results["heldout_accuracy"] == 1.0
    else:
        assert results["heldout_accuracy"] is results["length_baseline"] is results["ece"] is None
    rows = (folder / "rankings.jsonl").read_text("utf-8").splitlines()
    assert len(rows) == count - held_out


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


def test_without_its_parent_or_with_a_changed_one(run: Path) -> None:
    with pytest.raises(UserError, match=r"sft does not exist: run `python -m sft"):
        train_reward(config(run / "elsewhere"), "smoke")
    tokenizer = run / "sft" / "tokenizer.json"
    intact = tokenizer.read_bytes()
    tokenizer.write_bytes(intact.replace(b'"id": ', b'"id":  ', 1))
    with pytest.raises(UserError, match=r"tokenizer\.json was changed"):
        train_reward(config(run), "smoke")
    tokenizer.write_bytes(intact)
    weights = run / "sft" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(UserError, match="changed or truncated"):
        train_reward(config(run), "smoke")
    record = run / "sft" / "stage.json"
    record.write_text(record.read_text().replace('"stage": "sft"', '"stage": "rlhf"', 1))
    with pytest.raises(UserError, match="holds the stage 'rlhf', not 'sft'"):
        train_reward(config(run), "smoke")


def test_the_command_line_ends_with_one_line_and_code_2(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "reward", "smoke", "--run", str(tmp_path / "none")],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []

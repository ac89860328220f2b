"""What tests of the reward stage share: a play, an untrained SFT stage, settings, rankings."""

import json
import random
from pathlib import Path

import torch

from data.corpus import load_corpus
from data.run.folder import open_stage
from data.run.options import StageOptions
from data.tokenizers import Tokenizer, bpe_tokenizer
from pretrain.checkpoint import save_model
from pretrain.model import GPT, GPTConfig
from reward.config import PRESETS, RewardModelConfig
from reward.rankings import Ranking

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


def peoples_file(run: Path, rankings: list[list[list[int]]], prompt: str = "GUEST {}:\n") -> tuple[str]:
    rows = [
        {"prompt": prompt.format(number), "completions": ["Well.", "What?"], "ranking": ranking}
        for number, ranking in enumerate(rankings)
    ]
    (run / "people.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return (str(run / "people.jsonl"),)

"""Supervised fine-tuning: the base learns to give one reply, as its prompt asks, and to end it.

The first step of InstructGPT (Ouyang et al., arXiv 2203.02155): the loss is on the completions alone.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate.utils import set_seed
from trl import SFTConfig

from data.console import UserError
from data.dialogue import encode_prompt
from data.directions.specs import NONE, load_specs
from data.run.card import Card
from data.run.folder import StageFolder, open_stage, run_corpus
from data.run.plots import curve, plot_curves
from data.run.progress import Bar, progress_bar
from data.run.record import read_parent
from data.run.writing import write_samples
from data.tokenizers import Tokenizer
from pretrain.checkpoint import read_gpt_config
from pretrain.machine import choose_device, compute_dtype, process_state, short_seed
from sft.config import FineTuneConfig
from sft.directions import Request, draw_requests, hindsight_epochs, share_followed, usable_directions
from sft.end_token import fit_end_row, start_end_row
from sft.evaluate import SampledReplies, completion_nats, sample_replies
from sft.models.forward import LogProbs
from sft.models.loading import load_causal_lm, quiet
from sft.models.sampling import sampler
from sft.pairs import encode_pairs, load_pairs, order_of_epochs
from sft.trainer import CompletionTrainer, exact_trainer, plain_again
from sft.trl import StageCallback, last_checkpoint, ordered_arguments, run_trainer, trainer_arguments

CARD = Card(
    what="A small language model, fine-tuned to answer a speech with one reply and to stop. A prompt ends with the "
    "heading of whoever answers, `NAME:` and a line break.",
    metrics={
        "perplexity_before": "perplexity of held-out replies, before fine-tuning",
        "perplexity_after": "perplexity of held-out replies",
        "stop_share": "share of sampled replies that stop by themselves",
        "mean_response_tokens": "mean length of a sampled reply, tokens",
        "followed": "share of directed prompts whose reply does as asked",
        "followed_other": "chance of that: the same replies checked against another request",
    },
    limits="It learned the form of a reply. What it says seldom answers the prompt. It is for study.",
)
SHOWN = 6
"""Replies in samples.md."""


class Before(NamedTuple):
    """What the base replies."""

    replies: SampledReplies
    directed: list[str]


class FineTuning:
    """One run: the base, the pairs, and trl's trainer on both."""

    def __init__(self, config: FineTuneConfig) -> None:
        self.config, self.base = config, config.run / "pretrain"
        self.state = process_state(choose_device(config.device))
        self.parent = read_parent(config.run, "pretrain")
        config.validate(read_gpt_config(self.base).context_length)
        self.batches = config.micro_batches(self.state.num_processes)
        self.corpus = run_corpus(config.run, self.parent)
        self.tokenizer = Tokenizer.load(self.base)
        specs = load_specs(config.directions)
        sources = load_pairs(config, self.corpus, self.tokenizer)
        self.train = encode_pairs(sources.train, self.tokenizer, config, config.max_pairs)
        self.dev = encode_pairs(sources.dev, self.tokenizer, config)
        self.asked = list({pair.prompt: pair for pair in sources.dev}.values())[: config.samples]
        if not self.train.examples or not self.dev.examples:
            raise UserError(
                f"no pair is left to {'train on' if self.dev.examples else 'evaluate on'} with min_words "
                f"{config.fewest_words} and response_length {config.response_length}: lower the one or raise the other"
            )
        self.directions = usable_directions(specs, sources.train)
        self.epochs = hindsight_epochs(self.train, self.directions, self.tokenizer, config)
        """The examples of every epoch."""
        self.requests = draw_requests(self.asked, self.directions, config.seed)
        self.steps = math.ceil(len(self.train.examples) * config.epochs / config.batch_size)
        set_seed(short_seed(config.seed))
        self.model = load_causal_lm(self.base, self.state.device, config.dropout, role="base")
        # Made before anything wraps the model: what is measured is float32.
        self.logprobs = LogProbs(self.model)

    def describe(self) -> str:
        config, parameters = self.config, sum(parameter.numel() for parameter in self.model.parameters())
        learned = (
            f"directions: {config.directions}"
            if self.directions
            else f"no directions{'' if config.directions == NONE else ' (no prompt ends with a heading)'}"
        )
        short, long = self.train.short, self.train.dropped - self.train.short
        reasons = [f"{short} of fewer than {config.fewest_words} words, see min_words"] * (short > 0)
        reasons += [f"{long} whose first sentence exceeds response_length"] * (long > 0)
        left_out = ": ".join([f"{self.train.dropped} pairs left out", *[", ".join(reasons)] * bool(reasons)])
        return (
            f"{parameters / 1e6:.2f} M parameters from {self.base} · {len(self.train.examples)} pairs "
            f"({self.train.cut} completions cut at a sentence, {left_out}) · {learned} · "
            f"prompt {config.prompt_length} + response {config.response_length} tokens · {self.steps} steps of "
            f"{config.batch_size}"
        )

    def nats(self) -> float:
        """Held-out nats per completion token of the model as it is now."""
        return completion_nats(self.logprobs, self.dev.examples)

    def replies(self) -> SampledReplies:
        """Replies of the model as it is now to the held-out prompts that are asked."""
        return self._replies_to([pair.prompt for pair in self.asked])

    def directed_replies(self, ends_at_blank_line: bool = False) -> list[str]:
        """Its replies to the held-out prompts with a direction."""
        replies = self._replies_to([request.pair.prompt for request in self.requests]).texts if self.requests else []
        return [reply.partition("\n\n")[0] if ends_at_blank_line else reply for reply in replies]

    def _replies_to(self, texts: Sequence[str]) -> SampledReplies:
        config = self.config
        prompts = [encode_prompt(self.tokenizer, text, config.prompt_length) for text in texts]
        return sample_replies(sampler(self.model), self.tokenizer, prompts, config.response_length, config.seed)

    def trainer(self, folder: StageFolder) -> CompletionTrainer:
        """trl's trainer on the examples in the order of training."""
        order = order_of_epochs([[len(each.ids) for each in epoch] for epoch in self.epochs], self.config)
        examples = [self.epochs[epoch][index] for epoch, index in order]
        return exact_trainer(self.model, self._arguments(folder), examples, self.base, self.following_coef)

    @property
    def following_coef(self) -> float:
        """0 where no prompt asks for anything."""
        return self.config.following_coef if self.directions else 0.0

    def _arguments(self, folder: StageFolder) -> SFTConfig:
        config, device = self.config, self.state.device
        bf16 = compute_dtype(config.precision, device) == torch.bfloat16
        return SFTConfig(
            **trainer_arguments(config, folder.resume_path, self.batches, device, bf16),
            **ordered_arguments(config, self.steps),
        )


class Watch(StageCallback):
    """Measures the held-out loss too."""

    def __init__(self, run: FineTuning, stage: StageFolder, bar: Bar) -> None:
        super().__init__(stage, bar)
        self.run = run

    def metrics(self, logs: dict[str, float]) -> dict[str, float]:
        coef, following = self.run.following_coef, logs["following_loss"]
        metrics = {"train_nats": logs["loss"] - coef * following, "train_accuracy": logs["mean_token_accuracy"]}
        return metrics | ({"following_loss": following} if coef else {})

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        super().on_step_end(args, state, control, **kwargs)
        every, ended = self.run.config.eval_every, state.global_step == self.run.steps
        if self.run.state.is_main_process and (ended or state.global_step % every == 0):
            nats = self.run.nats()
            self.stage.log(step=state.global_step, dev_nats=round(nats, 5))
            self.bar.advance(0, f"held-out perplexity {math.exp(nats):.2f}")


def fine_tune(config: FineTuneConfig, preset: str) -> Path:
    """Fine-tune RUN/pretrain on prompt–completion pairs and leave the model in RUN/sft; returns that folder."""
    run = FineTuning(config)
    main = run.state.is_main_process
    with quiet(), open_stage("sft", config, preset=preset, parent=run.parent) as stage:
        stage.announce(run.describe())
        stage.config["directions"] = config.directions if run.directions else NONE
        if main:
            before = Before(run.replies(), run.directed_replies(ends_at_blank_line=True))
        start_end_row(run.model, run.tokenizer.encode("\n")[0], run.tokenizer.eos_id)
        if main:
            nats_before = run.nats()
        fit_end_row(run.model, run.epochs[0], run.tokenizer.eos_id)
        checkpoint, done = last_checkpoint(stage)
        stage.truncate_metrics(after=done)
        with progress_bar("sft", run.steps, done) as bar:
            trainer = run.trainer(stage)
            run_trainer(trainer, Watch(run, stage, bar), checkpoint, run.state.device)
        plain_again(run.model, trainer)
        if main:
            conclude(run, stage, nats_before, before)
    return stage.final


def conclude(run: FineTuning, stage: StageFolder, nats_before: float, before: Before) -> None:
    """Save the model; its results, plot and samples, next to those of the base."""
    run.model.config.use_cache = True  # trl turns it off for training
    run.model.save_pretrained(stage.path)
    run.tokenizer.save(stage.path, run.parent.config["context_length"])
    nats_after, after, directed_after = run.nats(), run.replies(), run.directed_replies()
    stage.results = {
        "perplexity_before": round(math.exp(nats_before), 4),
        "perplexity_after": round(math.exp(nats_after), 4),
        "nats_before": round(nats_before, 5),
        "nats_after": round(nats_after, 5),
        "stop_share_before": round(before.replies.stop_share, 4),
        "stop_share": round(after.stop_share, 4),
        "mean_response_tokens": round(after.mean_tokens, 2),
        "pairs_train": len(run.train.examples),
        "pairs_cut": run.train.cut,
        "pairs_dropped": run.train.dropped,
        "pairs_dev": len(run.dev.examples),
    }
    followed = {
        "followed_before": share_followed(run.requests, before.directed),
        "followed_other_before": share_followed(run.requests, before.directed, other=True),
        "followed": share_followed(run.requests, directed_after),
        "followed_other": share_followed(run.requests, directed_after, other=True),
    }
    stage.results |= {name: round(share, 4) for name, share in followed.items() if share is not None}
    told = ""
    if (share := followed["followed"]) is not None:
        stage.results["requests"] = len(run.requests)
        told = f" · {share:.0%} of directions are followed (before: {followed['followed_before']:.0%})"
    stage.summary = (
        f"perplexity of held-out completions {math.exp(nats_before):.2f} → {math.exp(nats_after):.2f} · "
        f"{after.stop_share:.0%} of replies stop by themselves, after {after.mean_tokens:.0f} tokens{told}"
    )
    stage.card = CARD
    write_plot(stage.path / "loss.png", stage.read_metrics(), nats_before)
    undirected = [
        (
            f"{number + 1}",
            [
                ("Prompt:", pair.prompt),
                ("Own reply:", pair.completion),
                ("Pretrained:", before.replies.texts[number].partition("\n\n")[0]),
                ("SFT:", after.texts[number]),
            ],
        )
        for number, pair in enumerate(run.asked[:SHOWN])
    ]
    directed = [
        (
            f"{number + 1 + len(undirected)}, directed: {request.direction}",
            [
                ("Prompt:", request.pair.prompt),
                caption("Pretrained", request, before.directed[number]),
                caption("SFT", request, directed_after[number]),
            ],
        )
        for number, request in enumerate(run.requests[:SHOWN])
    ]
    write_samples(
        stage.path / "samples.md",
        "Replies to held-out prompts",
        undirected + directed,
        note="The base's reply ends at its first blank line.",
    )


def caption(model: str, request: Request, reply: str) -> tuple[str, str]:
    """A reply under the name of its model and whether it does as it is told."""
    return f"{model} ({'as' if request.direction.followed(reply) else 'not as'} directed):", reply


def write_plot(path: Path, metrics: list[dict[str, Any]], nats_before: float) -> None:
    """Loss of training and of the held-out completions over the steps."""
    plot_curves(
        path,
        {
            "training": curve(metrics, "step", "train_nats"),
            "held out": curve([{"step": 0, "dev_nats": nats_before}, *metrics], "step", "dev_nats"),
        },
        xlabel="optimizer step",
        ylabel="nats per completion token",
        title="Supervised fine-tuning",
    )

"""What a fine-tuning run is made of, and the presets."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data.console import UserError
from data.run.options import BatchOptions, StageOptions, check_ranges


@dataclass(kw_only=True)
class TrainerOptions(BatchOptions, StageOptions):
    """What a stage takes that learns with one of trl's trainers."""

    learning_rate: float = 1e-3
    """Peak of AdamW's learning rate."""
    warmup_fraction: float = 0.05
    """Share of the steps in which the learning rate rises linearly from 0; after them it falls linearly to 0."""
    max_grad_norm: float = 1.0
    """Clip the gradient's norm."""
    log_every: int = 10
    """Optimizer steps between two lines of metrics.jsonl."""
    save_every: int = 100
    """Optimizer steps between the states that --resume continues from."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Type of the activations; auto takes bf16 where the processor has instructions for it."""

    def check(self) -> None:
        """Raise UserError for settings that no trainer can learn with."""
        check_ranges(
            self,
            counts="batch_size micro_batch_size log_every save_every",
            positive="learning_rate max_grad_norm",
            shares="warmup_fraction",
        )


def check_lengths(prompt: int, response: int, context: int) -> None:
    """Raise UserError unless a prompt and a response of these many tokens are something, and fit the context."""
    if prompt < 1 or response < 2:
        raise UserError(
            "prompt_length must be at least 1 and response_length must be at least 2 (a token and the end), "
            f"not {prompt} and {response}"
        )
    if prompt + response > context:
        raise UserError(
            f"prompt_length {prompt} + response_length {response} exceed the model's context of {context} tokens: "
            "shorten one of them"
        )


@dataclass(kw_only=True)
class FineTuneConfig(TrainerOptions):
    """Fine-tune the pretrained model to answer a prompt with one reply and to stop."""

    data: Path | None = None
    """Your own pairs, JSONL of {"prompt", "completion"}; default: the dialogue of the base's corpus."""
    prompt_length: int = 64
    """Longest prompt in tokens; a longer one loses its beginning. Later stages inherit it."""
    response_length: int = 64
    """Longest response in tokens, its end token included. Later stages inherit it."""
    min_words: int | None = None
    """Learn only from completions of at least so many words. None: 8, since in a play many replies are a mere "Ay, my
    lord."; 0 for --data, of which all is learned that fits."""
    max_pairs: int | None = None
    """Learn from at most so many pairs, drawn at random; default all."""
    directions: str = "built-in"
    """What prompts may ask for: built-in, none, or module:SPECS, a table of your own. Later stages inherit it."""
    following_coef: float = 1.0
    """Weight of a second loss, by which every token of a reply says whether it will do as its prompt asks; each is read
    under what it does and under something else. 0 leaves it out."""

    epochs: int = 1
    """Passes over the pairs."""
    batch_size: int = 32
    """Pairs per optimizer step, over all processes."""
    micro_batch_size: int | None = 16
    """Pairs per forward pass of one process; a step's pairs are sorted by length, so smaller means less padding."""
    learning_rate: float = 3e-4
    adam_beta2: float = 0.95
    """Decay of AdamW's second moment; that of the first is 0.9."""
    dropout: float = 0.0
    """Dropout rate while fine-tuning; gpt2 has it everywhere, modern (saved as Qwen3) in the attention only."""

    eval_every: int = 50
    """Optimizer steps between two measurements of the held-out loss."""
    save_every: int = 50
    samples: int = 256
    """Held-out prompts that are answered, before and after, to see whether the model stops by itself."""

    @property
    def fewest_words(self) -> int:
        """Words of the shortest completion that is learned from."""
        return self.min_words if self.min_words is not None else 8 if self.data is None else 0

    def validate(self, context_length: int) -> None:
        """Raise UserError for what cannot be trained on a base with this context."""
        self.check()
        check_ranges(
            self,
            counts="epochs eval_every samples max_pairs",
            not_negative="min_words following_coef",
            rates="adam_beta2 dropout",
        )
        check_lengths(self.prompt_length, self.response_length, context_length)


PRESETS: dict[str, tuple[str, FineTuneConfig]] = {
    "smoke": (
        "seconds: what the tests drive",
        FineTuneConfig(
            prompt_length=40,
            response_length=48,
            min_words=0,
            max_pairs=320,
            batch_size=16,
            learning_rate=1e-3,
            eval_every=10,
            save_every=10,
            log_every=5,
            samples=32,
        ),
    ),
    "laptop": (
        "2 CPU cores, about a minute",
        FineTuneConfig(
            prompt_length=48,
            response_length=80,
            max_pairs=4000,
            epochs=2,
            batch_size=16,
            learning_rate=2e-3,
            eval_every=100,
            save_every=100,
        ),
    ),
    "gpu": (
        "one GPU, for the 10.7 M base",
        FineTuneConfig(prompt_length=128, response_length=128, batch_size=64, micro_batch_size=64),
    ),
}

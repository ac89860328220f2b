"""Write text with the model of any stage: python -m pretrain.sample --checkpoint RUN/STAGE --prompt TEXT

Reads: a stage's folder: pretrain, sft or rlhf.

Does: continues the prompt, each sample with its own random numbers.

Writes: the text to the terminal. Example: python -m pretrain.sample --checkpoint runs/mine/rlhf --prompt $'ROMEO:\\n'
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from data.console import UserError, console, run_command
from data.directions.headings import Heading, read_directions, split_prompt
from data.directions.specs import NONE, Spec, load_specs
from data.run.options import command_line
from data.run.record import read_stage
from data.tokenizers import Tokenizer
from pretrain.checkpoint import load_any_model
from pretrain.fast.gpt import decoder
from pretrain.ladder.models import LadderModel
from pretrain.machine import choose_device, seeded
from pretrain.model import GPT
from pretrain.sampling import generate, generate_without_cache


def sample_texts(
    model: GPT | LadderModel, tokenizer: Tokenizer, prompts: list[str], *, seed: int = 1, **settings: Any
) -> list[str]:
    """A continuation of every prompt, without the prompt and without the token that ended it.

    settings: `max_new_tokens`, and `temperature`, `top_k` and `top_p` where they are not those of `generate`.
    """
    settings["generator"] = seeded(seed, model.device)
    encoded = [tokenizer.encode(prompt) for prompt in prompts]
    if isinstance(model, LadderModel):
        continuations = []
        for ids in encoded:
            longer = generate_without_cache(model, torch.tensor([ids], device=model.device), **settings)
            new = longer[0, len(ids) :].tolist()
            continuations.append(new[: new.index(tokenizer.eos_id)] if tokenizer.eos_id in new else new)
    else:
        continuations = generate(decoder(model), encoded, stop_ids=[tokenizer.eos_id], **settings)
    return [tokenizer.decode(ids) for ids in continuations]


@dataclass
class SampleOptions:
    """Write text from a checkpoint."""

    checkpoint: Path
    """A stage's folder: pretrain, sft or rlhf."""
    prompt: str = "\n"
    """What the text begins with."""
    directions: str | None = None
    """What the prompt's last speaker is asked for, such as "asking, in two lines"; the prompt ends with a heading."""
    num_samples: int = 1
    """Number of continuations, each with random numbers of its own."""
    max_new_tokens: int = 200
    """Longest continuation, in tokens; it ends earlier where the model ends it."""
    temperature: float = 1.0
    """Below 1 the model keeps to what is likely; 0 always takes the likeliest token."""
    top_k: int | None = None
    """Sample among the k likeliest tokens only."""
    top_p: float | None = None
    """Sample among the likeliest tokens of this total probability only."""
    seed: int = 1
    """Equal seeds give equal text."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto: on a GPU with CUDA where there is one, else on the CPU."""


def told(options: SampleOptions, table: str) -> str:
    """The prompt with the directions that are asked for, by the table of that name; UserError if it has none such."""
    if options.directions is None:
        if table != NONE and (note := unread(options.prompt, load_specs(table))):
            console.print(note, style="dim", markup=False, soft_wrap=True)
        return options.prompt
    if table == NONE:
        raise UserError(
            f"{options.checkpoint} learned no directions: leave --directions out, or name the sft or a later stage of "
            "a run that was fine-tuned with them"
        )
    before, heading = split_prompt(options.prompt, specs := load_specs(table))
    if heading is None:
        raise UserError("--directions is for a prompt that ends with a heading and a line break, such as $'ROMEO:\\n'")
    if not options.directions.strip(" ,"):
        raise UserError("--directions is empty: name at least one, or leave it out")
    asked = read_directions(", ".join([*map(str, heading.directions), options.directions]), specs)
    return f"{before}{Heading(heading.speaker, asked)}:\n"


def unread(prompt: str, specs: Sequence[Spec]) -> str:
    """What to know about a prompt whose heading asks for what no table has, or for what cannot be; "" otherwise."""
    heading = split_prompt(prompt, specs)[1]
    _, *unknown = heading.speaker.split(", ") if heading else ("",)
    if unknown:
        return f"the model knows no direction {', '.join(map(repr, unknown))}: to it that is a part of the name"
    try:
        read_directions(", ".join(map(str, heading.directions if heading else ())), specs)
    except UserError as error:
        return str(error)
    return ""


def main() -> None:
    options = command_line(SampleOptions, __doc__)
    if not options.prompt:
        raise UserError("--prompt is empty: give at least one character")
    if options.num_samples < 1 or options.max_new_tokens < 1:
        raise UserError("--num-samples and --max-new-tokens must be at least 1")
    if options.temperature < 0:
        raise UserError(f"--temperature must not be negative, but is {options.temperature}")
    if options.top_k is not None and options.top_k < 1:
        raise UserError(f"--top-k must be at least 1, not {options.top_k}")
    if options.top_p is not None and not 0 < options.top_p <= 1:
        raise UserError(f"--top-p must be in (0, 1], not {options.top_p}")
    prompt = told(options, read_stage(options.checkpoint).config.get("directions", NONE))
    model = load_any_model(options.checkpoint, choose_device(options.device))
    settings = {name: getattr(options, name) for name in ("seed", "max_new_tokens", "temperature", "top_k", "top_p")}
    prompts = [prompt] * options.num_samples
    texts = sample_texts(model, Tokenizer.load(options.checkpoint), prompts, **settings)
    for number, text in enumerate(texts):
        if number:
            print("\n" + "-" * 40 + "\n")
        print(prompt + text)


if __name__ == "__main__":
    run_command(main)

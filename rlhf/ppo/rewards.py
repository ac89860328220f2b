"""What gives the reward: a sequence classifier, a Python function of texts, or several of these with weights."""

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from data.console import UserError
from rlhf.ppo.networks import HiddenStates, check_reads, choose_attention, load_classifier
from rlhf.ppo.prompts import Prompt
from sft.models.sampling import context_length, pack
from sft.models.tokens import ModelSource, decoder, load_tokenizer, same_tokens, without_stop

RewardFunction = Callable[[list[str], list[str]], Sequence[float]]
"""(prompts, responses) as text -> one score each."""
RewardSource = ModelSource | RewardFunction
Responses = Sequence[Sequence[int]]


class Reward(Protocol):
    """Scores of whole responses."""

    def __call__(self, prompts: Sequence[Prompt], responses: Responses) -> Tensor:
        """Scores (B,), float32, of token ids."""
        ...


@dataclass(frozen=True)
class PolicyTokens:
    """What a reward must know of the tokens that the policy reads and writes."""

    tokenizer: Any
    """None where prompts are token ids and nothing needs text."""
    vocab_size: int
    stop_ids: frozenset[int]
    pad_id: int
    length: int
    """Tokens of prompt and response at most."""

    @cached_property
    def decode(self) -> Callable[[Sequence[int]], str]:
        return decoder(self.tokenizer)

    def response_text(self, response: Sequence[int]) -> str:
        """A response as text, without the token that ended it."""
        return self.decode(without_stop(response, self.stop_ids))

    def prompt_text(self, prompt: Prompt) -> str:
        """A prompt as it was given; of a conversation what the chat template wrote, special tokens included."""
        return self.decode(prompt) if prompt.text is None else prompt.text


class ModelReward:
    """A sequence-classification model with one label; its score is read at the last token of the response.

    The score is normalised by `reward_mean` and `reward_std` of the model's own configuration, which the
    reward stage measured on SFT samples; a model that has none is taken as it is (0 and 1).
    """

    def __init__(self, model: PreTrainedModel, pad_id: int, batch_rows: int) -> None:
        self.model: Any
        if not isinstance(getattr(model, "score", None), nn.Module) or model.config.num_labels != 1:
            raise UserError(
                f"the reward model ({type(model).__name__}, {model.config.num_labels} labels) has no scalar `score` "
                "head: give a sequence-classification model of one label, or a Python function"
            )
        self.model = model.eval().requires_grad_(False)
        self.hidden_states = HiddenStates(model.base_model)
        self.pad_id = pad_id
        self.batch_rows = batch_rows
        self.mean = float(getattr(model.config, "reward_mean", 0.0))
        self.std = float(getattr(model.config, "reward_std", 1.0))
        if not (math.isfinite(self.mean) and math.isfinite(self.std) and self.std > 0):
            raise UserError(f"reward_mean {self.mean} and reward_std {self.std} of the reward model make no scale")

    @torch.no_grad()
    def __call__(self, prompts: Responses, responses: Responses) -> Tensor:
        lengths = [len(p) + len(r) for p, r in zip(prompts, responses, strict=True)]
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        scores = torch.empty(len(prompts), device=self.model.device)
        for start in range(0, len(order), self.batch_rows):
            rows = order[start : start + self.batch_rows]
            batch = pack([prompts[i] for i in rows], [responses[i] for i in rows], self.pad_id, self.model.device)
            # The last real token of the response, known by its length: the model's own search by PAD id
            # would be misled by a PAD inside the prompt or by PAD = EOS.
            last = torch.arange(batch.ids.shape[1], device=batch.last.device) == batch.last[:, None]
            states = self.hidden_states(batch.ids, batch.attention_mask, last)
            scores[rows] = self.model.score(states).squeeze(-1).float()
        return (scores - self.mean) / self.std


class TranslatedReward:
    """A reward model of another tokenizer: what the policy wrote reaches it as text, in tokens of its own.

    A conversation goes through the reward model's own chat template, the response as the assistant's message. A
    text is prompt and response joined, with the reward model's EOS where the response ended by itself. What the
    reward model cannot read in one piece loses its beginning.
    """

    def __init__(self, model: ModelReward, tokenizer: Any, policy: PolicyTokens) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.policy = policy

    def __call__(self, prompts: Sequence[Prompt], responses: Responses) -> Tensor:
        room = context_length(self.model.model)
        sequences = [self.encode(p, r)[-room:] for p, r in zip(prompts, responses, strict=True)]
        return self.model([ids[:-1] for ids in sequences], [ids[-1:] for ids in sequences])

    def encode(self, prompt: Prompt, response: Sequence[int]) -> list[int]:
        """Prompt and response in the reward model's token ids."""
        text = self.policy.response_text(response)
        if prompt.messages is None:
            ids = list(self.tokenizer.encode(self.policy.prompt_text(prompt) + text))
            eos = self.tokenizer.eos_token_id
            stopped = response[-1] in self.policy.stop_ids
            return [*ids, eos] if stopped and eos is not None and ids[-1] != eos else ids
        messages = prompt.messages
        if messages[-1]["role"] == "assistant":  # the response goes on with what is there
            messages, text = messages[:-1], messages[-1]["content"] + text
        if getattr(self.tokenizer, "chat_template", None) is None:
            raise UserError(
                "the prompts are conversations, and the reward model's tokenizer, which is not the policy's, has no "
                "chat template: give the prompts as text, or a Python function as the reward"
            )
        whole = self.tokenizer.apply_chat_template([*messages, {"role": "assistant", "content": text}], tokenize=False)
        return list(self.tokenizer.encode(whole, add_special_tokens=False))


class FunctionReward:
    """A Python function of texts. Nothing that it reads is tokenised again."""

    def __init__(self, function: RewardFunction, policy: PolicyTokens, device: torch.device) -> None:
        if not callable(function):
            raise UserError(
                f"the reward is a {type(function).__name__}: give a folder, a hub name or a model of sequence "
                "classification, a function (prompts, responses) -> scores, or a list of (reward, weight)"
            )
        if policy.tokenizer is None:
            raise UserError("a reward function reads text: pass the tokenizer")
        try:
            inspect.signature(function).bind([], [])
        except TypeError as error:
            raise UserError(
                f"the reward function is called as f(prompts, responses), and it is not made so: {error}"
            ) from error
        except ValueError:  # a builtin that does not tell its parameters
            pass
        self.function = function
        self.policy = policy
        self.device = device

    def __call__(self, prompts: Sequence[Prompt], responses: Responses) -> Tensor:
        prompt_texts = [self.policy.prompt_text(prompt) for prompt in prompts]
        response_texts = [self.policy.response_text(response) for response in responses]
        given: Any = self.function(prompt_texts, response_texts)
        try:
            scores = torch.as_tensor(given, dtype=torch.float32, device=self.device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(
                f"the reward function gave {given!r:.60}: return a list of numbers, one a response"
            ) from error
        if scores.shape != (len(prompts),):
            raise UserError(
                f"the reward function gave scores of shape {tuple(scores.shape)} for {len(prompts)} responses: "
                "return one number for each"
            )
        if not scores.isfinite().all():
            bad = int(scores.isfinite().logical_not().nonzero()[0])
            raise UserError(
                f"the reward function gave {scores[bad].item()} for the response {response_texts[bad]!r:.60}: "
                "return finite numbers"
            )
        return scores


class WeightedReward:
    """The weighted sum of several rewards, each with its name in the log.

    `means` holds the mean of each over the last call, before its weight.
    """

    def __init__(self, parts: dict[str, tuple[Reward, float]]) -> None:
        self.parts = parts
        self.means: dict[str, float] = {}

    def __call__(self, prompts: Sequence[Prompt], responses: Responses) -> Tensor:
        scores = {name: reward(prompts, responses) for name, (reward, _) in self.parts.items()}
        self.means = {name: score.mean().item() for name, score in scores.items()}
        return torch.stack([weight * scores[name] for name, (_, weight) in self.parts.items()]).sum(0)


def build_reward(
    source: Any,
    policy: PolicyTokens,
    batch_rows: int,
    device: torch.device,
) -> tuple[Reward, PreTrainedModel | None]:
    """The reward, and the first sequence-classification model in it that reads the policy's tokens.

    source: a folder, hub name or model of sequence classification, a function, or a list of (reward, weight).
    batch_rows: sequences per forward pass of a model. UserError on what gives no reward.
    """
    if isinstance(source, list | tuple):
        parts: dict[str, tuple[Reward, float]] = {}
        first = None
        for number, (part, weight) in enumerate(_weighted(source)):
            reward, model = build_reward(part, policy, batch_rows, device)
            name = _name(part)
            parts[name if name and name not in parts else f"{name or 'reward'}_{number}"] = (reward, weight)
            first = model if first is None else first
        return WeightedReward(parts), first
    is_model = isinstance(source, str | Path | nn.Module)
    if not is_model:
        return FunctionReward(source, policy, device), None
    model = load_classifier(source, "reward model")
    choose_attention(model, device)
    nn.Module.to(model, device)  # in place
    theirs = load_tokenizer(model)
    fits = model.config.get_text_config().vocab_size >= policy.vocab_size
    if theirs is not None and policy.tokenizer is not None and not (fits and same_tokens(policy.tokenizer, theirs)):
        return TranslatedReward(ModelReward(model, policy.pad_id, batch_rows), theirs, policy), None
    check_reads(model, "reward model", policy.vocab_size, policy.length)
    return ModelReward(model, policy.pad_id, batch_rows), model


def _weighted(source: Sequence[Any]) -> list[tuple[Any, float]]:
    """Several rewards as (reward, weight)."""
    if not source:
        raise UserError("there is no reward: the list of (reward, weight) is empty")
    for number, part in enumerate(source):
        if not (isinstance(part, list | tuple) and len(part) == 2 and isinstance(part[1], int | float)):
            raise UserError(f"each of several rewards is a pair (reward, weight); number {number} is {part!r:.60}")
        if not math.isfinite(part[1]):
            raise UserError(f"the weight of reward {number} is {part[1]}: give a finite number")
    return [(part, float(weight)) for part, weight in source]


def _name(source: Any) -> str:
    """A function's own name, or the last part of where a model came from; nothing if there is none."""
    if isinstance(source, PreTrainedModel):
        source = source.config.name_or_path
    name = Path(source).name if isinstance(source, str | Path) else getattr(source, "__name__", "")
    return name if name != "<lambda>" else ""

"""trl's SFTTrainer on pairs, with a second loss by which the model learns to read what a prompt asks for.

A reply follows its directions in a mark and in a few line ends, which are a small part of the loss on its tokens. So
every token also says, through a linear head, whether the reply will do as its prompt asks. It is read under its own
directions, which it follows, and under a *twin* of its prompt, which asks for something that it does not do: as a
verifier is trained on every token of a solution (Cobbe et al., arXiv 2110.14168). The head is not kept.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedModel
from trl import SFTConfig, SFTTrainer

from data.console import UserError
from pretrain.fast.functions import TokenLogprobs
from sft.models.batch import Batch
from sft.models.forward import HiddenStates
from sft.models.loading import DROPOUTS
from sft.models.tokens import load_tokenizer
from sft.pairs import IGNORED, Example
from sft.trl import SilentTrainer

FOLLOWS = "follows"
"""Name of the head in the model while it learns."""
LAST = 2
"""Judgements at the end of a reply that weigh one each, next to the mean over all: there it is nearly certain."""


class PairCollator:
    """Rows of `as_dataset` → a batch of N sequences of at most T tokens, padded on the right; a pair's twin follows it.

    `input_ids`, `labels` (N, T), the labels of a twin all IGNORED. `prompt_lengths`, `lengths` (N,): tokens of the
    prompt, and of prompt and completion. `follows` (N,): 1 where the reply does as its prompt asks, 0 for a twin, −1
    for a pair without one, which is not judged.
    """

    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        ids, labels, follows, prompts = [], [], [], []
        for row in rows:
            completion = row["input_ids"][row["prompt_length"] :]
            ids.append(row["input_ids"])
            labels.append(row["labels"])
            prompts.append(row["prompt_length"])
            follows.append(1 if row["twin"] else -1)
            if row["twin"]:
                ids.append(row["twin"] + completion)
                labels.append([IGNORED] * len(ids[-1]))
                prompts.append(len(row["twin"]))
                follows.append(0)
        width = max(map(len, ids))

        def padded(lists: list[list[int]], value: int) -> Tensor:
            return torch.tensor([[*values, *[value] * (width - len(values))] for values in lists])

        return {
            "input_ids": padded(ids, self.pad_id),
            "labels": padded(labels, IGNORED),
            "prompt_lengths": torch.tensor(prompts),
            "lengths": torch.tensor([*map(len, ids)]),
            "follows": torch.tensor(follows),
        }


class CompletionTrainer(SilentTrainer, SFTTrainer):
    """SFTTrainer whose batches come from `PairCollator`, and whose forward pass is that of `sft.models.forward`.

    So a CPU reads no padding, and the loss on the completions is trl's own, to rounding. following_coef: weight of the
    second loss, the squared error of the head's estimate of whether the reply follows, less ½; 0 leaves it out.
    """

    def __init__(self, *args: Any, following_coef: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.following_coef = following_coef
        self.judged = torch.ones(())
        """Judged sequences of the optimizer step, over all its batches and processes."""

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        judged = torch.stack([(batch["follows"] >= 0).sum() for batch in batches]).sum()
        self.judged = self.accelerator.gather(judged.to(device)).sum().clamp(min=1)
        return batches, items

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss on the completions, and that of the head on the sequences which are judged; each over the step."""
        starts, ends = inputs["prompt_lengths"].tolist(), inputs["lengths"].tolist()
        rows = [row[:end] for row, end in zip(inputs["input_ids"].tolist(), ends, strict=True)]
        prompts = [row[:start] for row, start in zip(rows, starts, strict=True)]
        completions = [row[start:] for row, start in zip(rows, starts, strict=True)]
        lengths = inputs["lengths"] - inputs["prompt_lengths"]
        follows = inputs["follows"].repeat_interleave(lengths)
        learned = follows != 0  # a twin's reply was not written to its prompt
        states, logits = model(pairs=Batch(prompts, completions, inputs["input_ids"].device), learned=learned)
        targets = torch.tensor([id for completion in completions for id in completion], device=logits.device)[learned]
        logprobs, _ = TokenLogprobs.apply(logits, targets, 1.0)
        processes = self.accelerator.num_processes  # over whose gradients DDP takes the mean
        loss = -logprobs.sum() / num_items_in_batch * processes
        following = loss.new_zeros(())
        if self.following_coef:
            judged = follows >= 0
            plain = self.accelerator.unwrap_model(model)
            estimates = getattr(plain, FOLLOWS)(states[judged].float()).squeeze(-1)
            errors = (estimates - (follows[judged] - 0.5)) ** 2
            following = (errors * judgement_weights(lengths)[judged]).sum() / self.judged * processes
            loss = loss + self.following_coef * following
        metrics = {
            "following_loss": following.detach() * self.current_gradient_accumulation_steps,
            "mean_token_accuracy": (logits.argmax(-1) == targets).float().mean(),
        }
        for name, value in metrics.items():
            self._metrics["train"][name].append(self.accelerator.gather(value).mean().item())
        return (loss, logits) if return_outputs else loss

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns: Any = ["input_ids", "labels", "prompt_length", "twin"]


def judgement_weights(lengths: Tensor) -> Tensor:
    """What each token of completions with these lengths (N,) weighs, row by row: 1/length, and 1 more near the end.

    A judgement stands before its token: the last one has seen all but the end."""
    places = torch.cat([torch.arange(int(length), 0, -1) for length in lengths]).to(lengths.device)
    return 1 / lengths.repeat_interleave(lengths) + (places <= LAST).float()


def forward_pairs(
    lm: PreTrainedModel,
    states: HiddenStates,
    forward: Any,
    *args: Any,
    pairs: Batch | None = None,
    learned: Tensor | None = None,
    **kwargs: Any,
) -> Any:
    """Hidden states (N, C) where the completions of `pairs` are predicted, and the logits of those that are `learned`.

    learned: (N,), default all. Without pairs, as `forward`.
    """
    if pairs is None:
        return forward(*args, **kwargs)
    hidden = states(pairs)
    return hidden, lm.get_output_embeddings()(hidden if learned is None else hidden[learned]).float()


def exact_trainer(
    model: Any, arguments: SFTConfig, examples: list[Example], tokenizer: Path, following_coef: float = 0.0
) -> CompletionTrainer:
    """trl's trainer on the examples as they are, after counting that it took every one whole; `tokenizer`: a folder.

    With a `following_coef` the model gets the head, `model.follows`; `plain_again` takes it off.
    """
    if following_coef:
        width = model.config.get_text_config().hidden_size
        setattr(model, FOLLOWS, nn.Linear(width, 1, device=model.device))
        for parameter in getattr(model, FOLLOWS).parameters():
            nn.init.zeros_(parameter)
    loaded = load_tokenizer(tokenizer, "base")
    trainer = CompletionTrainer(
        model=model,
        args=arguments,
        train_dataset=as_dataset(examples),
        processing_class=loaded,
        data_collator=PairCollator(loaded.pad_token_id),
        following_coef=following_coef,
    )
    check_nothing_lost(examples, trainer.train_dataset)
    states = HiddenStates(model.base_model)
    if has_dropout(model):
        states.body = None  # it has none
    # An attribute, so that whatever wraps the model (DDP, autocast) has this forward pass in it.
    model.forward = partial(forward_pairs, model, states, model.forward)
    return trainer


def plain_again(model: Any, trainer: CompletionTrainer) -> None:
    """The model without the head and without what trl, accelerate and `exact_trainer` put around its forward pass."""
    trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    model.__dict__.pop("forward", None)
    if hasattr(model, FOLLOWS):
        delattr(model, FOLLOWS)


def has_dropout(model: PreTrainedModel) -> bool:
    return any(getattr(model.config.get_text_config(), name, 0.0) for name in DROPOUTS)


def as_dataset(examples: list[Example]) -> Dataset:
    return Dataset.from_dict(
        {
            "input_ids": [example.ids for example in examples],
            "labels": [example.labels for example in examples],
            "prompt_length": [len(example.prompt) for example in examples],
            "twin": [example.twin for example in examples],
        }
    )


def check_nothing_lost(examples: list[Example], taken: Any) -> None:
    """The trainer's data set holds the examples and the learned tokens that went in (UserError)."""
    tokens = sum(len(example.completion) for example in examples)
    learned = sum(label != IGNORED for labels in taken["labels"] for label in labels)
    if len(taken) != len(examples) or learned != tokens:
        raise UserError(
            f"trl's SFTTrainer kept {len(taken)} of {len(examples)} examples and {learned} of {tokens} completion "
            "tokens: this version of trl changes the data; install the versions of constraints.txt"
        )

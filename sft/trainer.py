"""trl's SFTTrainer on pairs, with a second loss by which the model learns to read what a prompt asks for.

A reply follows its directions in a mark and in a few line ends, which are a small part of the loss on its tokens. So
every token also says, through a linear head, whether the reply will do as its prompt asks. It is read under its own
directions, which it follows, and under a *twin* of its prompt, which asks for something that it does not do: as a
verifier is trained on every token of a solution (Cobbe et al., arXiv 2110.14168). The head is not kept.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedModel
from trl import SFTConfig, SFTTrainer

from data.console import UserError
from sft.pairs import IGNORED, Example
from sft.trl import SilentTrainer

READER = "reader"
"""Name of the head in the model while it learns."""
END_WEIGHT = 1.0
"""What the judgement at each of the two last tokens weighs next to the mean over all of them: there it is certain."""


class PairCollator:
    """Rows of `as_dataset` → a batch of N sequences of at most T tokens, padded on the right; a pair's twin follows it.

    `input_ids`, `attention_mask`, `labels` (N, T), the labels of a twin all IGNORED. `follows` (N,): 1 where the reply
    does as its prompt asks, 0 for a twin, −1 for a pair without one, which is not judged. `weights` (N, T): what the
    judgement of each token weighs; of a sequence they have the sum 3, or 0 where it is not judged.
    """

    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        ids, labels, follows, starts = [], [], [], []
        for row in rows:
            completion = row["input_ids"][row["prompt_length"] :]
            ids.append(row["input_ids"])
            labels.append(row["labels"])
            starts.append(row["prompt_length"])
            follows.append(1 if row["twin"] else -1)
            if row["twin"]:
                ids.append(row["twin"] + completion)
                labels.append([IGNORED] * len(ids[-1]))
                starts.append(len(row["twin"]))
                follows.append(0)
        width = max(map(len, ids))

        def padded(lists: list[list[int]], value: int) -> Tensor:
            return torch.tensor([[*values, *[value] * (width - len(values))] for values in lists])

        lengths = torch.tensor([*map(len, ids)])[:, None]
        places, first = torch.arange(width), torch.tensor(starts)[:, None] - 1
        judged = torch.tensor(follows)[:, None] >= 0
        responses = ((places >= first) & (places < lengths)).float()
        ends = ((places >= lengths - 2) & (places < lengths)).float()
        return {
            "input_ids": padded(ids, self.pad_id),
            "attention_mask": (places < lengths).long(),
            "labels": padded(labels, IGNORED),
            "follows": torch.tensor(follows),
            "weights": judged * (responses / responses.sum(1, keepdim=True) + END_WEIGHT * ends),
        }


class CompletionTrainer(SilentTrainer, SFTTrainer):
    """SFTTrainer whose batches come from `PairCollator`.

    reading_coef: weight of the second loss, the squared error of the head's estimate of whether the reply follows,
    less ½; 0 leaves it out.
    """

    def __init__(self, *args: Any, reading_coef: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.reading_coef = reading_coef
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
        """trl's loss on the completions, and that of the head on the sequences which are judged."""
        follows, weights = inputs.pop("follows"), inputs.pop("weights")
        plain = self.accelerator.unwrap_model(model)
        with last_states(plain) as states:
            result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        loss, *outputs = result if return_outputs else (result,)
        reading = loss.new_zeros(())
        if self.reading_coef:
            estimates = getattr(plain, READER)(states[0].float()).squeeze(-1)
            errors = (estimates - (follows[:, None] - 0.5)) ** 2
            # As trl's own loss: over the whole step, and DDP averages over the processes.
            reading = (errors * weights).sum() / self.judged * self.accelerator.num_processes
            loss = loss + self.reading_coef * reading
        whole = reading.detach() * self.current_gradient_accumulation_steps
        self._metrics["train"]["reading_loss"].append(self.accelerator.gather(whole).mean().item())
        return (loss, *outputs) if return_outputs else loss

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns: Any = ["input_ids", "labels", "prompt_length", "twin"]


@contextmanager
def last_states(model: PreTrainedModel) -> Iterator[list[Tensor]]:
    """The last hidden states (N, T, width) of the body's next forward pass, as the list's one element."""
    found: list[Tensor] = []
    hook = model.base_model.register_forward_hook(lambda module, args, output: found.append(output.last_hidden_state))
    try:
        yield found
    finally:
        hook.remove()


def exact_trainer(
    model: Any, arguments: SFTConfig, examples: list[Example], tokenizer: Path, reading_coef: float = 0.0
) -> CompletionTrainer:
    """trl's trainer on the examples as they are, after counting that it took every one whole; `tokenizer`: a folder.

    With a `reading_coef` the model gets the head: `model.reader`, which is the caller's to remove.
    """
    if reading_coef:
        width = model.config.get_text_config().hidden_size
        setattr(model, READER, nn.Linear(width, 1, device=model.device))
        for parameter in getattr(model, READER).parameters():
            nn.init.zeros_(parameter)
    reader = AutoTokenizer.from_pretrained(tokenizer)
    trainer = CompletionTrainer(
        model=model,
        args=arguments,
        train_dataset=as_dataset(examples),
        processing_class=reader,
        data_collator=PairCollator(reader.pad_token_id),
        reading_coef=reading_coef,
    )
    check_nothing_lost(examples, trainer.train_dataset)
    return trainer


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

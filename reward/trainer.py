"""TRL's RewardTrainer on whole rankings instead of single pairs.

All pairs of a prompt stand in one batch, and each response runs through the model once, not once for
every pair it is in (Ouyang et al., arXiv 2203.02155, section 3.5: it also keeps the K − 1 comparisons of a
response from being learned as if they were independent). Loss and gradients are those of the plain trainer
on the same pairs.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import RewardTrainer

from data.console import UserError
from pretrain.progress import Bar
from pretrain.stage import StageFolder
from reward.model import pad_right
from reward.rankings import Ranking


def ranking_dataset(rankings: Sequence[Ranking], context_length: int) -> Dataset:
    """One row a ranking: `chosen_ids` and `rejected_ids` hold a sequence for each of its pairs.

    Rankings of nothing but ties have no pair and are left out. UserError if there is no pair at all, or a
    sequence is longer than the model's context (the trainer would drop it without a word).
    """
    rows = [
        {
            "chosen_ids": [ranking.sequence(better) for better, _ in pairs],
            "rejected_ids": [ranking.sequence(worse) for _, worse in pairs],
        }
        for ranking in rankings
        if (pairs := ranking.pairs())
    ]
    if not rows:
        raise UserError("the rankings hold no pair: every response is tied with every other")
    longest = max(len(ids) for row in rows for ids in row["chosen_ids"] + row["rejected_ids"])
    if longest > context_length:
        raise UserError(
            f"a prompt and its response have {longest} tokens, the model's context is {context_length}: "
            "shorten --prompt-length or --response-length"
        )
    return Dataset.from_list(rows)


class RankingCollator:
    """Rows of `ranking_dataset` → the batch's distinct sequences, and which of them each pair compares.

    `input_ids`, `attention_mask` (N, T): the N distinct sequences, longest last, padded on the right.
    `chosen`, `rejected` (P,): their rows in each of the P pairs.
    """

    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id

    def __call__(self, rows: list[dict[str, list[list[int]]]]) -> dict[str, Tensor]:
        pairs = [
            (tuple(chosen), tuple(rejected))
            for row in rows
            for chosen, rejected in zip(row["chosen_ids"], row["rejected_ids"], strict=True)
        ]
        distinct = sorted({sequence for pair in pairs for sequence in pair}, key=lambda ids: (len(ids), ids))
        place = {sequence: row for row, sequence in enumerate(distinct)}
        ids, mask = pad_right(distinct, self.pad_id)
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "chosen": torch.tensor([place[chosen] for chosen, _ in pairs]),
            "rejected": torch.tensor([place[rejected] for _, rejected in pairs]),
        }


class RankingTrainer(RewardTrainer):
    """RewardTrainer whose batches come from `RankingCollator`.

    rows_per_forward: sequences that run through the model together; grouped by length, little is padding.
    """

    def __init__(self, *args: Any, rows_per_forward: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rows_per_forward = rows_per_forward

    def compute_loss(
        self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """−log σ(r_chosen − r_rejected), the mean over the batch's pairs."""
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        parts = []
        for start in range(0, len(ids), self.rows_per_forward):
            rows = slice(start, start + self.rows_per_forward)
            length = int(mask[rows].sum(1).max())
            outputs = model(input_ids=ids[rows, :length], attention_mask=mask[rows, :length], use_cache=False)
            parts.append(outputs.logits.squeeze(-1).float())
        rewards = torch.cat(parts)
        margins = rewards[inputs["chosen"]] - rewards[inputs["rejected"]]
        loss = -F.logsigmoid(margins).mean()
        mode = "train" if self.model.training else "eval"
        figures = {"accuracy": (margins > 0).float().mean(), "margin": margins.mean(), "mean_reward": rewards.mean()}
        for name, value in figures.items():
            self._metrics[mode][name].append(self.accelerator.gather(value.detach()).mean().item())
        return (loss, {"logits": rewards}) if return_outputs else loss

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """None: the stage's record and samples say what the model is."""

    def _send_telemetry(self) -> None:
        """None: what a user trains is nobody else's business."""


class Reporter(TrainerCallback):
    """Moves our progress bar and writes the trainer's figures to the stage's metrics."""

    def __init__(self, folder: StageFolder, bar: Bar) -> None:
        self.folder, self.bar = folder, bar

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.bar.advance()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if not logs or "loss" not in logs:  # the last one sums up
            return
        self.folder.log(
            step=state.global_step,
            loss=logs["loss"],
            accuracy=round(logs["accuracy"], 5),
            margin=round(logs["margin"], 5),
            mean_reward=round(logs["mean_reward"], 5),
            gradient_norm=round(logs["grad_norm"], 5),
            learning_rate=logs["learning_rate"],
        )
        self.bar.advance(0, f"loss {logs['loss']:.4f} · pairs right {logs['accuracy']:.3f}")


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole `checkpoint-N` of the trainer in `folder`."""
    found = [path for path in folder.glob("checkpoint-*") if (path / "trainer_state.json").exists()]
    return max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)

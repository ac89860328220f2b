"""TRL's RewardTrainer on whole rankings instead of single pairs.

All pairs of a prompt stand in one batch, and each response runs through the model once, not once for
every pair it is in (Ouyang et al., arXiv 2203.02155, section 3.5: learned as if they were independent, the
pairs of one ranking overfit). The prompt runs through it once for all its responses: they stand behind it
in one row, each sees the prompt and itself, and its positions go on from the prompt's. Loss and gradients
are those of the plain trainer on the same pairs, at a third to a sixth of its arithmetic.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from itertools import accumulate
from typing import Any, Literal

import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedModel
from trl import RewardTrainer

from data.console import UserError
from data.run.folder import StageFolder
from data.run.progress import Bar
from reward.evaluate import judge_pairs, score_rankings
from reward.model import RewardModel
from reward.rankings import Ranking
from sft.trl import SilentTrainer, StageCallback

CURVE_RANKINGS = 64
"""Held-out rankings that are scored while the model learns, at most."""

Loss = Literal["pairs", "plackett-luce"]
"""See `ranking_losses`."""


@dataclass
class RankingRow:
    """One ranking as one sequence of tokens: the prompt, then each distinct completion, which sees only the prompt.

    A pair compares the completions `chosen[i]` and `rejected[i]`, places in `completion_ids`; each pair stands once.
    The loss is multiplied by `weight`.
    """

    prompt_ids: list[int]
    completion_ids: list[list[int]]
    chosen: list[int]
    rejected: list[int]
    weight: float

    @classmethod
    def of(cls, ranking: Ranking) -> "RankingRow":
        """Completions of the same tokens run through the model once, and those of no pair not at all."""
        pairs = ranking.pairs()
        compared = sorted({index for pair in pairs for index in pair})
        places: dict[tuple[int, ...], int] = {}
        place = {index: places.setdefault(tuple(ranking.completion_ids[index]), len(places)) for index in compared}
        compared_places = dict.fromkeys((place[better], place[worse]) for better, worse in pairs)
        return cls(
            prompt_ids=ranking.prompt_ids,
            completion_ids=[list(ids) for ids in places],
            chosen=[better for better, _ in compared_places],
            rejected=[worse for _, worse in compared_places],
            weight=ranking.weight,
        )

    @property
    def longest(self) -> int:
        """Tokens of the prompt and the longest completion."""
        return len(self.prompt_ids) + max(map(len, self.completion_ids))

    @property
    def ids(self) -> list[int]:
        return self.prompt_ids + [token for ids in self.completion_ids for token in ids]

    @property
    def segments(self) -> list[int]:
        """0 for a token of the prompt, 1, 2, … for those of the completions."""
        of_completions = [number for number, ids in enumerate(self.completion_ids, start=1) for _ in ids]
        return [0] * len(self.prompt_ids) + of_completions

    @property
    def positions(self) -> list[int]:
        """A completion's positions continue the prompt's."""
        prompt = len(self.prompt_ids)
        return [*range(prompt), *(prompt + place for ids in self.completion_ids for place in range(len(ids)))]

    @property
    def ends(self) -> list[int]:
        """The place of each completion's last token."""
        return [len(self.prompt_ids) + end - 1 for end in accumulate(map(len, self.completion_ids))]


def ranking_dataset(rankings: Sequence[Ranking], context_length: int) -> Dataset:
    """One `RankingRow` per ranking.

    Rankings of nothing but ties have no pair and are left out. UserError if there is no pair at all, or a
    sequence is longer than the model's context.
    """
    rows = [row for ranking in rankings if (row := RankingRow.of(ranking)).chosen]
    if not rows:
        raise UserError("the rankings hold no pair: every response is tied with every other")
    longest = max(row.longest for row in rows)
    if longest > context_length:
        raise UserError(
            f"a prompt and its response have {longest} tokens, the model's context is {context_length}: "
            "shorten --prompt-length or --response-length"
        )
    return Dataset.from_list([asdict(row) for row in rows])


class RankingCollator:
    """Rows of `ranking_dataset` → a batch of R sequences of at most T tokens, the shortest first, padded on the right.

    `input_ids`, `position_ids`, `segments` (R, T), see `RankingRow`; segment −1 is padding. `ends` (N,): where the N
    completions end, in the flattened rows. `owners` (R, T): which of the N a token belongs to, −1 where to none.
    `chosen`, `rejected` (P,): the places in `ends` that each of the P pairs compares. `terms` (P,): the term of the
    loss that a pair belongs to, of M; `weights` (M,): what each term is multiplied by. See `ranking_losses`.
    """

    def __init__(self, pad_id: int, width_step: int = 1, loss: Loss = "pairs") -> None:
        """Rows are padded to a multiple of `width_step` tokens: a CPU keeps a kernel for every shape it has met."""
        self.pad_id, self.width_step, self.loss = pad_id, width_step, loss

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        ordered = sorted((RankingRow(**row) for row in rows), key=lambda row: len(row.segments))
        width = math.ceil(len(ordered[-1].segments) / self.width_step) * self.width_step
        ends: list[int] = []
        chosen: list[int] = []
        rejected: list[int] = []
        terms: list[int] = []
        weights: list[float] = []
        owners: list[list[int]] = []
        for number, row in enumerate(ordered):
            owners.append([segment - 1 + len(ends) if segment else -1 for segment in row.segments])
            chosen += [len(ends) + place for place in row.chosen]
            rejected += [len(ends) + place for place in row.rejected]
            of_row = list(range(len(row.chosen))) if self.loss == "pairs" else row.chosen
            numbers = {term: len(weights) + place for place, term in enumerate(dict.fromkeys(of_row))}
            terms += [numbers[term] for term in of_row]
            weights += [row.weight] * len(numbers)
            ends += [number * width + end for end in row.ends]

        def padded(lists: list[list[int]], value: int) -> Tensor:
            return torch.tensor([[*values, *[value] * (width - len(values))] for values in lists])

        return {
            "input_ids": padded([row.ids for row in ordered], self.pad_id),
            "position_ids": padded([row.positions for row in ordered], 0),
            "segments": padded([row.segments for row in ordered], -1),
            "owners": padded(owners, -1),
            "ends": torch.tensor(ends),
            "chosen": torch.tensor(chosen),
            "rejected": torch.tensor(rejected),
            "terms": torch.tensor(terms),
            "weights": torch.tensor(weights),
        }


def ranking_losses(margins: Tensor, terms: Tensor, count: int) -> Tensor:
    """−log P of each of `count` terms (M,), from margins r_chosen − r_rejected (P,) and each pair's term (P,).

    A term says that one response is preferred to one or several others, of which Luce's axiom (1959) makes
    P = exp r / (exp r + Σ exp r_other) = 1 / (1 + Σ exp −margin). With a term per pair these are Bradley and Terry's
    probabilities. With a term per response, over all that stand below it, the product over a ranking without ties
    is its probability under Plackett and Luce (Plackett 1975): the best is chosen among all, the next among the
    rest, and the last term is 1. What was not placed is in no term, as the axiom has it. Between ties nothing is
    claimed: each of them is preferred to what is below, and none is in another's term. Each factor is still a
    probability of the model, so their product is a composite likelihood (Varin, Reid and Firth 2011), as that of
    the pairs of one ranking is.
    """
    largest = margins.new_full((count,), -torch.inf).scatter_reduce(0, terms, -margins.detach(), "amax")
    sums = margins.new_zeros(count).index_add(0, terms, (-margins - largest[terms]).exp())
    return F.softplus(largest + sums.log())


def segment_attention_bias(segments: Tensor, dtype: torch.dtype) -> Tensor:
    """(R, 1, T, T) from segments (R, T): 0 where a token may look, else the dtype's lowest number.

    It may look back at the prompt and at its own segment.
    """
    query, key = segments[:, :, None], segments[:, None, :]
    length = segments.shape[1]
    past = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    allowed = past & ((key == 0) | (key == query))
    bias = torch.zeros(allowed.shape, dtype=dtype, device=segments.device)
    return bias.masked_fill(~allowed, torch.finfo(dtype).min)[:, None]


class RankingTrainer(SilentTrainer, RewardTrainer):
    """RewardTrainer whose batches come from `RankingCollator`.

    rankings_per_forward: rankings that run through the model together; grouped by length, little is padding.
    mean_loss_coef: weight of a second loss on the same pairs, by a score that is the mean over a response's tokens
    through a head of its own. The reward at the last token gives the tokens before it hardly a gradient; this one
    teaches every token what speaks for or against it. The model's `mean_score` is that head; 0 leaves it out.
    """

    def __init__(
        self,
        *args: Any,
        collator: RankingCollator,
        rankings_per_forward: int,
        mean_loss_coef: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs | {"data_collator": collator})
        self.width_step = collator.width_step
        self.rankings_per_forward = rankings_per_forward
        self.mean_loss_coef = mean_loss_coef
        # So that every loss is divided by the number of micro-batches, whatever the model's forward pass takes.
        self.model_accepts_loss_kwargs = False

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """The micro-batches of an optimizer step, and the mean weight of the terms of one of them on one process.

        The mean of losses divided by it is that of the whole step as one batch.
        """
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        weight = torch.stack([batch["weights"].sum() for batch in batches]).mean()
        return batches, self.accelerator.gather(weight.to(device)).mean()

    def compute_loss(
        self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The weighted mean of `ranking_losses`, and the same of scores that are means over tokens.

        `num_items_in_batch` is what `get_batch_samples` gives; without it the mean is that of these inputs.
        """
        starts = range(0, len(inputs["input_ids"]), self.rankings_per_forward)
        hidden = torch.cat([self._hidden(model, inputs, start) for start in starts]).flatten(0, 1)
        heads = self.accelerator.unwrap_model(model)
        rewards = heads.score(hidden[inputs["ends"]].to(heads.score.weight.dtype)).squeeze(-1).float()
        weights = inputs["weights"]

        def sum_of_losses(scores: Tensor) -> Tensor:
            margins = scores[inputs["chosen"]] - scores[inputs["rejected"]]
            return (ranking_losses(margins, inputs["terms"], len(weights)) * weights).sum()

        loss = ranking_loss = sum_of_losses(rewards)
        if self.mean_loss_coef:
            loss = ranking_loss + self.mean_loss_coef * sum_of_losses(self._means(heads.mean_score, hidden, inputs))
        loss = loss / (weights.sum() if num_items_in_batch is None else num_items_in_batch)
        margins = rewards[inputs["chosen"]] - rewards[inputs["rejected"]]
        mode = "train" if model.training else "eval"
        figures = {
            "ranking_loss": ranking_loss / weights.sum(),
            "accuracy": (margins > 0).float().mean(),
            "margin": margins.mean(),
            "mean_reward": rewards.mean(),
        }
        for name, value in figures.items():
            self._metrics[mode][name].append(self.accelerator.gather(value.detach()).mean().item())
        return (loss, {"logits": rewards}) if return_outputs else loss

    def _means(self, head: nn.Module, hidden: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """(N,): the mean of `head` over the tokens of each of the N responses; `hidden` (R · T, width)."""
        owners = inputs["owners"].flatten()
        owned = owners >= 0
        scores = head(hidden[owned].float()).squeeze(-1)
        sums = scores.new_zeros(len(inputs["ends"])).index_add(0, owners[owned], scores)
        return sums / owners[owned].bincount(minlength=len(sums))

    def _hidden(self, model: Any, inputs: dict[str, Tensor], start: int) -> Tensor:
        """Final hidden states (rows, T, width) of some rows, run at their own length and padded with 0."""
        rows = slice(start, start + self.rankings_per_forward)
        segments = inputs["segments"][rows]
        length = math.ceil(int((segments >= 0).sum(1).max()) / self.width_step) * self.width_step
        outputs = model(
            input_ids=inputs["input_ids"][rows, :length],
            position_ids=inputs["position_ids"][rows, :length],
            attention_mask=segment_attention_bias(segments[:, :length], torch.float32),
            output_hidden_states=True,
            use_cache=False,
        )
        return F.pad(outputs.hidden_states[-1], (0, 0, 0, segments.shape[1] - length))

    def _prepare_dataset(self, dataset: Dataset, *args: Any) -> Dataset:
        """The rows as they are: trl would look for one chosen and one rejected sequence in each."""
        return dataset

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns: Any = [field.name for field in fields(RankingRow)]


def with_weights_of(trained: nn.Module, plain: PreTrainedModel) -> RewardModel:
    """The reward model that `plain` is with the weights of `trained`, whose head for the second loss is left out."""
    weights = trained.state_dict()
    plain.load_state_dict({name: weights[name] for name in plain.state_dict()})
    return RewardModel(plain)


class RewardCallback(StageCallback):
    """Loss, accuracy and margin of the pairs; the held-out accuracy where the comparisons seen have doubled."""

    def __init__(
        self, stage: StageFolder, bar: Bar, pairs: int, heldout: Sequence[Ranking], plain: PreTrainedModel
    ) -> None:
        """pairs: those of an epoch. heldout: rankings for the learning curve. plain: a model to score them with."""
        super().__init__(stage, bar)
        self.pairs, self.plain = pairs, plain
        self.heldout = [ranking for ranking in heldout if ranking.pairs()][:CURVE_RANKINGS]
        self.seen = max((line["comparisons"] for line in stage.read_metrics()), default=0)
        self.measured: dict[str, float] = {}

    def write(self, step: int, logs: dict[str, float], model: Any) -> None:
        seen = round(logs["epoch"] * self.pairs)
        self.measured = {"comparisons": seen}
        if self.heldout and seen.bit_length() > self.seen.bit_length():
            self.measured |= self._on_heldout(model)
        self.seen = seen
        super().write(step, logs, model)

    def metrics(self, logs: dict[str, float]) -> dict[str, float]:
        of_batch = {name: logs[name] for name in ("accuracy", "margin", "mean_reward")}
        return {"loss": logs["ranking_loss"]} | of_batch | self.measured

    def shown(self, logs: dict[str, float]) -> str:
        return f"loss {logs['ranking_loss']:.4f} · pairs right {logs['accuracy']:.3f}"

    def _on_heldout(self, model: Any) -> dict[str, float]:
        scores = score_rankings(with_weights_of(model, self.plain), self.heldout, normalise=False)
        by_ranking = scores.split([len(ranking.completions) for ranking in self.heldout])
        right = [pair.right for pair in judge_pairs(self.heldout, [each.tolist() for each in by_ranking])]
        return {"heldout_accuracy": sum(right) / len(right), "heldout_pairs": len(right)}

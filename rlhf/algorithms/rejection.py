"""Rejection sampling: fine-tune the SFT model on its own best responses of n by the reward.

As in Llama 2 (Touvron et al., arXiv 2307.09288) and RAFT (Dong et al., arXiv 2304.06767): the SFT model writes n
responses to a training prompt, the reward chooses one, and what supervised fine-tuning does with the text's own replies
it now does with the chosen ones. It distils best-of-n into a model, and can give no more than that.
"""

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from trl import SFTConfig

from data.console import UserError, is_main_process, wait_for_everyone
from data.jsonl import read_jsonl, write_jsonl
from data.run.folder import open_stage
from data.run.progress import progress_bar
from pretrain.machine import process_state
from rlhf.algorithms.budget import token_budget
from rlhf.algorithms.config import BudgetOptions, like_ppo
from rlhf.algorithms.offline import OfflineOptions, OfflineRun
from rlhf.algorithms.task import AlignmentTask, rules_of
from rlhf.ppo.prompts import PromptOrder
from rlhf.ppo.rewards.rules import Scorer
from sft.models.loading import load_causal_lm, quiet
from sft.pairs import Example, training_order
from sft.trainer import exact_trainer

NAMES = {"loss": "loss", "mean_token_accuracy": "accuracy"}
"""The metrics that are written, by TRL's names."""
SAMPLED_AT_ONCE = 320
"""Responses, at most."""
FIRST_DRAW = 1000
"""The number of the first random stream; held-out prompts have others."""


@dataclass(kw_only=True)
class RejectionConfig(OfflineOptions, BudgetOptions):
    """Rejection sampling: fine-tune the SFT model on the best of n responses to each of many prompts."""

    algorithm: str = "rejection"
    """Name of the algorithm. Each has settings of its own: `PRESET --algorithm NAME --help` shows them."""
    n: int = 8
    """Responses sampled to a prompt, of which one is kept: more are better ones, to fewer prompts."""
    epochs: int = 2
    """Passes over the kept responses."""

    def check(self, processes: int = 1) -> None:
        OfflineOptions.check(self, processes)
        BudgetOptions.check(self)
        if self.n < 2:
            raise UserError(f"n must be at least 2, of which one is chosen, but is {self.n}")


class Chosen(NamedTuple):
    """The best response to a prompt, as the token ids that were sampled; one that did not stop has no end token."""

    prompt: str
    response: str
    prompt_ids: list[int]
    response_ids: list[int]
    score: float
    """Score after the rules, by which the response was chosen."""
    mean_score: float
    """Mean score of all n responses."""
    sampled_tokens: int
    """Tokens of all n responses."""


def choose(task: AlignmentTask, scorer: Scorer, config: RejectionConfig, budget: int) -> list[Chosen]:
    """The best of n responses to one prompt after the other, in PPO's order, while `budget` surely lasts for n more."""
    at_most = config.n * config.response_length
    order, found, left, draw = PromptOrder(task.prompts, config.seed), list[Chosen](), budget, FIRST_DRAW
    with progress_bar("sample", budget) as bar:
        while left >= at_most:
            prompts = order.take(max(1, min(SAMPLED_AT_ONCE // config.n, left // at_most)))
            rows = [prompt for prompt in prompts for _ in range(config.n)]
            replies = task.replies_to(rows).sample(task.sft_model, draw, config.temperature)
            scores = scorer(rows, replies.ids).scores.tolist()
            for i in range(0, len(rows), config.n):
                group = range(i, i + config.n)
                best = max(group, key=scores.__getitem__)
                found.append(
                    Chosen(
                        prompt=rows[i].text or "",
                        response=replies.texts[best],
                        prompt_ids=list(rows[i]),
                        response_ids=replies.ids[best],
                        score=scores[best],
                        mean_score=fmean(scores[j] for j in group),
                        sampled_tokens=sum(len(replies.ids[j]) for j in group),
                    )
                )
            spent = sum(len(ids) for ids in replies.ids)
            left, draw = left - spent, draw + 1
            bar.advance(spent, f"score {fmean(each.score for each in found):+.2f}")
    return found


def chosen_once(path: Path, task: AlignmentTask, scorer: Scorer, config: RejectionConfig, budget: int) -> list[Chosen]:
    """`choose`, by the main process, or what an earlier process left in the file."""
    if is_main_process() and not path.exists():
        write_jsonl(path, (each._asdict() for each in choose(task, scorer, config, budget)))
    wait_for_everyone()
    return [Chosen(**row) for row in read_jsonl(path, {"prompt_ids": list[int], "response_ids": list[int]})]


def fine_tune_on_the_best(config: RejectionConfig, preset: str) -> Path:
    """Sample, choose, fine-tune, and leave the aligned model in RUN/rlhf-rejection; returns that folder."""
    task = AlignmentTask(config)
    config.check(process_state(task.device).num_processes)
    budget = token_budget(config, task.sft)
    if budget < config.n * config.response_length:
        raise UserError(
            f"{budget} tokens do not last for {config.n} responses of {config.response_length}: lower n or give a "
            "higher --token-budget"
        )
    judge = task.judge(task.heldout, rules_of(config))
    name, command = config.folder_name, config.command
    with quiet(), open_stage(name, config, preset=preset, command=command, parent=task.sft) as stage:
        stage.config |= task.settings | {"token_budget": budget}
        stage.announce(
            f"{len(task.prompts)} prompts · {budget:,} sampled tokens, {config.n} responses per prompt · reward "
            f"{config.reward} · prompt {config.prompt_length} + response {config.response_length} tokens (from sft) on "
            f"{task.device}"
        )
        chosen = chosen_once(stage.path / "chosen.jsonl", task, judge.scorer, config, budget)
        stage.save_seconds()
        run = OfflineRun(config, task, judge, stage, len(chosen))
        examples = [Example(each.prompt_ids, each.response_ids) for each in chosen]
        order = training_order([len(example.ids) for example in examples], config)
        model: Any = load_causal_lm(config.run / "sft", task.device, dropout=0.0)
        arguments = SFTConfig(**run.arguments())
        run.learn(exact_trainer(model, arguments, [examples[index] for index in order], config.run / "sft"), NAMES)
        stage.results |= {
            "chosen": len(chosen),
            "chosen_score": round(fmean(each.score for each in chosen), 5),
            "sampled_score": round(fmean(each.mean_score for each in chosen), 5),
            "learning_tokens": sum(each.sampled_tokens for each in chosen),
        }
    return stage.final


def like_ppos(preset: str, **changes: Any) -> tuple[str, RejectionConfig]:
    """PPO's preset where the reward, its rules and the look at held-out prompts are concerned."""
    shared = ("missing_eos_rule", "missing_eos_penalty", "score_clip", "temperature", "eval_prompts")
    description, ppo = like_ppo(preset, BudgetOptions)
    return description, RejectionConfig(**{name: getattr(ppo, name) for name in shared} | changes)


PRESETS = {
    "smoke": like_ppos("smoke", n=2, batch_size=4, micro_batch_size=2, log_every=1, eval_every=2, save_every=2),
    "laptop": like_ppos("laptop", learning_rate=5e-4, eval_every=10),
    "gpu": like_ppos("gpu", n=16, batch_size=64, micro_batch_size=64, learning_rate=1e-4),
}

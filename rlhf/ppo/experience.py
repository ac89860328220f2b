"""From prompts to episodes: responses are sampled, scored, and read by policy, reference and value model."""

import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import torch
from accelerate.utils import gather_object
from torch import Tensor

from data.console import UserError
from pretrain.machine import OwnPrecision, full_precision_matmul
from pretrain.sampling import generate
from rlhf.ppo.config import PPOConfig
from rlhf.ppo.networks import ValueModel
from rlhf.ppo.placement.sharding import Lockstep
from rlhf.ppo.prompts import Prompt
from rlhf.ppo.rewards.reference import ReferenceScores
from rlhf.ppo.rewards.rules import Scored, Scorer
from rlhf.ppo.rollout import Episode
from sft.models.batch import micro_batches
from sft.models.forward import LogProbs

T = TypeVar("T")


def _in_words(failure: Exception, process: int) -> str:
    """In one line, for the other processes."""
    if isinstance(failure, UserError):
        return str(failure)
    text = " ".join(str(failure).split())
    return f"process {process} failed ({type(failure).__name__}{': ' + text if text else ''}): see its traceback"


class Experience:
    """Makes this process's episodes; see `__call__`. The models are those of the trainer, as they are at each call."""

    def __init__(
        self,
        config: PPOConfig,
        accelerator: OwnPrecision,
        policy: LogProbs,
        reference: LogProbs,
        value: ValueModel,
        scorer: Scorer,
        lockstep: Lockstep,
    ) -> None:
        self.config, self.accelerator, self.scorer, self.lockstep = config, accelerator, scorer, lockstep
        self.policy, self.reference, self.value = policy, reference, value
        self.failed = False
        """Whether the last `of_all` failed: then every process has raised an error."""
        self.reference_scores: ReferenceScores | None = None
        if config.score_transform == "sigmoid":
            reply = partial(self.sample, reference)
            count, length = config.reference_replies, config.response_length
            self.reference_scores = ReferenceScores(reply, self.raw_scores, count, length, config.seed)

    def __call__(self, prompts: Sequence[Prompt], noise: Tensor, seconds: dict[str, float]) -> list[Episode]:
        """An episode of each prompt.

        noise: (B, `response_length`) in [0, 1), decides what is sampled. seconds: gets what this took.
        """
        clock = time.perf_counter()
        responses = self.sample(self.policy, prompts, noise)
        seconds["time/rollout"] = time.perf_counter() - clock
        clock = time.perf_counter()
        baselines = None if self.reference_scores is None else self.reference_scores(prompts)
        episodes = self.read(prompts, responses, self.raw_scores(prompts, responses), baselines)
        seconds["time/scoring"] = time.perf_counter() - clock
        return episodes

    def of_all(self, make: Callable[[], Sequence[T]]) -> list[T]:
        """What all processes make, each its own part, in their order. Where it fails in one, it fails in all.

        None waits for another that is gone. Every process must call it.
        """
        failure: Exception | None = None
        made: Sequence[T] = []
        try:
            with self.lockstep:
                made = make()
        except Exception as error:  # a reward function's own, of any kind
            failure = error
            if self.accelerator.num_processes > 1 and not isinstance(error, UserError):
                traceback.print_exception(error)  # now: the launcher ends all when another has ended
        said = gather_object([failure and _in_words(failure, self.accelerator.process_index)])
        failed = [each for each in said if each is not None]
        self.failed = bool(failed)
        if failure is not None:
            raise failure
        if failed:
            raise UserError(failed[0])
        return gather_object([*made])

    def sample(self, model: LogProbs, prompts: Sequence[Prompt], noise: Tensor) -> list[list[int]]:
        """A model's responses, of the whole distribution at the training temperature.

        No top-k, no top-p, no minimum length, or the KL would be measured on another distribution than was sampled.
        """
        cuda = self.accelerator.device.type == "cuda"
        context = (
            self.accelerator.autocast(cache=self.config.gather_for_generation) if cuda else full_precision_matmul()
        )
        dtype = torch.bfloat16 if self.accelerator.bf16 else torch.float32
        with self.lockstep.sampler(model, dtype) as cached, context:
            return generate(
                cached,
                prompts,
                max_new_tokens=self.config.response_length,
                temperature=self.config.temperature,
                stop_ids=self.scorer.stop_ids,
                ends=self.scorer.stop_strings,
                noise=noise,
            )

    def raw_scores(self, prompts: Sequence[Prompt], responses: Sequence[Sequence[int]]) -> Tensor:
        """Scores (B,) as the reward gives them."""
        with self.accelerator.autocast():
            return self.scorer.raw(prompts, responses)

    @torch.no_grad()
    def read(
        self,
        prompts: Sequence[Prompt],
        responses: list[list[int]],
        scores: Tensor,
        baselines: Sequence[float] | None = None,
    ) -> list[Episode]:
        """What the policy, the reference and the value model say of responses.

        scores: (B,), as the reward gives them; baselines: see `Episode`. By the same forward pass as in training, not
        from the sampler's cache: so the first ratio is 1.
        """
        found: dict[int, tuple[Tensor, ...]] = {}
        rows_each, device = self.config.micro_rows(self.accelerator.num_processes), self.accelerator.device
        for rows, batch in micro_batches(prompts, responses, range(len(prompts)), rows_each, device):
            with self.accelerator.autocast(cache=self.config.shard is None):
                flat = (
                    *self.policy(batch, self.config.temperature),
                    self.reference(batch, self.config.temperature)[0],
                    self.value(batch),
                )
            lengths = [len(response) for response in batch.responses]
            parts = zip(*(tokens.cpu().split(lengths) for tokens in flat), strict=True)
            found |= zip(rows, parts, strict=True)
        measured: Sequence[float | None] = [None] * len(prompts) if baselines is None else baselines
        texts = zip(prompts, responses, scores.tolist(), measured, strict=True)
        return [Episode(*sampled, *found[i]) for i, sampled in enumerate(texts)]

    def apply_rules(self, episodes: Sequence[Episode]) -> Scored:
        """What episodes, those of all processes, are worth after the rules on scores."""
        device = self.accelerator.device
        raw = torch.tensor([episode.score for episode in episodes], device=device)
        baseline = None
        if self.reference_scores is not None:
            baseline = torch.tensor([episode.baseline for episode in episodes], device=device)
        return self.scorer.apply_rules(raw, [episode.response for episode in episodes], baseline)

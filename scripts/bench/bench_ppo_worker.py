"""One side of `bench_ppo.py`: some updates of PPO on a given work, and where their time and memory went.

    python scripts/bench/bench_ppo_worker.py ours|trl WORK.json RESULT.json

`trl` runs in the environment that has TRL's PPOTrainer, and needs nothing of this project. The first update is not
counted: it fills caches.
"""

import itertools
import json
import os
import re
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers


@dataclass
class Work:
    """What both sides do."""

    policy: str
    """Folder of the policy with its tokenizer; the reference is a copy."""
    reward: str
    """Folder of the reward model; the value model starts from it too."""
    prompts: list[list[int]]
    config: dict[str, Any]
    """Fields of our PPOConfig."""
    updates: int
    """That are counted."""
    threads: int


@dataclass
class Measured:
    """Seconds of every counted update and of its parts, and what it took."""

    seconds: list[float] = field(default_factory=list)
    rollout: list[float] = field(default_factory=list)
    scoring: list[float] = field(default_factory=list)
    update: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    """Of the responses, stop tokens included."""
    peak_gib: float = 0.0
    """Resident memory of the process at its highest."""
    gpu_gib: float = 0.0
    """Memory of the GPU that tensors took at most; 0 without one."""
    versions: dict[str, str] = field(default_factory=dict)


def our_trainer(work: Work, updates: int) -> Any:
    """This project's PPOTrainer, for that many updates."""
    from rlhf import PPOConfig, PPOTrainer

    config = PPOConfig(**work.config, total_episodes=updates * work.config["batch_size"])
    return PPOTrainer(work.policy, work.reward, work.prompts, config)


def run_ours(work: Work) -> Measured:
    """This project's side."""
    trainer = our_trainer(work, work.updates + 1)
    measured = Measured()
    for update in range(work.updates + 1):
        started = time.perf_counter()
        metrics = trainer.step()
        seconds = time.perf_counter() - started
        if update:
            measured.seconds.append(seconds)
            for part in ("rollout", "scoring", "update"):
                getattr(measured, part).append(metrics[f"time/{part}"])
            measured.tokens.append(round(metrics["objective/response_length"] * work.config["batch_size"]))
    return finish(measured)


def trl_trainer(work: Work, updates: int, on_update: Callable[[Any], None]) -> Any:
    """TRL's PPOTrainer for that many updates, given as many optimizer steps as ours takes.

    on_update: called with the policy after each update; an exception of it ends the training.
    """
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    config = work.config
    tokenizer = AutoTokenizer.from_pretrained(work.policy, padding_side="left")
    stops = config.get("stop_token_ids") is None
    arguments = PPOConfig(
        output_dir=tempfile.mkdtemp(),
        total_episodes=updates * config["batch_size"],
        # Gradient accumulation would divide the optimizer steps, not the memory: the whole batch at once.
        per_device_train_batch_size=config["batch_size"],
        gradient_accumulation_steps=1,
        local_rollout_forward_batch_size=config["batch_size"],
        stop_token="eos" if stops else None,
        adam_beta2=config.get("adam_beta2", 0.999),
        adam_epsilon=config.get("adam_eps", 1e-5),
        lam=config.get("gae_lambda", 0.95),
        missing_eos_penalty=config.get("missing_eos_penalty") or None,
        **{name: config[name] for name in SAME_NAMES if name in config},
        gradient_checkpointing=False,
        num_sample_generations=0,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=config.get("cpu", False),
    )
    policy, reference = (AutoModelForCausalLM.from_pretrained(work.policy, dtype=torch.float32) for _ in range(2))
    value, reward = (
        AutoModelForSequenceClassification.from_pretrained(work.reward, num_labels=1, dtype=torch.float32)
        for _ in range(2)
    )
    # Ours normalises the score with what the reward model's configuration says; here a layer does.
    normalise = torch.nn.Linear(1, 1)
    deviation = getattr(reward.config, "reward_std", 1.0)
    torch.nn.init.constant_(normalise.weight, 1 / deviation)
    torch.nn.init.constant_(normalise.bias, -getattr(reward.config, "reward_mean", 0.0) / deviation)
    reward.score = torch.nn.Sequential(reward.score, normalise)

    class EndOfUpdate(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            on_update(policy)

    return PPOTrainer(
        arguments,
        tokenizer,
        policy,
        reference,
        reward,
        Dataset.from_dict({"input_ids": work.prompts}),
        value,
        callbacks=[EndOfUpdate()],
    )


def run_trl(work: Work) -> Measured:
    """TRL's side."""
    marks: list[tuple[str, float]] = []
    tokens: list[int] = []
    trainer = trl_trainer(work, work.updates + 1, lambda policy: marks.append(("end", time.perf_counter())))
    import trl
    from trl.experimental.ppo import ppo_trainer

    sample = ppo_trainer.batch_generation
    eos = trainer.processing_class.eos_token_id

    def timed_generation(model: Any, queries: torch.Tensor, *rest: Any) -> Any:
        marks.append(("rollout", time.perf_counter()))
        sampled = sample(model, queries, *rest)
        marks.append(("scoring", time.perf_counter()))
        responses = sampled[0][:, queries.shape[1] :]
        ends = (responses == eos).int()
        lengths = torch.where(ends.any(1), ends.argmax(1) + 1, responses.shape[1])
        tokens.append(int(lengths.sum()))
        return sampled

    ppo_trainer.batch_generation = timed_generation
    accumulate = trainer.accelerator.accumulate

    def first_step(*args: Any) -> Any:
        if marks[-1][0] == "scoring":
            marks.append(("update", time.perf_counter()))
        return accumulate(*args)

    trainer.accelerator.accumulate = first_step
    trainer.train()
    measured = parts_between(marks)
    measured.tokens = tokens[1:]
    measured.versions["trl"] = trl.__version__
    return finish(measured)


SAME_NAMES = (
    "num_ppo_epochs",
    "num_mini_batches",
    "response_length",
    "temperature",
    "learning_rate",
    "adam_beta1",
    "kl_coef",
    "gamma",
    "cliprange",
    "cliprange_value",
    "vf_coef",
    "seed",
)
"""Settings that TRL's PPOConfig calls as ours does."""


def parts_between(marks: list[tuple[str, float]]) -> Measured:
    """Seconds of the parts from the moments at which they began; an update goes from one "end" to the next."""
    measured = Measured()
    ends = [moment for name, moment in marks if name == "end"]
    measured.seconds = [later - sooner for sooner, later in itertools.pairwise(ends)]
    for (name, moment), (_, following) in itertools.pairwise(marks):
        if moment >= ends[0] and name != "end":
            getattr(measured, name).append(following - moment)
    return measured


def finish(measured: Measured) -> Measured:
    """Add what is known of the process."""
    measured.peak_gib = peak_memory() / 2**30
    if torch.cuda.is_available():
        measured.gpu_gib = torch.cuda.max_memory_allocated() / 2**30
    measured.versions |= {"torch": torch.__version__, "transformers": transformers.__version__}
    return measured


def peak_memory() -> int:
    """Bytes of resident memory at most. (`ru_maxrss` of a new process begins at its parent's, on Linux.)"""
    status = Path("/proc/self/status")
    if status.exists() and (found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main() -> None:
    side, work_file, result_file = sys.argv[1:]
    work = Work(**json.loads(Path(work_file).read_text()))
    torch.set_num_threads(work.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    measured = {"ours": run_ours, "trl": run_trl}[side](work)
    Path(result_file).write_text(json.dumps(asdict(measured)))


if __name__ == "__main__":
    main()

"""How many response tokens an algorithm may sample: as many as the run's PPO did, so that their results compare."""

from pathlib import Path

from data.console import UserError
from data.run.record import StageRecord, check_descends, read_metrics, read_parent
from rlhf.algorithms.config import BudgetOptions


def sampled_tokens(folder: Path) -> int:
    """Response tokens, stop tokens included, that an algorithm sampled while it learned: counted in its metrics."""
    lines = read_metrics(folder)
    if lines and "sampled_tokens" in lines[-1]:
        return int(lines[-1]["sampled_tokens"])
    before, tokens = 0.0, 0.0
    for line in lines:  # PPO writes how many episodes there were, and their mean length
        tokens += (line["episode"] - before) * line["objective/response_length"]
        before = line["episode"]
    return round(tokens)


def learning_tokens(folder: Path, record: StageRecord) -> int:
    """Response tokens that an algorithm took to learn: what its results say, or else what it sampled."""
    return int(record.results.get("learning_tokens", 0)) or sampled_tokens(folder)


def token_budget(config: BudgetOptions, sft: StageRecord) -> int:
    """`config.token_budget`, or what PPO sampled in RUN/rlhf, which must come from the same SFT model (UserError)."""
    if config.token_budget is not None:
        return config.token_budget
    if not (config.run / "rlhf").is_dir():
        raise UserError(
            f"there is no {config.run / 'rlhf'} whose budget to take: run `python -m rlhf PRESET --run {config.run}` "
            "(PPO) first, or give --token-budget"
        )
    check_descends(read_parent(config.run, "rlhf", tokenizer_sha256=sft.tokenizer_sha256), sft, config.run)
    return sampled_tokens(config.run / "rlhf")

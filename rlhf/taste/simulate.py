"""Rankings by a function in the place of a person: of replies of the SFT model, as the labelling page shows them."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from data.console import UserError
from data.dialogue import Pair
from data.tokenizers import Tokenizer
from pretrain.sampling import CachedModel
from reward.collect import collect_rankings
from reward.config import RewardModelConfig
from reward.rankings import Ranking

SAMPLED_AT_ONCE = 64
"""Prompts whose replies are sampled together."""


def simulated_rankings(
    policy: CachedModel,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    config: RewardModelConfig,
    score: Callable[[str, str], float],
    name: str,
    policy_name: str,
    count: int,
) -> tuple[list[Ranking], int]:
    """(`count` rankings that prefer some reply to another, how many were looked at for them).

    config: what the replies are sampled with; `resolved`. score: (prompt, reply) -> float; without noise. name: of the
    annotator. policy_name: of the model that replies. UserError where the prompts do not suffice.
    """
    config = replace(config, score=name, label_temperature=0.0)
    found: list[Ranking] = []
    looked = 0
    for start in range(0, len(prompts), SAMPLED_AT_ONCE):
        some = [Pair(prompt, "") for prompt in prompts[start : start + SAMPLED_AT_ONCE]]
        rankings = collect_rankings(policy, tokenizer, some, config, score, policy_name, config.seed + 7 * start)
        for ranking in rankings:
            looked += 1
            found += [ranking] if ranking.pairs() else []
            if len(found) == count:
                return found, looked
    raise UserError(
        f"--taste {name} prefers no reply to another in all but {len(found)} of {looked} screens of "
        f"{config.responses} replies: ask for fewer with --n-rankings, or give a taste that meets both kinds"
    )

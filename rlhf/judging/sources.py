"""Whose replies are compared, and with whose: a row here, and every table, chart and page has it."""

from dataclasses import dataclass
from typing import Final

USUAL_FOLLOWING: Final = "rule"
"""What the presets' --reward-following is."""
OTHER_FOLLOWING = {"rule": "rlhf-rule", "model": "rlhf-following"}
"""Where the policy goes that PPO made with another --reward-following than the preset's, by what it was."""


@dataclass(frozen=True)
class Source:
    """Who replies to the prompts, and how."""

    title: str
    colour: str
    """A name of `data.run.page.COLOURS`."""
    folder: str = ""
    """Stage folder of the model that is sampled; without one, the replies are the text's own."""
    draw: int = 0
    """Number of its random stream: what is sampled with another one is independent."""
    temperature: float = 1.0
    ends: bool = True
    """Whether its model ends replies by `<|endoftext|>`; else they end at the first blank line."""
    best_of: str = ""
    """Key of the source of several of whose replies the reward model chooses one; nothing else is sampled."""
    control: bool = False
    """Shown below the stages; skipped where its folder does not exist."""
    command: str | None = None
    """What makes the folder, where it is not `python -m FOLDER PRESET`."""


@dataclass(frozen=True)
class Comparison:
    """Two sources, by their keys; the wins of the first are counted."""

    first: str
    second: str
    title: str
    colour: str = "control"


SOURCES = {
    "pretrain": Source("pretrained", "pretrain", "pretrain", draw=0, ends=False),
    "sft": Source("SFT", "sft", "sft", draw=1),
    "rlhf": Source("aligned", "rlhf", "rlhf", draw=2),
    "original": Source("the original", "original"),
    "sft_again": Source("SFT, another seed", "sft", "sft", draw=3, control=True),
    "sft_t07": Source("SFT at temperature .7", "sft", "sft", draw=4, temperature=0.7, control=True),
    "best_of_4": Source("best of 4 from SFT", "sft", "sft", best_of="sft_again", control=True),
    "rlhf_gold": Source(
        "PPO on the gold judge itself",
        "control",
        "rlhf-gold",
        draw=5,
        control=True,
        command="python -m rlhf PRESET --reward gold",
    ),
    "rlhf_rule": Source(
        "PPO on the rule itself",
        "control",
        OTHER_FOLLOWING["rule"],
        draw=7,
        control=True,
        command="python -m rlhf PRESET --reward-following rule",
    ),
    "rlhf_following": Source(
        "PPO on the learned model of following",
        "control",
        OTHER_FOLLOWING["model"],
        draw=8,
        control=True,
        command="python -m rlhf PRESET --reward-following model",
    ),
}
"""Everybody in `python -m rlhf.compare`, by the key in compare.json, in the order of its tables."""

DIRECTED = ("pretrain", "sft", "rlhf", "best_of_4", "original", "rlhf_rule", "rlhf_following")
"""Whose replies are checked for what their prompt asks, by key; those whose folder does not exist are left out."""

STAGES = tuple(key for key, source in SOURCES.items() if not source.control)

COMPARISONS = {
    "rlhf_vs_sft": Comparison("rlhf", "sft", "aligned beats SFT", "rlhf"),
    "rlhf_vs_pretrain": Comparison("rlhf", "pretrain", "aligned beats pretrained", "rlhf"),
    "sft_vs_pretrain": Comparison("sft", "pretrain", "SFT beats pretrained", "sft"),
    "rlhf_vs_play": Comparison("rlhf", "original", "aligned beats the original", "original"),
    "sft_vs_play": Comparison("sft", "original", "SFT beats the original", "original"),
    "sft_vs_sft": Comparison("sft_again", "sft", "SFT beats SFT, another seed"),
    "sft_t07_vs_sft": Comparison("sft_t07", "sft", "SFT at .7 beats SFT"),
    "best_of_4_vs_sft": Comparison("best_of_4", "sft", "best of 4 beats SFT"),
    "rlhf_vs_sft_t07": Comparison("rlhf", "sft_t07", "aligned beats SFT at .7"),
    "rlhf_vs_best_of_4": Comparison("rlhf", "best_of_4", "aligned beats best of 4"),
    "rlhf_gold_vs_sft": Comparison("rlhf_gold", "sft", "PPO on gold beats SFT"),
    "rlhf_gold_vs_rlhf": Comparison("rlhf_gold", "rlhf", "PPO on gold beats aligned"),
    "rlhf_rule_vs_sft": Comparison("rlhf_rule", "sft", "PPO on the rule beats SFT"),
    "rlhf_following_vs_sft": Comparison("rlhf_following", "sft", "PPO on a model of following beats SFT"),
}
"""Who is compared with whom, by the key in `win_rates`."""

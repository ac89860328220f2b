"""`shakespeare-rlhf`: every command by a short name.

`shakespeare-rlhf` lists the commands, and `shakespeare-rlhf NAME …` runs one, as `python -m MODULE …` does.
"""

import runpy
import sys
from typing import NamedTuple

from data.console import run_command
from data.run.options import unknown
from pretrain import prepare_command


class Command(NamedTuple):
    """A module that is a command."""

    module: str
    summary: str


BASE = {
    "data": Command("data", "Describe a corpus; write its text or its dialogue pairs to files."),
    "pretrain": Command("pretrain", "Train a tokenizer and a GPT from scratch."),
    "sample": Command("pretrain.sample", "Write text with the model of any stage."),
    "evaluate": Command("pretrain.evaluate", "Measure bits per character over a whole split."),
    "attention-map": Command("pretrain.attention_map", "Draw what every attention head attends to."),
    "ladder": Command("pretrain.ladder", "Train the six models between a bigram table and a transformer."),
    "lr-range-test": Command("pretrain.lr_range_test", "Find bounds for the learning rate."),
    "cyclical-study": Command("pretrain.cyclical_study", "Compare learning-rate schedules in paired trials."),
}
ALIGNMENT = {
    "sft": Command("sft", "Fine-tune the pretrained model on pairs of prompt and reply."),
    "reward": Command("reward", "Sample replies, rank them, and train a reward model on the rankings."),
    "following": Command("reward.following", "Train a reward model of doing what a prompt asks."),
    "rlhf": Command("rlhf", "Align the SFT model: PPO, or another algorithm."),
    "compare": Command("rlhf.compare", "Compare all stages on held-out prompts and write the report."),
    "algorithms": Command("rlhf.algorithms", "Compare the algorithms of a run in one table and one plot."),
    "pipeline": Command("rlhf.pipeline", "Run all stages in sequence."),
    "directions": Command("rlhf.directions", "Measure which stage does what a prompt asks."),
    "taste": Command("rlhf.taste", "Align a model with a few rankings, next to the run's own."),
    "gold": Command("reward.gold", "Score real replies and degenerate text with the gold judge."),
}
PAGES = {
    "label": Command("reward.label", "Rank replies by hand in the browser."),
    "play": Command("rlhf.play", "Talk to the models, vote blind and teach a taste in the browser."),
}
GROUPS = {
    "The base course": BASE,
    "Alignment (extra: rlhf)": ALIGNMENT,
    "Pages in the browser (extras: rlhf, ui)": PAGES,
}
COMMANDS = BASE | ALIGNMENT | PAGES


def listing() -> str:
    """Every command with its summary, in groups by what must be installed."""
    width = max(map(len, COMMANDS))
    lines = ["usage: shakespeare-rlhf COMMAND …"]
    for title, commands in GROUPS.items():
        lines += ["", title, *(f"  {name:<{width}}  {command.summary}" for name, command in commands.items())]
    return "\n".join(
        [*lines, "", "`shakespeare-rlhf COMMAND --help` has the options of a command; stages list their presets there."]
    )


def run() -> None:
    """List the commands, or run the one that the command line names; its module's name will do too."""
    name = next(iter(sys.argv[1:]), "--help")
    if name in ("-h", "--help"):
        print(listing())
        return
    by_module = {command.module: command for command in COMMANDS.values()}
    if (command := COMMANDS.get(name) or by_module.get(name)) is None:
        raise unknown("command", name, COMMANDS)
    prepare_command(command.module)
    sys.argv[1:] = sys.argv[2:]
    runpy.run_module(command.module, run_name="__main__", alter_sys=True)


def main() -> None:
    """The console script."""
    run_command(run)


if __name__ == "__main__":
    main()

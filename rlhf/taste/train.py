"""From rankings to an aligned model: the reward stage and PPO again, in a folder of the taste's own."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from data.console import UserError, is_main_process, main_process_first
from data.dialogue import heldout_pairs
from data.jsonl import read_texts, write_whole
from data.run.folder import announce, run_corpus
from data.run.options import StageOptions, settings
from data.run.record import StageRecord, check_descends, read_parent, read_stage
from data.tokenizers import Tokenizer
from pretrain.machine import choose_device
from reward.rankings import write_rankings
from reward.screens import policy_name, screen_prompts
from reward.tastes import load_taste
from reward.train import own_rankings, train_reward
from rlhf.algorithms.ppo import Departure, align
from rlhf.algorithms.task import AlignmentTask
from rlhf.ppo.trainer import Metrics, PPOTrainer
from rlhf.taste.compare import TasteCompareOptions, compare_taste
from rlhf.taste.config import TasteOptions, align_config, recipe_of, reward_config
from rlhf.taste.simulate import simulated_rankings
from sft.models.loading import load_causal_lm
from sft.models.sampling import sampler

WATCH_DRAW = 9
"""Random stream of the answers to watched prompts: the same each time, so that what changes is the model."""
Config = TypeVar("Config", bound=StageOptions)


class TasteRun:
    """One taste of a run: what is there, and what is to be done.

    RUN/tastes/NAME holds `taste.json` (the settings, and the number of the round: --again and --overwrite begin another
    one), a copy of the round's rankings, and the stages. Which round a stage is of, its record says.
    """

    def __init__(self, options: TasteOptions) -> None:
        options.check()
        self.sft = read_parent(options.run, "sft")
        self.preset, self.recipe = recipe_of(self.sft.preset)
        self.folder, self.path, self.stop = options.folder, options.folder / "taste.json", options.folder / "stop"
        if not options.resume:
            self._check_craft(options)
        check = Tokenizer.load(options.run / "sft").check
        self.watched = (
            [row["prompt"] for row in read_texts(options.watch, "prompt", check=check)] if options.watch else []
        )
        with main_process_first():
            self.options, self.round = (
                self._begun(options) if is_main_process() and not options.resume else self._read(options)
            )

    def make(self) -> Path:
        """Whatever this round lacks of reward and rlhf; returns the folder of the taste."""
        options = self.options
        rankings = sorted(self._inputs(self.round).iterdir())
        config = reward_config(options, self.preset, rankings)
        if not self._made("reward", lambda record: record.config["rankings"] == list(config.rankings)):
            train_reward(self._continued(config, "reward"), self.preset, options.command)
        taste = read_stage(self.folder / "reward", "reward", options.command)
        if not self._made("rlhf", lambda record: record.config["round"] == self.round):
            align(self._continued(align_config(options, self.preset), "rlhf"), self.preset, self._departure(taste))
        for earlier in set(self.folder.glob("rankings-*")) - {self._inputs(self.round)} if is_main_process() else ():
            shutil.rmtree(earlier)
        return self.folder

    # ---- what is there ----

    def _made(self, stage: str, of_this_round: Callable[[StageRecord], bool]) -> bool:
        folder = self.folder / stage
        return folder.exists() and of_this_round(read_stage(folder, stage, self.options.command))

    def _continued(self, config: Config, stage: str) -> Config:
        """Settings that continue what a killed process left of a stage, or else replace what an earlier round made."""
        partial = (self.folder / f".{stage}.partial" / "settings.json").exists()
        return replace(config, resume=partial, overwrite=not partial)

    def _read(self, options: TasteOptions) -> tuple[TasteOptions, int]:
        """(settings, round) of what was begun. UserError where nothing was, or where other settings are given."""
        if not self.path.exists():
            raise UserError(f"nothing to resume in {self.folder}: run the same command without --resume")
        begun = json.loads(self.path.read_text("utf-8"))
        saved = begun["settings"]
        given, default = (_plain(settings(each)) for each in (options, TasteOptions(name=options.name)))
        if differing := sorted(key for key in saved if given[key] not in (default[key], saved[key])):
            raise UserError(
                f"{self.folder} was begun with other settings ({', '.join(differing)}): give the same ones, or none, "
                "to resume, or --overwrite to start again"
            )
        saved |= {"rankings": tuple(map(Path, saved["rankings"])), "weights": tuple(saved["weights"])}
        return replace(options, **saved), begun["round"]

    def _begun(self, options: TasteOptions) -> tuple[TasteOptions, int]:
        """(settings, number of the round), after the rankings of the round have been laid down in the folder.

        A taste that is replaced has a new round too, so what it has stays until there is something better.
        """
        if options.again:
            read_stage(self.folder / "rlhf", "rlhf", options.command)
        elif self.folder.exists() and not options.overwrite:
            raise UserError(
                f"the taste {options.name!r} exists in {options.run}: choose another --name, or add --again to "
                "continue it, --resume if it was stopped, --overwrite to replace it"
            )
        number = json.loads(self.path.read_text("utf-8"))["round"] + 1 if self.path.exists() else 1
        laid = self.folder.with_name(f".{options.name}.rankings")
        shutil.rmtree(laid, ignore_errors=True)
        self._lay_down_rankings(options, laid)
        self.folder.mkdir(exist_ok=True)
        for partial in self.folder.glob(".*.partial"):
            shutil.rmtree(partial)
        self.stop.unlink(missing_ok=True)
        inputs = self._inputs(number)
        shutil.rmtree(inputs, ignore_errors=True)
        laid.rename(inputs)
        begun = {"round": number, "settings": _plain(settings(options))}
        write_whole(self.path, (json.dumps(begun, indent=2) + "\n").encode())
        return options, number

    def _inputs(self, number: int) -> Path:
        return self.folder / f"rankings-{number}"

    def _lay_down_rankings(self, options: TasteOptions, folder: Path) -> None:
        """The files of --rankings, numbered in their order, or what the function of --taste ranks, in a new `folder`.

        UserError, before anything is written, where nothing can be learned from them.
        """
        config = reward_config(options, self.preset, options.rankings)
        tokenizer, corpus = Tokenizer.load(options.run / "sft"), run_corpus(options.run, self.sft)
        if not options.taste:
            config.validate()
            held_out = frozenset(pair.prompt for part in heldout_pairs(corpus.validation) for pair in part)
            lengths = (self.sft.config["prompt_length"], self.sft.config["response_length"])
            own_rankings(config, lengths, tokenizer, held_out)
            folder.mkdir(parents=True)
            for number, path in enumerate(options.rankings):
                shutil.copyfile(path, folder / f"{number:04}-{path.name}")
            return
        taste = load_taste(options.taste)
        policy = sampler(load_causal_lm(options.run / "sft", choose_device(options.device)))
        rankings, looked = simulated_rankings(
            policy,
            tokenizer,
            screen_prompts(corpus, None, options.seed),
            config.resolved(self.sft, policy.context_length),
            taste.score,
            options.taste,
            policy_name(self.sft),
            options.n_rankings,
        )
        folder.mkdir(parents=True)
        write_rankings(folder / f"0000-{options.name}.jsonl", rankings)
        announce("taste", f"{len(rankings)} of {looked} screens say something about {options.taste}")

    # ---- what is maximised ----

    def _craft(self, options: TasteOptions) -> float:
        return self.recipe.craft if options.craft is None else options.craft

    def _check_craft(self, options: TasteOptions) -> None:
        """Raise UserError where the run's own reward model has a weight and is not there."""
        if not self._craft(options):
            return
        if not (options.run / "reward").exists():
            raise UserError(
                f"{options.run / 'reward'} does not exist: run `python -m reward PRESET --run {options.run}` first, or "
                "add --craft 0 for the taste alone"
            )
        record = read_parent(options.run, "reward", tokenizer_sha256=self.sft.tokenizer_sha256)
        check_descends(record, self.sft, options.run)

    def _departure(self, taste: StageRecord) -> Departure:
        """How the PPO of a taste differs from that of the run."""
        options, run = self.options, self.options.run
        reward: dict[str, tuple[Path, float]] = {"taste": (self.folder / "reward", 1.0)}
        craft = self._craft(options)
        if craft:
            reward["craft"] = (run / "reward", craft)
        return Departure(
            reward=reward,
            policy=self.folder / "rlhf" if options.again else run / "sft",
            command=options.command,
            settings={"taste_sha256": taste.weights_sha256, "craft": craft, "round": self.round},
            look=Looker(self.stop, self.watched, self.recipe.watch_every),
        )


class Looker:
    """Looks on while PPO learns: answers the watched prompts again; ends the run where a file `stop` asks for it."""

    def __init__(self, stop: Path, prompts: list[str], every: int) -> None:
        self.stop, self.prompts, self.every = stop, prompts, every
        self.answered = False

    def __call__(self, task: AlignmentTask, trainer: PPOTrainer, metrics: Metrics) -> dict[str, Any]:
        last = trainer.updates_done == trainer.config.num_updates
        if self.stop.exists():
            trainer.stop()
            last = True
        if last and "eval/gold" not in metrics:
            metrics |= task.evaluate(trainer.policy.lm)
        seen: dict[str, Any] = {}
        if self.prompts and (last or trainer.updates_done % self.every == 0):
            seen["watched"] = self._answers(task, trainer.policy.lm)
        if self.prompts and not self.answered:
            seen["watched_before"] = self._answers(task, task.sft_model)
            self.answered = True
        return seen

    def _answers(self, task: AlignmentTask, lm: Any) -> list[str]:
        return task.replies_to(task.encoded(self.prompts)).sample(lm, WATCH_DRAW).texts


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Settings as they are read back from a file."""
    plain: dict[str, Any] = json.loads(json.dumps(values, default=str))
    return plain


def make_taste(options: TasteOptions) -> Path:
    """Make RUN/tastes/NAME and its report; returns that folder."""
    run = TasteRun(options)
    folder, options = run.make(), run.options
    if options.compare:
        compare_taste(
            TasteCompareOptions(
                run=options.run,
                name=options.name,
                taste=options.taste,
                seed=options.seed,
                device=options.device,
                overwrite=True,
            )
        )
    return folder

"""What a taste is made of, and the presets: those of the run's stages, with less of everything."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data.console import UserError
from data.run.options import StageOptions, check_name, check_ranges
from reward.config import PRESETS as REWARD_PRESETS
from reward.config import RewardModelConfig
from rlhf.algorithms.config import CRAFT_ALONE, AlignConfig
from rlhf.algorithms.config import PRESETS as ALIGN_PRESETS


@dataclass(kw_only=True)
class TasteOptions(StageOptions):
    """Train a reward model on a few rankings and align the run's SFT model with it."""

    name: str
    """Name of the taste: its stages are left in RUN/tastes/NAME."""
    rankings: tuple[Path, ...] = ()
    """JSONL files of rankings, such as those that `python -m reward.label` writes."""
    weights: tuple[float, ...] = ()
    """How much a ranking of each file counts; default: all the same."""
    taste: str = ""
    """Who ranks in the place of people: a built-in taste (questions, love, cheerful, …) or module:function, called as
    function(prompt, response) -> float."""
    n_rankings: int = 20
    """Rankings that --taste gives. Those that prefer no reply to another are not counted."""
    craft: float | None = None
    """Weight of the run's own reward model next to the taste's, which has 1; 0: the taste alone."""
    kl_coef: float | None = None
    """Penalty on leaving the SFT model, score per nat; default: by the preset."""
    episodes: int | None = None
    """Replies that PPO learns from; default: by the preset, and more of them in company with craft."""
    watch: Path | None = None
    """JSONL of {"prompt"}: prompts that are answered again every few updates, for whoever looks on."""
    again: bool = False
    """Continue from the taste's present policy, with the rankings as they are now."""
    compare: bool = True
    """Compare the taste with the SFT model at the end, and write the report."""

    @property
    def folder(self) -> Path:
        return self.run / "tastes" / self.name

    @property
    def command(self) -> str:
        """What makes the taste's stages, but for the run."""
        given = f"--taste {self.taste}" if self.taste else "--rankings FILE"
        return f"python -m rlhf.taste --name {self.name!r} {given}"

    def check(self) -> None:
        """Raise UserError on what makes no sense."""
        check_name("--name", self.name)
        check_ranges(self, counts="n_rankings episodes", not_negative="craft kl_coef")
        if self.rankings and self.taste:
            raise UserError("--rankings and --taste exclude each other: people rank, or a function does")
        if self.taste and self.weights:
            raise UserError("--weights are those of the files of --rankings: leave them out with --taste")
        if self.overwrite and (self.again or self.resume):
            raise UserError("--overwrite starts from nothing: leave out --again and --resume")
        if not (self.rankings or self.taste or self.resume):
            raise UserError(
                "there is nothing to learn from: give --rankings FILE, or --taste NAME, which ranks by itself"
            )


@dataclass(frozen=True)
class Recipe:
    """What a taste takes in the place of the settings of a preset."""

    heldout: int
    """Held-out prompts whose SFT replies give the scale of the taste's scores."""
    episodes: int
    """Replies that PPO learns from with the taste alone, which is soon learned."""
    craft_episodes: int
    """Replies that PPO learns from in company with craft."""
    watch_every: int
    """Updates between two answers to the watched prompts."""
    craft: float
    """Weight of the run's own reward model; measured in docs/tastes.md."""


RECIPES = {
    "smoke": Recipe(heldout=8, episodes=64, craft_episodes=64, watch_every=1, craft=1.5),
    "laptop": Recipe(heldout=64, episodes=4096, craft_episodes=4608, watch_every=4, craft=1.5),
    "gpu": Recipe(heldout=128, episodes=25_600, craft_episodes=28_800, watch_every=4, craft=1.5),
}


def recipe_of(preset: str) -> tuple[str, Recipe]:
    """(preset, recipe) for a run whose SFT stage was made by `preset`; laptop's for one that knows no tastes."""
    name = preset if preset in RECIPES else "laptop"
    return name, RECIPES[name]


def reward_config(options: TasteOptions, preset: str, rankings: Sequence[Path]) -> RewardModelConfig:
    """The settings of the taste's reward stage."""
    name, recipe = recipe_of(preset)
    return replace(
        REWARD_PRESETS[name][1],
        run=options.run,
        into=options.folder,
        seed=options.seed,
        device=options.device,
        rankings=tuple(map(str, rankings)),
        weights=options.weights,
        n_heldout=recipe.heldout,
        include_play=False,
        log_every=1,  # there are few steps, and somebody looks on
    )


def align_config(options: TasteOptions, preset: str) -> AlignConfig:
    """The settings of the taste's PPO."""
    name, recipe = recipe_of(preset)
    config = CRAFT_ALONE.get(name, ALIGN_PRESETS[name][1])
    craft = recipe.craft if options.craft is None else options.craft
    episodes = recipe.craft_episodes if craft else recipe.episodes
    return replace(
        config,
        run=options.run,
        into=options.folder,
        seed=options.seed,
        device=options.device,
        reward="taste",
        reward_following="none",
        total_episodes=options.episodes or episodes,
        kl_coef=config.kl_coef if options.kl_coef is None else options.kl_coef,
        eval_every=10**6,  # the first and last look are enough
    )

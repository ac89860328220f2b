"""What the second reward model is made of, and the presets."""

from dataclasses import dataclass

from data.run.options import check_ranges
from reward.config import RankingOptions


@dataclass(kw_only=True)
class FollowingConfig(RankingOptions):
    """Train a reward model on rankings in which the replies that follow the prompt's directions stand first."""

    n_play: int = 2400
    """Rankings of replies that need no sampling: the play's own, in part and changed."""
    of_play: int = 8
    """Replies in each of them; every other ranking is of the same replies as the one before, under other directions."""
    n_prompts: int = 0
    """Training prompts whose sampled replies are ranked too; those whose replies say nothing are left out."""
    n_heldout: int = 160
    """Held-out prompts with replies of the SFT model, and as many with replies of the play, to judge the model on."""

    batch_size: int = 4
    """Rankings per optimizer step, over all processes; from few at a time the model learns most per reply."""
    epochs: int | None = 1
    """Passes over the rankings; None: what their number asks for, which may divide the batch too."""
    mean_loss_coef: float = 0.0
    """Weight of a second loss, by a score that is the mean over a response's tokens instead of read at its last."""
    beginnings_coef: float = 4.0
    """Weight of a loss on every beginning of a reply, of which the rule says, too, whether it follows."""
    short_prompt: int = 16
    """Tokens that most prompts of these rankings are cut to, at their beginning: less to read, the same lesson."""

    @property
    def labelling(self) -> tuple[str, float]:
        return "directions", 0.0

    def validate(self) -> None:
        """Raise UserError for a configuration that cannot be run."""
        self.check()
        check_ranges(self, counts="n_play short_prompt", not_negative="n_prompts beginnings_coef")
        self.check_least(n_heldout=8, of_play=2)


PRESETS: dict[str, tuple[str, FollowingConfig]] = {
    "smoke": (
        "seconds: what the tests drive",
        FollowingConfig(n_play=48, of_play=6, n_heldout=16, batch_size=8, log_every=2, save_every=3),
    ),
    "laptop": (
        "2 CPU cores, under a minute",
        FollowingConfig(learning_rate=2e-3),
    ),
    "gpu": (
        "one GPU, bf16",
        FollowingConfig(
            n_play=8000,
            batch_size=16,
            rankings_per_forward=32,
            learning_rate=3e-4,
            precision="bf16",
            sample_batch_size=1024,
        ),
    ),
}

"""How craft and doing as told make one score."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Combination = Literal["sum", "product"]


@dataclass(frozen=True)
class Balance:
    """How craft and doing as told make one score.

    Both are normalised: craft has mean 0 and deviation 1 on the SFT model's replies, and following is in [0, 1].
    """

    combine: Combination
    """sum: weight · following + min(craft, cap); product: weight · following · sigmoid(craft)."""
    weight: float
    craft_weight: float
    """Of craft where nothing is asked."""
    cap: float
    """Craft beyond this earns nothing where something is asked."""
    short_coef: float
    """Price of a reply shorter than `short_tokens`, for each factor e."""
    short_tokens: float

    @classmethod
    def of(cls, settings: Mapping[str, Any], usual_tokens: float) -> "Balance":
        """What the settings of an alignment stage make of both, where SFT's replies have that mean length."""
        return cls(
            combine=settings["combine"],
            weight=settings["following_weight"],
            craft_weight=settings["craft_weight"],
            cap=settings["craft_cap"],
            short_coef=settings["short_coef"],
            short_tokens=settings["short_below"] * usual_tokens,
        )

    def scores(self, craft: Tensor, followed: Tensor, asked: Tensor, lengths: Tensor) -> Tensor:
        """(B,) of replies with this craft and following; `asked` says whether anything was asked. All (B,)."""
        told = craft.clamp(max=self.cap) + self.weight * followed
        if self.combine == "product":
            told = self.weight * followed * craft.sigmoid()
        short = self.short_coef * (lengths / self.short_tokens).log().clamp(max=0)
        return torch.where(asked, told, self.craft_weight * craft) + short

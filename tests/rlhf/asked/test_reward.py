"""The reward of directed prompts, against values worked out by hand."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from data.directions.headings import directions_of
from data.directions.table import SPECS
from data.tokenizers import Tokenizer, character_tokenizer
from rlhf.asked.balance import Balance
from rlhf.asked.reward import AsDirected, Rule
from rlhf.ppo.prompts import Prompt
from rlhf.ppo.rewards.base import PolicyTokens

BALANCE = Balance(combine="sum", weight=6.0, craft_weight=2.0, cap=0.5, short_coef=3.0, short_tokens=20.0)
ASKED = "JULIET:\nHast thou the letter?\n\nROMEO, asking, in two lines:\n"
PLAIN = "JULIET:\nHast thou the letter?\n\nROMEO:\n"


def values(combine: Any, craft: float, followed: float, asked: bool, length: float) -> float:
    balance = Balance(combine, *[getattr(BALANCE, name) for name in list(Balance.__dataclass_fields__)[1:]])
    tensors = (torch.tensor([craft]), torch.tensor([followed]), torch.tensor([asked]), torch.tensor([length]))
    return balance.scores(*tensors).item()


def test_the_sum_by_hand() -> None:
    assert values("sum", 0.2, 1.0, True, 30) == pytest.approx(6.2)
    assert values("sum", 2.0, 0.5, True, 30) == pytest.approx(3.5)  # craft beyond the cap earns nothing
    assert values("sum", -1.0, 1.0, True, 30) == pytest.approx(5.0)
    assert values("sum", 2.0, 1.0, False, 30) == pytest.approx(4.0)  # nothing is asked: craft alone, with its weight


def test_the_product_by_hand() -> None:
    assert values("product", 0.0, 1.0, True, 30) == pytest.approx(3.0)
    assert values("product", 3.0, 0.0, True, 30) == 0.0
    assert values("product", 2.0, 1.0, False, 30) == pytest.approx(4.0)


def test_brevity_has_a_price_and_length_none() -> None:
    assert values("sum", 0.0, 1.0, True, 10) == pytest.approx(6 - 3 * math.log(2))
    assert values("sum", 0.0, 0.0, False, 10) == pytest.approx(-3 * math.log(2))
    assert values("sum", 0.0, 1.0, True, 20) == values("sum", 0.0, 1.0, True, 80) == pytest.approx(6)


class Looking:
    """A craft that keeps what it was asked about."""

    def __init__(self) -> None:
        self.prompts: list[Any] = []

    def __call__(self, prompts: list[str], responses: list[str]) -> list[float]:
        self.prompts += prompts
        return [1.0] * len(prompts)


@pytest.fixture
def tokenizer() -> Tokenizer:
    return character_tokenizer(f"{ASKED}{PLAIN}What is thy will, my lord?\nSpeak, Ay.")


def reward_of(tokenizer: Tokenizer, craft: Any) -> AsDirected:
    reward = AsDirected(craft, Rule(SPECS, tokenizer), BALANCE, SPECS, tokenizer, 48)
    tokens = PolicyTokens(HfTokenizer(tokenizer), tokenizer.vocab_size, frozenset([tokenizer.eos_id]), 200)
    reward.build(tokens, 8, torch.device("cpu"))
    return reward


class HfTokenizer:
    """As much of a transformers tokenizer as reading text takes."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def decode(self, ids: Sequence[int], **options: Any) -> str:
        return self.tokenizer.decode(list(ids))


def score(reward: AsDirected, tokenizer: Tokenizer, prompt: str, text: str) -> Tensor:
    ids = [*tokenizer.encode(text), tokenizer.eos_id]
    return reward([Prompt(tokenizer.encode(prompt)[-48:], prompt)], [ids])


def test_craft_reads_the_prompt_without_its_directions(tokenizer: Tokenizer) -> None:
    looking = Looking()
    reward = reward_of(tokenizer, looking)
    followed = score(reward, tokenizer, ASKED, "What is thy will, my lord?\nSpeak, what will?")
    assert looking.prompts == [PLAIN]
    assert followed.item() == pytest.approx(6 + 0.5)
    assert reward.means == {"craft": 1.0, "following": 1.0}


def test_half_of_what_is_asked_is_half_of_the_score(tokenizer: Tokenizer) -> None:
    reward = reward_of(tokenizer, Looking())
    one_line = score(reward, tokenizer, ASKED, "What is thy will, my lord? What is it?").item()
    nearly = [each.nearly("What is thy will, my lord? What is it?") for each in directions_of(ASKED, SPECS)]
    assert nearly[0] == 1
    assert 0 < nearly[1] < 1
    assert one_line == pytest.approx(6 * sum(nearly) / 2 + 0.5)


def test_a_prompt_that_asks_for_nothing_is_scored_by_craft(tokenizer: Tokenizer, tmp_path: Path) -> None:
    reward = reward_of(tokenizer, Looking())
    assert score(reward, tokenizer, PLAIN, "What is thy will, my lord? Speak.").item() == pytest.approx(2)
    assert "following" not in reward.means

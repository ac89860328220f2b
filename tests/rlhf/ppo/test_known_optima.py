"""Tasks whose best policy is known exactly: does PPO come to it?"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutput

from rlhf import PPOConfig, PPOTrainer

Build = Callable[..., PreTrainedModel]

VOCABULARY, LENGTH = 5, 3
LETTERS = "abcde"
UPDATES = 80


# ---- the closed form ----


class TableConfig(PretrainedConfig):
    model_type = "table"
    vocab_size = VOCABULARY
    hidden_size = (VOCABULARY + 1) ** (LENGTH - 1)
    num_hidden_layers = 1
    max_position_embeddings = 1 + LENGTH


class Prefix(PreTrainedModel):
    """Tells each prefix of a response by a one-hot vector of its own: a body that confuses nothing."""

    config_class = TableConfig

    def __init__(self, config: TableConfig) -> None:
        super().__init__(config)
        self.post_init()

    def forward(self, input_ids: Tensor, past_key_values: Any = None, **_: Any) -> BaseModelOutputWithPast:
        ids, new = input_ids, input_ids.shape[1]
        if past_key_values is not None:  # all that was read so far, where attention would keep its keys
            ids = past_key_values.update(ids[:, None, :, None], ids[:, None, :, None], 0)[0][:, 0, :, 0]
        number = torch.zeros_like(ids)
        for t in range(1, ids.shape[1]):  # the first token is the prompt
            number[:, t] = number[:, t - 1] * (VOCABULARY + 1) + ids[:, t] + 1
        # Only after a whole response is a number too large, and nothing is predicted there.
        one_hot = nn.functional.one_hot(number[:, -new:] % self.config.hidden_size, self.config.hidden_size)
        return BaseModelOutputWithPast(last_hidden_state=one_hot.float())


class Table(PreTrainedModel):
    """A causal language model with one free logit for every prefix and next token: it can be any policy."""

    config_class = TableConfig
    base_model_prefix = "body"

    def __init__(self, config: TableConfig) -> None:
        super().__init__(config)
        self.body = Prefix(config)
        self.head = nn.Linear(config.hidden_size, VOCABULARY, bias=False)
        self.post_init()

    def get_output_embeddings(self) -> nn.Linear:
        return self.head

    def forward(self, input_ids: Tensor, logits_to_keep: int = 0, **inputs: Any) -> CausalLMOutput:
        hidden = self.body(input_ids, **inputs).last_hidden_state
        return CausalLMOutput(logits=self.head(hidden[:, -logits_to_keep:]))


def all_responses(stop: int | None) -> list[tuple[int, ...]]:
    """Every response of at most LENGTH tokens that ends with `stop` or is as long as can be."""
    found = []
    for ids in itertools.product(range(VOCABULARY), repeat=LENGTH):
        end = ids.index(stop) + 1 if stop in ids else LENGTH
        if ids[:end] not in found:
            found.append(ids[:end])
    return found


@torch.no_grad()
def probabilities(model: Table, responses: list[tuple[int, ...]], temperature: float) -> Tensor:
    """The exact probability of every response."""
    logprobs = []
    for ids in responses:
        table = (model(torch.tensor([[0, *ids]])).logits[0].double() / temperature).log_softmax(-1)
        logprobs.append(sum(table[place, token] for place, token in enumerate(ids)))
    return torch.stack(logprobs).exp()


@dataclass
class Outcome:
    """Where PPO came to after UPDATES updates of 256 episodes, every probability exact."""

    variation_before: float
    """Total variation between the reference and the closed form."""
    variation: float
    """Total variation between the policy and the closed form."""
    kl: float
    """From the reference, nats a response."""
    best: float
    """The closed form's mean of score minus penalty."""
    last: dict[str, float]
    """The metrics of the last update."""


def learn_toy(tokenizer: Any, seed: int, stop: int | None, **changes: Any) -> Outcome:
    """PPO from a random policy with a random score for every response, under a KL penalty of beta = 0.5."""
    responses, beta = all_responses(stop), 0.5
    torch.manual_seed(seed)
    scores = torch.randn(len(responses), dtype=torch.float64)
    model = Table(TableConfig())
    nn.init.normal_(model.head.weight, std=0.7)
    settings = {"num_ppo_epochs": 2, "num_mini_batches": 4, "learning_rate": 0.05, "temperature": 1.0} | changes
    config = PPOConfig(
        total_episodes=256 * UPDATES,
        batch_size=256,
        response_length=LENGTH,
        stop_token_ids=() if stop is None else (stop,),
        kl_coef=beta,
        adam_beta2=0.95,
        seed=seed,
        cpu=True,
        **settings,
    )
    reference = probabilities(model, responses, config.temperature)
    assert reference.sum().item() == pytest.approx(1)
    optimum = reference * (scores / beta).exp()
    best = beta * optimum.sum().log().item()
    optimum /= optimum.sum()
    texts = ["".join(LETTERS[token] for token in ids if token != stop) for ids in responses]
    by_text = dict(zip(texts, scores.tolist(), strict=True))
    trainer = PPOTrainer(model, lambda _, texts: [by_text[text] for text in texts], [[0]], config, tokenizer=tokenizer)
    history = trainer.train()
    policy = probabilities(model, responses, config.temperature)
    return Outcome(
        variation_before=(reference - optimum).abs().sum().item() / 2,
        variation=(policy - optimum).abs().sum().item() / 2,
        kl=(policy * (policy / reference).log()).sum().item(),
        best=best,
        last=history[-1],
    )


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (2, 3))])
@pytest.mark.parametrize(
    ("stop", "changes"),
    [
        (None, {}),
        (4, {}),
        (4, {"temperature": 0.7, "whiten_advantages": False, "gae_lambda": 1.0}),
    ],
    ids=["fixed length", "stop token", "other settings"],
)
def test_the_kl_penalty_leads_to_the_closed_form(
    tokenizer: Any, seed: int, stop: int | None, changes: dict[str, Any]
) -> None:
    """The best policy under a KL penalty is pi ∝ pi_ref · exp(r / beta)."""
    assert len(all_responses(stop)) == (125 if stop is None else 1 + 4 + 16 + 64)
    outcome = learn_toy(tokenizer, seed, stop, **changes)
    assert outcome.variation_before > 0.4, "there must be something to learn"
    assert outcome.variation <= 0.05
    # There, score minus penalty is the same for every response.
    assert outcome.last["objective/rlhf_reward"] == pytest.approx(outcome.best, abs=0.02)
    assert outcome.last["objective/kl"] == pytest.approx(outcome.kl, abs=0.2)


@pytest.mark.parametrize("changes", [{"gamma": 0.9}, {"whiten_rewards": True}], ids=["gamma", "whitened rewards"])
def test_settings_that_lead_elsewhere(tokenizer: Any, changes: dict[str, Any]) -> None:
    """A discount values early tokens less; rewards scaled around their mean pay for length."""
    assert learn_toy(tokenizer, 2, 4, **changes).variation > 0.03


# ---- the best score ----


def test_a_bandit_finds_the_best_arm(causal_lm: Build, tokenizer: Any) -> None:
    """One token, a score for each: the policy's exact mean score comes within 2 % of the best token's."""
    scores = torch.rand(22, generator=torch.Generator().manual_seed(0))

    def pull(_: list[str], responses: list[str]) -> list[float]:
        return [scores[ord(text) - ord("a")].item() if len(text) == 1 else 0.0 for text in responses]

    config = PPOConfig(
        total_episodes=64 * 40,
        batch_size=64,
        response_length=1,
        temperature=1.0,
        learning_rate=3e-3,
        kl_coef=0.0,
        cpu=True,
    )
    trainer = PPOTrainer(causal_lm("gpt2", std=0.05), pull, ["a"], config, tokenizer=tokenizer)

    def mean_score() -> float:
        with torch.no_grad():
            return float(trainer.policy.lm(torch.tensor([[0]])).logits[0, -1].softmax(-1)[:22] @ scores)

    assert mean_score() < 0.6
    trainer.train()
    assert mean_score() >= 0.98 * scores.max().item()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gpt2", "qwen3"])
def test_copying_is_learned(causal_lm: Build, letters: Callable[..., Any], kind: str) -> None:
    """The two letters of the prompt are to be repeated and ended: the best mean score is 1.

    The prompt ends in a letter of its own, for a model with rotary positions cannot tell "ac" from "acac". The little
    KL penalty keeps the policy from settling on the first letters that pay.
    """

    def share_of_the_copy(prompts: list[str], texts: list[str]) -> list[float]:
        responses = [text.replace("<pad>", "") for text in texts]  # a token like any other: it may be sampled
        same = [sum(a == b for a, b in zip(p[:2], r, strict=False)) for p, r in zip(prompts, responses, strict=True)]
        return [count / max(2, len(response)) for count, response in zip(same, responses, strict=True)]

    config = PPOConfig(
        total_episodes=128 * 60,
        batch_size=128,
        num_ppo_epochs=2,
        num_mini_batches=4,
        response_length=4,
        temperature=1.0,
        learning_rate=3e-3,
        adam_beta2=0.95,
        kl_coef=0.05,
        missing_eos_penalty=1.0,
        cpu=True,
    )
    policy = causal_lm(kind, std=0.1, vocab_size=7, eos_token_id=5, pad_token_id=6)
    tokenizer = letters("abcdv", "<eos>", "<pad>")
    trainer = PPOTrainer(policy, share_of_the_copy, ["acv", "adv", "bcv", "bdv"], config, tokenizer=tokenizer)
    history = trainer.train()
    scores = [metrics["objective/scores"] for metrics in history]
    assert scores[0] < 0
    assert sum(scores[-5:]) / 5 >= 0.98, scores
    assert history[-1]["objective/stopped"] > 0.98

"""From what a user gives as the reward to a `Reward`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from rlhf.ppo.rewards.base import PolicyTokens, Reward, RewardRecipe
from rlhf.ppo.rewards.combine import CombinedReward, RewardEnsemble, names_of, weighted
from rlhf.ppo.rewards.function import FunctionReward
from rlhf.ppo.rewards.model import ModelReward, TranslatedReward
from sft.models.loading import check_fits, load_classifier
from sft.models.tokens import load_tokenizer, same_tokens


def build_reward(
    source: Any, policy: PolicyTokens, batch_rows: int, device: torch.device, load_on: torch.device | None = None
) -> tuple[Reward, PreTrainedModel | None]:
    """The reward, and the first sequence-classification model in it that reads the policy's tokens.

    source: a folder, hub name or model of sequence classification, a function, a recipe, a list of (reward, weight), a
        mapping from the name that each has in the log to (reward, weight), or an ensemble.
    batch_rows: sequences per forward pass of a model. load_on: where models are put for now, if not on the device that
        they will compute on; those of recipes never are. UserError on what cannot give a reward.
    """
    if isinstance(source, RewardRecipe):
        return source.build(policy, batch_rows, device)
    if isinstance(source, list | tuple | Mapping | RewardEnsemble):
        several = source.rewards if isinstance(source, RewardEnsemble) else source
        given = list(several.values() if isinstance(several, Mapping) else several)
        pairs = [(each, 1.0) for each in given] if isinstance(source, RewardEnsemble) else weighted(given)
        names = names_of(several, [part for part, _ in pairs])
        built = [build_reward(part, policy, batch_rows, device, load_on) for part, _ in pairs]
        parts = {name: (reward, weight) for name, (reward, _), (_, weight) in zip(names, built, pairs, strict=True)}
        rule = (source.rule, source.deviation_coef) if isinstance(source, RewardEnsemble) else ()
        return CombinedReward(parts, *rule), next((model for _, model in built if model is not None), None)
    is_model = isinstance(source, str | Path | nn.Module)
    if not is_model:
        return FunctionReward(source, policy, device), None
    model = load_classifier(source, load_on or device, computes_on=device)
    theirs = load_tokenizer(model, "reward model")
    fits = model.config.get_text_config().vocab_size >= policy.vocab_size
    if theirs is not None and policy.tokenizer is not None and not (fits and same_tokens(policy.tokenizer, theirs)):
        return TranslatedReward(ModelReward(model, batch_rows), theirs, policy), None
    check_fits(model, "reward model", policy.vocab_size, policy.length)
    return ModelReward(model, batch_rows), model


def models_of(reward: Any) -> list[ModelReward]:
    """The models among a reward and its parts, but for those that recipes made."""
    if isinstance(reward, CombinedReward):
        return [model for part, _ in reward.parts.values() for model in models_of(part)]
    if isinstance(reward, TranslatedReward):
        return [reward.model]
    return [reward] if isinstance(reward, ModelReward) else []

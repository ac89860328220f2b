"""One whole PPO update on tiny models of every family that people bring, with random weights and a tokenizer made here.

Each family differs in what usually goes wrong: positions (learned, rotary, offset, none), heads that scale or cap the
logits, caches, tokenizers without PAD. And the table of docs/architectures.md: a row is what a tiny model of it is.
"""

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from data.console import UserError
from data.tokenizers import build_tokenizer
from pretrain.checkpoint import save_model
from pretrain.model import GPT, GPTConfig
from pretrain.sampling import generate, sample_tokens
from rlhf.ppo.trainer import PPOConfig, PPOTrainer
from sft.models.batch import Batch
from sft.models.reading import accepted
from sft.models.sampling import Rereader, sampler
from tests.architectures import tiny_architecture

pytestmark = pytest.mark.usefixtures("one_thread")

Build = Callable[..., PreTrainedModel]
LINES = ["the miller counts his sacks at noon", "a heron waits beside the weir", "who mends the wheel when it is dark"]
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = SMALL | {"num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64}
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "llama": GROUPED,
    "qwen2": GROUPED,
    "qwen3": GROUPED,
    "mistral": GROUPED | {"sliding_window": 8},
    "gemma2": GROUPED | {"sliding_window": 8, "final_logit_softcapping": 0.5, "query_pre_attn_scalar": 8},
    "gemma3_text": GROUPED | {"sliding_window": 8, "query_pre_attn_scalar": 8},
    "gpt_neox": SMALL | {"max_position_embeddings": 64},
    "phi": SMALL | {"max_position_embeddings": 64},
    "opt": {
        "hidden_size": 32,
        "word_embed_proj_dim": 32,
        "ffn_dim": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
    },
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 64},
    "falcon": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "alibi": True},
}


def make_tokenizer(pad: bool) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of a few lines; GPT-2's has no PAD."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<|end|>", *["<|pad|>"] * pad]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    backend.train_from_iterator(LINES, trainer)
    extra = {"pad_token": "<|pad|>"} if pad else {}
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>", **extra)


TOKENIZER = make_tokenizer(pad=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_whole_update(family: str, tmp_path: Path) -> None:
    tokenizer = make_tokenizer(pad=family != "gpt2")
    ids = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = AutoConfig.for_model(family, vocab_size=len(tokenizer), **ids, **FAMILIES[family])
    torch.manual_seed(1)
    for folder, auto in (("policy", AutoModelForCausalLM), ("reward", AutoModelForSequenceClassification)):
        config.num_labels = 1
        model = auto.from_config(config)
        # Far larger weights than usual: predictions that differ plainly by position and by what was read.
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.25)
        model.save_pretrained(tmp_path / folder)
        tokenizer.save_pretrained(tmp_path / folder)
    check(tmp_path)


@pytest.mark.parametrize("family", ["modern", "gpt2"])
def test_a_whole_update_of_a_model_of_ours(family: Any, tmp_path: Path) -> None:
    """Rotary and learned positions, from the folders that the stages write."""
    tokenizer = build_tokenizer("bpe", "\n".join(LINES), 300)
    torch.manual_seed(1)
    sizes: dict[str, Any] = {
        "vocab_size": tokenizer.vocab_size,
        "context_length": 64,
        "layers": 2,
        "heads": 4,
        "width": 32,
        "feed_forward": 64,
    }
    save_model(GPT(GPTConfig(family=family, **sizes)), tokenizer, tmp_path / "policy")
    classifier = AutoModelForSequenceClassification.from_pretrained(tmp_path / "policy", num_labels=1)
    classifier.save_pretrained(tmp_path / "reward")
    for folder in ("policy", "reward"):
        tokenizer.save(tmp_path / folder)
    check(tmp_path)


def check(folder: Path) -> None:
    """PPO from texts of unlike lengths: the sampler, the forward pass and the plain model agree; and it learns."""
    config = PPOConfig(
        total_episodes=8,
        batch_size=8,
        num_ppo_epochs=2,
        num_mini_batches=2,
        response_length=12,
        temperature=1.0,
        learning_rate=1e-3,
        value_learning_rate=1e-3,
        cpu=True,
    )
    trainer = PPOTrainer(folder / "policy", folder / "reward", [*LINES, "so"], config)
    before = [p.clone() for p in trainer.policy.parameters()]
    rollout = trainer.rollout()
    # The same attention: some fused ones leave out what a model adds to it, such as Gemma's cap.
    attention = trainer.policy.lm.config._attn_implementation
    plain = AutoModelForCausalLM.from_pretrained(folder / "policy", dtype=torch.float32, attn_implementation=attention)
    for row, (prompt, response) in enumerate(zip(rollout.prompts, rollout.responses, strict=True)):
        ids = torch.tensor([[*prompt, *response]])
        with torch.no_grad():
            table = plain.eval()(input_ids=ids).logits.log_softmax(-1)[0, len(prompt) - 1 : -1]
        expected = table.gather(-1, ids[0, len(prompt) :, None]).squeeze(-1)
        torch.testing.assert_close(rollout.logprobs[row, : len(response)], expected, atol=1e-5, rtol=0)
    figures = trainer.learner.update(rollout)
    assert figures["val/first_ratio_error"] < 2e-5
    assert figures["optimizer_steps"] == 4
    assert any((a != b).any() for a, b in zip(before, trainer.policy.parameters(), strict=True))
    trainer.save(folder / "aligned")
    saved = AutoModelForCausalLM.from_pretrained(folder / "aligned")
    ours = dict(trainer.policy.lm.named_parameters())
    assert all(torch.equal(ours[name], p) for name, p in saved.named_parameters())


# ---- the table of the docs ----

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "architectures.md").read_text("utf-8")
TABLE = {
    how: re.findall("`([^`]+)`", names)
    for how, names in re.findall(r"^\| (\w[\w, ]+) \| ((?:`\S+` ?)+)\|$", PAGE, re.M)
}
QUICK = [
    *("bart", "bloom", "electra", "falcon_h1", "llama", "llama4_text", "mamba", "mbart", "minimax", "openai-gpt"),
    *("qwen3_5_text", "roberta", "rwkv", "xlm", "xlnet", "cpmant", "reformer"),
]
KINDS = [
    pytest.param(how, kind, marks=() if kind in QUICK else pytest.mark.slow, id=kind)
    for how in ("exact", "exact, slower", "refused")
    for kind in TABLE[how]
]


def test_the_table_names_all_of_transformers_causal_models() -> None:
    if f"transformers {transformers.__version__}," not in PAGE:
        pytest.skip("the table is of another version of transformers")
    assert sorted(kind for kinds in TABLE.values() for kind in kinds) == sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


@pytest.mark.parametrize(("how", "kind"), KINDS)
def test_a_row_of_the_table(how: str, kind: str) -> None:
    """Sampled, scored and learned as the plain model has it, one text at a time."""
    model: Any = tiny_architecture(kind)
    plain = copy.deepcopy(model)
    prompts = [[3, 7], [4, 5, 6, 7, 8, 9, 10], [9], [4, 4, 4, 8]]
    sizes: dict[str, Any] = {"total_episodes": 4, "batch_size": 4, "response_length": 8}
    config = PPOConfig(**sizes, stop_token_ids=(*range(20, 60),), learning_rate=1e-3, cpu=True)

    def make() -> PPOTrainer:
        return PPOTrainer(model, lambda prompts, responses: [1.0] * len(prompts), prompts, config, tokenizer=TOKENIZER)

    if how == "refused":
        with pytest.raises(UserError, match=r"^the policy \(\w+\) .*: give ") as caught:
            make()
        assert "\n" not in str(caught.value)
        return
    trainer = make()
    model = sampler(trainer.policy)
    assert isinstance(model, Rereader) == (how == "exact, slower")
    noise = torch.rand(4, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    responses = generate(model, prompts, max_new_tokens=8, noise=noise, stop_ids=config.stop_token_ids or ())
    logprobs = trainer.policy(Batch(prompts, responses))[0].split([len(response) for response in responses])
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        with torch.no_grad():
            logits = plain(input_ids=torch.tensor([[*prompt, *response]]), **accepted(plain, use_cache=False)).logits
        logits = logits[0, len(prompt) - 1 : -1]
        assert sample_tokens(logits, 1.0, None, None, None, noise[row, : len(response)]).tolist() == response
        expected = logits.log_softmax(-1).gather(-1, torch.tensor(response)[:, None])[:, 0]
        torch.testing.assert_close(logprobs[row], expected, atol=1e-4, rtol=0)
    assert trainer.step()["val/first_ratio_error"] < 1e-4


# ---- what is no policy, and no model of its role ----


def test_what_is_no_policy_is_said_in_one_line(reward_model: Build, causal_lm: Build, tmp_path: Path) -> None:
    def train(policy: Any, **rest: Any) -> None:
        PPOTrainer(policy, reward_model("gpt2"), [[1]], PPOConfig(cpu=True, stop_token_ids=(22,)), **rest)

    t5 = AutoConfig.for_model("t5", vocab_size=24, d_model=32, d_kv=16, d_ff=32, num_layers=1, num_heads=2)
    for model in (causal_lm("gpt2").transformer, reward_model("gpt2"), AutoModelForSeq2SeqLM.from_config(t5)):
        with pytest.raises(UserError, match=rf"the policy is a {type(model).__name__}: give a causal language model$"):
            train(model)
    reward_model("qwen3", tie_word_embeddings=False).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"is not a policy: weight 'lm_head.weight' of Qwen3ForCausalLM is missing"):
        train(tmp_path)
    with pytest.raises(UserError, match=r"tokenizer is a path: give the tokenizer itself"):
        train(causal_lm("gpt2"), tokenizer=tmp_path)


def test_a_language_model_is_no_reward_model_but_may_begin_a_value_model(
    causal_lm: Build, reward_model: Build, tmp_path: Path
) -> None:
    causal_lm("qwen3", num_labels=1).save_pretrained(tmp_path)
    config = PPOConfig(total_episodes=4, batch_size=4, response_length=6, cpu=True)
    with pytest.raises(UserError, match=r"is not a reward model: weight 'score.weight' of Qwen3ForSequence"):
        PPOTrainer(causal_lm("qwen3"), tmp_path, [[1, 2]], config)
    PPOTrainer(causal_lm("qwen3"), reward_model("qwen3"), [[1, 2]], config, value=tmp_path)


def test_a_pad_outside_the_vocabulary_is_never_read(causal_lm: Build, tokenizer: Any) -> None:
    """As scripts make one, `add_special_tokens`, without new rows in the model."""
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert tokenizer.pad_token_id == 24
    config = PPOConfig(total_episodes=4, batch_size=4, response_length=6, cpu=True)
    trainer = PPOTrainer(
        causal_lm("gpt2"),
        lambda prompts, responses: [float(len(response)) for response in responses],
        ["abcdef", "g"],
        config,
        tokenizer=tokenizer,
    )
    for network in (trainer.policy, trainer.reference, trainer.value):
        network.hidden_states.body = None  # the way of other families, which pads
    assert trainer.train()

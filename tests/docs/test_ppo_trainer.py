"""docs/ppo-trainer.md has every argument and setting with its default; its examples run as they stand.

So do those of docs/coming-from-others.md, which knows the settings of other trainers.
"""

import ast
import inspect
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import fields
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

from rlhf import HttpReward, PPOConfig, PPOTrainer
from sft.models.loading import load_classifier

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = "".join((DOCS / name).read_text("utf-8") for name in ("ppo-trainer.md", "coming-from-others.md"))
Build = Callable[..., PreTrainedModel]
SETTINGS = {field.name: field.default for field in fields(PPOConfig)}
ARGUMENTS = {name: p.default for name, p in [*inspect.signature(PPOTrainer.__init__).parameters.items()][1:]}

LLAMA_FACTORY = """
ppo_buffer_size ppo_epochs ppo_score_norm ppo_target ppo_whiten_rewards ref_model reward_model reward_model_type
"""
"""What LlamaFactory 0.9.5 sets for PPO (RLHFArguments), but for adapters and quantisation of the frozen models."""
OPENRLHF = """
--actor.eps_clip --actor.eps_clip_low_high --actor.entropy_coef --critic.value_clip --critic.freezing_steps
--algo.advantage.lambd --algo.advantage.gamma --algo.advantage.estimator --algo.kl.init_coef --algo.kl.target
--algo.kl.use_loss --algo.kl.estimator --rollout.batch_size --rollout.n_samples_per_prompt --rollout.max_new_tokens
--rollout.temperature --rollout.top_p --train.batch_size --train.micro_batch_size --train.max_epochs
--train.num_episodes --reward.clip_range --reward.overlong_buffer_len --reward.overlong_penalty_factor
--reward.stop_properly_penalty_coef --reward.remote_url --reward.model_name_or_path --critic.model_name_or_path
"""
"""What OpenRLHF 0.11 sets for PPO itself (train_ppo_ray), on one machine."""


def section(title: str) -> str:
    (text,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, flags=re.MULTILINE | re.DOTALL)
    return text


def defaults(rows: list[tuple[str, str]]) -> dict[str, Any]:
    return {name: inspect.Parameter.empty if value == "required" else ast.literal_eval(value) for name, value in rows}


def test_every_argument_and_setting_is_there_with_its_default() -> None:
    arguments, settings = section("Arguments").split("\nThose of `PPOConfig`")
    row = re.compile(r"^\| `(\w+)` \| `?(required|[^`|]+)`? \|", re.MULTILINE)
    assert defaults(row.findall(arguments)) == ARGUMENTS
    assert defaults(row.findall(settings)) == SETTINGS


@pytest.mark.parametrize(("trainer", "theirs"), [("LlamaFactory", LLAMA_FACTORY), ("OpenRLHF", OPENRLHF)])
def test_settings_of_other_trainers_lead_to_what_is_here(trainer: str, theirs: str) -> None:
    rows = re.findall(r"^\| (`.*?) \| (`\w+`|none) \| ", section(f"Coming from {trainer}"), flags=re.MULTILINE)
    assert len(rows) == len(re.findall(r"^\| `", section(f"Coming from {trainer}"), flags=re.MULTILINE))
    assert {new.strip("`") for _, new in rows} - {"none"} <= {*SETTINGS, *ARGUMENTS}
    assert {*theirs.split()} <= {name for old, _ in rows for name in re.findall("`([^`]+)`", old)}


@pytest.fixture
def service() -> Iterator[SimpleNamespace]:
    """A service that answers with as many scores, and the metrics, as the page's answer has."""
    asked, answered = map(json.loads, re.findall(r"^\{.*\}$", section("Rewards"), flags=re.MULTILINE))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            rows = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            found.requests.append(rows)
            content = json.dumps({name: [1] * len(rows["responses"]) for name in answered}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    found = SimpleNamespace(url=f"http://127.0.0.1:{server.server_port}", requests=[], asked=asked, answered=answered)
    yield found
    server.shutdown()
    server.server_close()


def test_the_examples_run_as_they_stand(
    causal_lm: Build,
    reward_model: Build,
    tokenizer: Any,
    service: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All of them, one after the other, on tiny models, for a few episodes, and with the service at another address."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for folder in ("openai-community/gpt2", "my/sft"):
        causal_lm("qwen3").save_pretrained(folder)
    for seed, folder in enumerate(("my/reward", "my/other-reward")):
        reward_model("qwen3", seed=seed).save_pretrained(folder)
    theirs, head = reward_model("qwen3", seed=3), torch.randn(1, 32)
    causal = causal_lm("qwen3", seed=3)
    causal.model.load_state_dict(theirs.base_model.state_dict())
    causal.save_pretrained("saves/reward")
    save_file(
        {"v_head.summary.weight": head, "v_head.summary.bias": torch.tensor([0.5])},
        "saves/reward/value_head.safetensors",
    )
    for folder in ("openai-community/gpt2", "my/sft", "my/reward", "my/other-reward", "saves/reward"):
        tokenizer.save_pretrained(folder)
    for name in ("prompts", "held-out"):
        Path(f"{name}.jsonl").write_text('{"prompt": "abc"}\n{"prompt": "d"}\n')
    Path("my_rewards.py").write_text(
        "def reward_func(queries, prompts, labels): return {'rewards': [1.0 for _ in labels]}"
    )
    few: Any = {"batch_size": 4, "response_length": 6, "cpu": True}
    monkeypatch.setattr("rlhf.PPOConfig", lambda **given: PPOConfig(**given | few | {"total_episodes": 8}))
    monkeypatch.setattr("rlhf.HttpReward", lambda url, **given: HttpReward(service.url, **given))
    names: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL):
        exec(compile(block, "ppo-trainer.md", "exec"), names)
    assert names["correct"](*[["2 + 2 =", "3 + 4 ="], [" 4", " 8"]], answer=["4", "7"]) == (
        service.answered["scores"],
        {"characters": service.answered["characters"]},
    )
    assert {frozenset(request) for request in service.requests} == {frozenset(service.asked)}
    assert {"aligned/config.json", "aligned/value/config.json", "run/best/config.json"} <= {
        str(path) for path in Path().rglob("config.json")
    }
    written = json.loads(Path("run/rollouts.jsonl").read_text("utf-8").splitlines()[0])
    assert all(f"`{name}`" in section("Watching") for name in written)
    # The reward of a value-head checkpoint is its head's value of the last token.
    ids = torch.tensor([[1, 2, 3]])
    expected = theirs.base_model(ids).last_hidden_state[0, -1] @ head[0] + 0.5
    classifier = load_classifier("reward")
    score = classifier(ids).logits[0, 0] - classifier.config.reward_mean
    torch.testing.assert_close(score, expected)

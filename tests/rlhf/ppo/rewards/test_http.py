"""A reward of a service: what is sent and understood, who is asked again, and what happens when nobody answers."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from data.console import UserError
from rlhf import HttpReward
from rlhf.ppo.prompts import columns_of, encode_prompts
from rlhf.ppo.rewards.base import PolicyTokens
from rlhf.ppo.rewards.build import build_reward
from rlhf.ppo.trainer import PPOConfig, PPOTrainer

ROWS = [{"prompt": text, "answer": text.upper()} for text in "abcde"]
RESPONSES = [[1] * length for length in range(1, 6)]


class Service:
    """Counts the letters of responses; `answers` are given instead, one per request, as (status, body)."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.headers: list[Any] = []
        self.answers: list[tuple[int, Any]] = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                service.asked.append(asked)
                service.headers.append(self.headers)
                status, body = service.answers.pop(0) if service.answers else (200, list(map(len, asked["responses"])))
                content = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *arguments: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/score"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def service() -> Iterator[Service]:
    running = Service()
    yield running
    running.stop()


@pytest.fixture
def ask(tokenizer: PreTrainedTokenizerFast) -> Callable[..., Any]:
    """`ask(reward)`: the reward as it is built, and its scores of the five responses."""

    def scores(source: HttpReward) -> tuple[Any, list[float]]:
        prompts = encode_prompts(ROWS, tokenizer, None, 24)
        policy = PolicyTokens(tokenizer, 24, frozenset([22]), 18, columns_of(prompts))
        reward, _ = build_reward(source, policy, 2, torch.device("cpu"))
        return reward, reward(prompts, RESPONSES).tolist()

    return scores


def test_a_service_gets_texts_and_columns_in_batches(service: Service, ask: Any) -> None:
    source = HttpReward(service.url, columns=["answer"], batch_size=2, headers={"Authorization": "Bearer x"})
    assert ask(source)[1] == [1, 2, 3, 4, 5]
    assert service.asked == [
        {"prompts": ["a", "b"], "responses": ["b", "bb"], "answer": ["A", "B"]},
        {"prompts": ["c", "d"], "responses": ["bbb", "bbbb"], "answer": ["C", "D"]},
        {"prompts": ["e"], "responses": ["bbbbb"], "answer": ["E"]},
    ]
    assert {headers["Authorization"] for headers in service.headers} == {"Bearer x"}
    assert "answer" not in ask(HttpReward(service.url))[0].columns
    assert service.asked[-1].keys() == {"prompts", "responses"}


def test_a_service_may_give_metrics(service: Service, ask: Any) -> None:
    service.answers = [(200, {"scores": [1, 2, 3], "long": [0, 1, 1]}), (200, {"scores": [4, 5], "long": [1, 0]})]
    reward, scores = ask(HttpReward(service.url, batch_size=3))
    assert scores == [1, 2, 3, 4, 5]
    assert reward.means == {"long": pytest.approx(0.6)}


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_service_is_asked_again(service: Service, ask: Any, status: int) -> None:
    service.answers = [(status, "busy")]
    assert ask(HttpReward(service.url, retries=1))[1] == [1, 2, 3, 4, 5]
    assert len(service.asked) == 2
    assert service.asked[0] == service.asked[1]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((200, [1, 2, 3, 4]), r"answered \[1, 2, 3, 4\] as scores for 5 responses: it must be a list of one finite"),
        ((200, [1, 2, 3, 4, "5"]), "answered .* as scores"),
        ((200, [1, 2, 3, 4, None]), "answered .* as scores"),
        ((200, b"[1, 2, 3, 4, NaN]"), "answered .*nan.* as scores"),
        ((200, b"[1, 2, 3, 4, 1e999]"), "answered .*inf.* as scores"),
        ((200, [[1, 2, 3, 4, 5]]), "answered .* as scores"),
        ((200, 3.0), "answered 3.0 as scores"),
        ((200, {"rewards": [1, 2, 3, 4, 5]}), "answered None as scores"),
        ((200, {"scores": [1, 2, 3, 4, 5], "long": [1]}), r"answered \[1\] as long for 5 responses"),
        ((200, b"<html>\nno</html>"), "answered '<html>.* as scores"),
        ((404, b"no\nsuch page"), r"answered 404 Not Found \('no.*'\): it must answer 200"),
        ((302, b""), "answered 302 Found"),
        ((503, b"later"), "answered 503"),
    ],
)
def test_what_is_no_list_of_scores_is_said_in_one_line(service: Service, ask: Any, answer: Any, message: str) -> None:
    service.answers = [answer]
    with pytest.raises(UserError, match=f"the reward at {service.url} {message}") as caught:
        ask(HttpReward(service.url, retries=0))
    assert "\n" not in str(caught.value)


def test_metrics_are_the_same_in_every_batch(service: Service, ask: Any) -> None:
    service.answers = [(200, {"scores": [1, 2, 3], "long": [0, 1, 1]}), (200, [4, 5])]
    with pytest.raises(UserError, match="answered with scores after scores, long: give the same metrics each time"):
        ask(HttpReward(service.url, batch_size=3))


def test_nobody_waits_longer_than_the_timeout(ask: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it accepts, and never answers
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        with pytest.raises(UserError, match=rf"{url} does not answer \(ReadTimeoutError\): see whether it runs"):
            ask(HttpReward(url, timeout=0.2, retries=0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"url": "localhost:8000"}, "is 'localhost:8000': give one that begins with http:// or https://"),
        ({"url": None}, "is None"),
        ({"columns": "answer"}, "columns is 'answer': give a list of names"),
        ({"columns": ["prompts"]}, "prompts and responses not among them"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"timeout": 0}, "timeout is 0"),
        ({"timeout": float("inf")}, "timeout is inf"),
        ({"retries": -1}, "retries is -1"),
    ],
)
def test_settings_that_cannot_be_used(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        HttpReward(**{"url": "http://127.0.0.1/"} | arguments)


def test_columns_that_cannot_be_sent(ask: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    prompts = encode_prompts([{"prompt": "a", "odd": {1, 2}}], tokenizer, None, 24)
    policy = PolicyTokens(tokenizer, 24, frozenset([22]), 18, columns_of(prompts))
    reward, _ = build_reward(HttpReward("http://127.0.0.1:9/", columns=["odd"]), policy, 2, torch.device("cpu"))
    with pytest.raises(UserError, match=r"the columns cannot be sent to .* as JSON .*: leave them out"):
        reward(prompts, [[1]])
    with pytest.raises(UserError, match=r'the reward at .* asks for the column "answers"'):
        ask(HttpReward("http://127.0.0.1:9/", columns=["answers"]))


def test_a_service_that_goes_down_costs_nothing_that_was_learned(
    service: Service, causal_lm: Any, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    config = PPOConfig(
        total_episodes=24, batch_size=8, response_length=4, learning_rate=1e-2, output_dir=tmp_path / "run", cpu=True
    )
    reward = HttpReward(service.url, retries=1, timeout=5)

    def end_it(trainer: PPOTrainer, metrics: dict[str, float]) -> None:
        if trainer.updates_done == 2:
            service.answers = [(503, "down")] * 2

    trainer = PPOTrainer(causal_lm("gpt2"), reward, ["ab"], config, tokenizer=tokenizer, callbacks=[end_it])
    with pytest.raises(UserError, match=r"answered 503 .*; saved in .*last_good$") as caught:
        trainer.train()
    assert "\n" not in str(caught.value)
    assert trainer.updates_done == 2
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "last_good")
    for ours, theirs in zip(trainer.policy.lm.parameters(), saved.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert len(trainer.train()) == 3, "the service is back"

"""A thousand judgements from eight clients, while the server is killed ten times."""

import http.client
import json
import random
import signal
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.tokenizers import Tokenizer
from reward.rankings import read_rankings
from tests.browser import Server

CLIENTS, EACH, KILLS = 8, 125, 10

pytestmark = pytest.mark.slow


class Client(threading.Thread):
    """Judges EACH screens; what is not confirmed is sent again until it is."""

    def __init__(self, name: str, server: Server) -> None:
        super().__init__(name=name)
        self.server, self.rng = server, random.Random(name)
        self.confirmed: list[str] = []
        self.failures = 0

    def ask(self, path: str, values: dict[str, Any] | None = None) -> Any:
        while True:
            host = f"127.0.0.1:{self.server.port}"
            connection = http.client.HTTPConnection(host, timeout=20)
            headers = {"Content-Type": "application/json", "Origin": f"http://{host}"}
            try:
                connection.request("POST" if values else "GET", path, json.dumps(values) if values else None, headers)
                response = connection.getresponse()
                answer = json.loads(response.read())
            except (OSError, http.client.HTTPException, ValueError):
                self.failures += 1
                time.sleep(0.05)
                continue
            finally:
                connection.close()
            assert response.status == 200, answer
            return answer

    def run(self) -> None:
        state = self.ask(f"/label/state?annotator={self.name}")
        for _ in range(EACH):
            order = self.rng.sample(state["order"], 4)
            said = {
                "annotator": self.name,
                "id": uuid.uuid4().hex,
                "screen": state["screen"]["id"],
                "seconds": 0.5,
                "ranking": self.rng.choice([[[index] for index in order], [order[:2], order[2:]], [[0], [3]], []]),
                "all_bad": self.rng.random() < 0.1,
            }
            state = self.ask("/label/judge", said)
            assert state["last"] == said["id"]
            self.confirmed.append(said["id"])
            if self.rng.random() < 0.1:  # the answer was lost on the way, for all the client knows
                again = self.ask("/label/judge", said | {"ranking": [], "all_bad": True})
                assert [again[key] for key in ("screen", "last", "done")] == [
                    state[key] for key in ("screen", "last", "done")
                ]


def test_none_is_lost_none_doubled_and_no_line_is_broken(
    labelled: Callable[..., Path], server: Callable[..., Server]
) -> None:
    run = labelled(150)
    serving = server("reward.label", "--run", run, "--screens", 150)
    serving.start()
    clients = [Client(f"client-{number}", serving) for number in range(CLIENTS)]
    for client in clients:
        client.start()
    rng = random.Random(0)
    for kill in range(KILLS):
        # At a random moment, but when a share of the work is done, so that all kills fall into it.
        while sum(len(client.confirmed) for client in clients) < (kill + 0.5) * CLIENTS * EACH / (KILLS + 1):
            assert any(client.is_alive() for client in clients)
            time.sleep(0.005)
        time.sleep(rng.random() * 0.05)
        assert serving.end(signal.SIGKILL) == -signal.SIGKILL
        serving.start()
    for client in clients:
        client.join(120)
        assert len(client.confirmed) == EACH
    assert sum(client.failures for client in clients) >= KILLS
    tokenizer = Tokenizer.load(run / "sft")
    for client in clients:
        file = run / "labels" / "rankings" / f"{client.name}.jsonl"
        content = file.read_bytes()
        assert content.endswith(b"\n")
        rows = [json.loads(line) for line in content.split(b"\n")[:-1]]
        assert [row["id"] for row in rows] == client.confirmed
        assert len({row["screen"] for row in rows if not row["repeat"]}) == sum(not row["repeat"] for row in rows)
        assert len(read_rankings(file, tokenizer, 24, 32).rankings) == EACH
    assert serving.end(signal.SIGINT) == 0

"""The routes of the stage, asked as a page asks them."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Route
from starlette.testclient import TestClient

from data.jsonl import append_jsonl
from reward.label import LabelOptions, open_run
from reward.ui.server import make_app
from rlhf.judging.blind import Booth
from rlhf.judging.cast import Cast, Sampling
from rlhf.judging.votes import read_votes
from rlhf.play.pages import play_routes
from rlhf.taste.teaching import Teaching

HERE = "http://127.0.0.1:8000"
TALK = {"speakers": ["MASON"], "texts": ["The lantern keeps the river."], "answerer": "WEAVER", "asked": ""}
PROMPT = "MASON:\nThe lantern keeps the river.\n\nWEAVER:\n"


class Stage:
    """A stage on a run, and a browser's view of it."""

    def __init__(self, run: Path) -> None:
        self.run, self.cast, self.teaching = run, Cast(run, "cpu"), Teaching(run)
        self.store, _ = open_run(LabelOptions(run=run))
        self.routes = play_routes(Booth(self.cast), self.teaching, self.store, "me")
        app = make_app(self.routes, host="127.0.0.1", port=8000)
        self.client = TestClient(app, base_url=HERE, headers={"Origin": HERE})

    def post(self, path: str, **values: Any) -> Any:
        response = self.client.post(path, json=values)
        assert response.status_code == 200, response.text
        return response.json()

    def refused(self, path: str, **values: Any) -> str:
        response = self.client.post(path, json=values)
        assert response.status_code == 400, response.text
        error: str = response.json()["error"]
        return error


@pytest.fixture(scope="module")
def stage(whole_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    stage = Stage(shutil.copytree(whole_run, tmp_path_factory.mktemp("stage") / "run"))
    yield stage
    stage.store.lock.release()


@pytest.fixture(scope="module")
def told(directed_maker: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A stage on a run with directions."""
    stage = Stage(shutil.copytree(directed_maker.run, tmp_path_factory.mktemp("told") / "run"))
    yield stage
    stage.store.lock.release()


@pytest.fixture(autouse=True)
def silent(stage: Stage) -> None:
    """Nobody has voted or ranked yet."""
    (stage.run / "votes.jsonl").unlink(missing_ok=True)
    for path in (stage.run / "labels/rankings").iterdir():
        path.unlink()


@pytest.mark.parametrize("path", ["/", "/blind", "/teach"])
def test_every_page_is_there_and_leads_to_the_others(stage: Stage, path: str) -> None:
    page = stage.client.get(path).text
    for other in ("/", "/blind", "/teach"):
        assert f'href="{other}"' + (' aria-current="page"' if other == path else "") in page
    for file in {part.partition('"')[0] for part in page.split('"/static/')[1:]}:
        assert stage.client.get(f"/static/{file}").status_code == 200, file


def test_all_who_can_answer_have_a_column_and_a_place_in_the_pairs(stage: Stage) -> None:
    page = stage.client.get("/").text
    assert [part.partition('"')[0] for part in page.split('data-who="')[1:]] == list(stage.cast.speakers)
    assert stage.client.get("/blind").text.count('<option value="') == 6 + 2
    assert stage.client.get("/teach").text.count("<textarea") == 3


def test_text_of_the_run_is_shown_as_text(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    evil = '"><script>alert(1)</script>\u202e'
    monkeypatch.setattr(stage.cast, "cue", lambda: dict.fromkeys(["speaker", "text", "answerer"], evil))
    page = stage.client.get("/").text
    assert "<script>alert" not in page
    assert page.count("&lt;script&gt;alert(1)") == 3


def test_replies_come_as_lines_while_they_grow(stage: Stage) -> None:
    asked = {**TALK, "whom": ["sft", "tastes/mine", "sft"], "seed": 3, "temperature": 0.5, "length": 9}
    response = stage.client.post("/play/answer", json=asked)
    events = [json.loads(line) for line in response.text.splitlines()]
    assert events == list(stage.cast.answers(PROMPT, ["sft", "tastes/mine"], Sampling(3, 0.5, length=9)))
    assert response.headers["content-security-policy"], "guarded like everything else"
    assert stage.client.post("/play/answer", json={**asked, "whom": []}).text == ""


def test_a_conversation_is_a_prompt_of_all_that_was_said(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage.cast, "answers", lambda prompt, *_: iter([{"prompt": prompt}]))
    said = {"speakers": ["A:", "B"], "texts": ["one\n\ntwo", "three"], "answerer": " A ", "asked": ""}
    event = stage.post("/play/answer", **said, whom=["sft"])
    assert event["prompt"] == "A:\none\ntwo\n\nB:\nthree\n\nA:\n"


def test_directions_can_be_chosen_where_the_run_has_some(
    stage: Stage, told: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = told.client.get("/").text
    assert page.count('<select class="asked">') == 3, "mood, lines and length"
    assert "<option>crying out</option>" in page
    assert [part.partition('"')[0] for part in page.split('data-text="')[1:]] == [
        "beginning with {}", "with the word {}", "to {}",
    ]  # fmt: skip
    assert 'class="asked"' not in stage.client.get("/").text
    monkeypatch.setattr(told.cast, "answers", lambda prompt, *_: iter([{"prompt": prompt}]))
    event = told.post("/play/answer", **TALK | {"asked": "asking, in two lines"}, whom=["sft"])
    assert event["prompt"] == PROMPT.removesuffix(":\n") + ", asking, in two lines:\n"
    for asked, said in (("asking, telling", "exclude each other"), ("with the word two words", "knows no direction")):
        error = told.refused("/play/answer", **TALK | {"asked": asked}, whom=["sft"])
        assert said in error
        assert "\n" not in error


def test_a_reply_is_judged_on_request(stage: Stage) -> None:
    ids = stage.cast.reply(PROMPT, "rlhf", Sampling(length=9))["ids"]
    found = stage.post("/play/judge", **TALK, who="rlhf", ids=ids)
    assert found == json.loads(json.dumps(stage.cast.judged(PROMPT, "rlhf", ids)))


def test_a_vote_is_told_and_kept(stage: Stage) -> None:
    assert stage.client.get("/blind/rates").json() == []
    shown = stage.post("/blind/draw", pair="sft rlhf", heldout=True)
    told = stage.post("/blind/vote", id=shown["id"], choice=0, annotator="anna")
    assert sorted(told["titles"]) == ["SFT", "aligned"]
    assert told == stage.post("/blind/vote", id=shown["id"], choice=1, annotator="anna")
    assert told["rates"] == stage.client.get("/blind/rates").json()
    [vote] = read_votes(stage.run / "votes.jsonl")
    assert (vote["id"], vote["choice"], vote["annotator"]) == (shown["id"], 0, "anna")


def test_teaching_is_refused_in_the_page_until_something_is_ranked(stage: Stage) -> None:
    wish: dict[str, Any] = {"name": "yours", "mode": "new", "annotators": [], "craft": None, "watch": []}
    assert "nothing has been ranked yet" in stage.refused("/teach/start", **wish)
    append_jsonl(stage.run / "labels/rankings/me.jsonl", {"ranking": [[0], [1]]})
    state = stage.client.get("/teach/state").json()
    assert (state["name"], state["running"], state["annotators"]) == ("", False, {"me": 1})
    assert state["tastes"] == {"mine": True}
    assert "the taste mine exists" in stage.refused("/teach/start", **wish | {"name": "mine"})
    assert "taste '../x'" in stage.refused("/teach/start", **wish | {"name": "../x"})
    assert stage.post("/teach/stop") == state
    assert sorted(path.name for path in (stage.run / "tastes").iterdir()) == ["mine"]


@pytest.mark.parametrize(
    ("path", "wrong", "said"),
    [
        ("/play/answer", {**TALK, "whom": ["nobody"]}, "nobody"),
        ("/play/answer", {**TALK, "whom": ["sft"], "texts": [" "]}, "empty"),
        ("/play/answer", {**TALK, "whom": ["sft"], "answerer": ""}, "empty"),
        ("/play/answer", {**TALK, "whom": ["sft"], "seed": -1}, "seed"),
        ("/play/answer", {**TALK, "whom": ["sft"], "texts": ["x" * 9999]}, "characters"),
        ("/play/answer", {**TALK, "whom": "sft"}, "whom"),
        ("/play/answer", TALK, "whom"),
        ("/play/judge", {**TALK, "who": "sft", "ids": [99999]}, "token ids"),
        ("/play/judge", {**TALK, "who": "sft", "ids": []}, "token ids"),
        ("/blind/draw", {"pair": "sft", "heldout": True}, "pair"),
        ("/blind/vote", {"id": "gone", "choice": 0, "annotator": "me"}, "no longer open"),
        ("/blind/vote", {"id": "gone", "choice": True, "annotator": "me"}, "choice"),
        ("/blind/vote", {"id": "gone", "choice": 0, "annotator": "../me"}, "annotator"),
        ("/teach/start", {"name": "mine"}, "mode"),
        ("/teach/start", {"name": "x", "mode": "x", "annotators": [], "craft": "1", "watch": []}, "craft"),
    ],
)
def test_what_is_wrong_with_a_request_is_said_in_one_line(stage: Stage, path: str, wrong: Any, said: str) -> None:
    error = stage.refused(path, **wrong)
    assert said in error
    assert "\n" not in error


def test_no_page_of_another_origin_can_change_anything(stage: Stage) -> None:
    posts = [route.path for route in stage.routes if isinstance(route, Route) and "POST" in (route.methods or ())]
    assert len(posts) == 9
    for path in posts:
        assert stage.client.post(path, json={}, headers={"Origin": "http://evil.example"}).status_code == 403

"""From a run to the screens of its page, and the command around it."""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from data.console import UserError
from data.corpus import Corpus
from data.dialogue import dialogue_pairs, heldout_pairs
from data.run.folder import run_corpus
from data.run.record import read_stage
from data.tokenizers import Tokenizer
from reward import label
from reward.collect import near_duplicates
from reward.label import LabelOptions, made_ahead, open_run
from reward.screens import draw_screens, screen_prompts
from reward.ui.store import Store
from tests.tiny import RunMaker


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of tiny models with pretrain and sft. Its folder labels belongs to the test that is running."""
    maker = RunMaker(tmp_path_factory.mktemp("labelled"))
    maker.language_model("pretrain", None, seed=1)
    maker.language_model("sft", "pretrain", seed=2)
    return maker.run


@pytest.fixture
def options(run: Path, tmp_path: Path) -> Iterator[LabelOptions]:
    yield LabelOptions(run=run, screens=6, browser=False)
    if (run / "labels").exists():
        (run / "labels").rename(tmp_path / "labels of the test")


@contextlib.contextmanager
def opened(options: LabelOptions) -> Iterator[tuple[Store, Iterator[dict[str, Any]]]]:
    store, screens = open_run(options)
    try:
        yield store, screens
    finally:
        store.lock.release()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_nobody_is_asked_about_what_a_stage_holds_out(run: Path) -> None:
    corpus = run_corpus(run, read_stage(run / "sft"))
    prompts = screen_prompts(corpus, None, seed=1)
    held_out = heldout_pairs(corpus.validation)
    assert not {pair.prompt for pair in (*held_out.dev, *held_out.test)} & set(prompts)
    assert sorted(prompts) == sorted({pair.prompt for pair in dialogue_pairs(corpus.train)})
    assert prompts == screen_prompts(corpus, None, seed=1) != screen_prompts(corpus, None, seed=2)


def test_own_prompts_that_are_all_held_out_are_one_line(run: Path, tmp_path: Path) -> None:
    corpus = run_corpus(run, read_stage(run / "sft"))
    held_out = heldout_pairs(corpus.validation).test[0].prompt
    own = tmp_path / "own.jsonl"
    own.write_text(json.dumps({"prompt": held_out}) + "\n")
    with pytest.raises(UserError, match="no prompt that is not held out"):
        screen_prompts(corpus, own, seed=1)
    with own.open("a") as file:
        file.write(2 * (json.dumps({"prompt": "MASON:\nWho?\n\nPILOT:\n"}) + "\n"))
    assert screen_prompts(corpus, own, seed=1) == ["MASON:\nWho?\n\nPILOT:\n"]
    with pytest.raises(UserError, match="no prompt that is not held out"):
        screen_prompts(Corpus("prose", "0", "no dialogue", "no dialogue at all"), None, seed=1)


def test_a_screen_depends_on_prompt_model_and_seed_alone(options: LabelOptions) -> None:
    with opened(options) as (_, screens):
        made = [next(screens) for _ in range(3)]
    record, tokenizer = read_stage(options.run / "sft"), Tokenizer.load(options.run / "sft")
    prompts = [screen["prompt"] for screen in made]
    backwards = list(draw_screens(options.run / "sft", record, prompts[::-1], options))
    assert backwards == made[::-1]
    options.seed = 2
    other = next(draw_screens(options.run / "sft", record, prompts[:1], options))
    assert other["completions"] != made[0]["completions"]
    assert other["id"] != made[0]["id"]
    for screen in made:
        texts = screen["completions"]
        assert 2 <= len(texts) <= 4
        assert not any(near_duplicates(a, b) for number, a in enumerate(texts) for b in texts[:number])
        assert [tokenizer.decode(ids) for ids in screen["completion_ids"]] == texts
        assert [ids[-1] == tokenizer.eos_id for ids in screen["completion_ids"]] == screen["stopped"]


def test_screens_are_ready_before_anyone_asks(options: LabelOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label, "AHEAD", 2)
    with opened(options) as (store, screens), made_ahead(store, screens):
        wait_for(lambda: len(store.screens) == 2)
        time.sleep(0.05)
        assert len(store.screens) == 2
        now = store.state({"annotator": "anna"})
        said = {"id": "0" * 32, "screen": now["screen"]["id"], "seconds": 1, "all_bad": True, "ranking": []}
        store.judge({"annotator": "anna"} | said)
        wait_for(lambda: len(store.screens) == 3)


def test_a_run_is_continued_with_other_prompts_than_it_has(options: LabelOptions) -> None:
    with opened(options) as (store, screens), made_ahead(store, screens):
        wait_for(lambda: len(store.screens) == 6)
    options.screens = 8
    with opened(options) as (store, screens), made_ahead(store, screens):
        wait_for(lambda: len(store.screens) == 8)
        prompts = [screen["prompt"] for screen in store.screens]
    assert len(set(prompts)) == 8
    everything = screen_prompts(run_corpus(options.run, read_stage(options.run / "sft")), None, seed=1)
    assert prompts == [prompt for prompt in everything if prompt in prompts]


def test_where_prompts_run_out_the_goal_is_what_there_is(options: LabelOptions, tmp_path: Path) -> None:
    options.prompts = tmp_path / "own.jsonl"
    options.prompts.write_text("".join(json.dumps({"prompt": f"MASON:\n{n}\n\nPILOT:\n"}) + "\n" for n in range(3)))
    with opened(options) as (store, screens):
        assert store.goal == 3
        next(screens)  # a prompt to which there are no two replies
        with made_ahead(store, screens):
            wait_for(lambda: store.goal == 2)


def test_what_goes_wrong_with_screens_is_said_in_the_page(tmp_path: Path) -> None:
    def failing() -> Iterator[dict[str, Any]]:
        raise UserError("the model is gone: make it again")
        yield {}

    store = Store(tmp_path, goal=3)
    with made_ahead(store, failing()):
        wait_for(lambda: bool(store.problem))
    assert store.state({"annotator": "anna"})["problem"].endswith("the model is gone: make it again")


def test_replies_of_another_model_are_not_mixed_in(options: LabelOptions) -> None:
    with opened(options) as (store, screens):
        store.add_screen(next(screens) | {"policy": "sft 0123456789ab"})
    with pytest.raises(UserError, match=r"has replies of sft 0123456789ab, and .* move that folder elsewhere"):
        open_run(options)


# ---- the command ----


def main(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["label", *map(str, arguments)])
    label.main()


def test_the_page_is_served_with_screens_and_left_unlocked(
    options: LabelOptions, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    served: list[dict[str, Any]] = []
    monkeypatch.setattr(label, "serve", lambda routes, **settings: served.append(settings | {"routes": routes}))
    for _ in range(2):
        main(monkeypatch, "--run", options.run, "--screens", 2, "--no-browser", "--port", 0)
    [settings, _] = served
    paths = {route.path for route in settings.pop("routes")}
    assert {"/", "/label/judge", "/label/undo", "/static/{name}"} <= paths
    assert settings == {"host": "127.0.0.1", "port": 0, "token": None, "open_browser": False}
    assert "2 screens" in capsys.readouterr().err


def test_export_and_delete(
    options: LabelOptions, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    rankings = options.run / "labels" / "rankings"
    rankings.mkdir(parents=True)
    (rankings / "anna.jsonl").write_bytes(b'{"id": "1"}\n{"id": "2"}\n{"id": "3')
    main(monkeypatch, "--run", options.run, "--export", "anna")
    assert capsysbinary.readouterr().out == b'{"id": "1"}\n{"id": "2"}\n'
    main(monkeypatch, "--run", options.run, "--delete", "anna")
    assert not list(rankings.iterdir())
    for action in ("--export", "--delete"):
        with pytest.raises(UserError, match="'anna' has judged nothing"):
            main(monkeypatch, "--run", options.run, action, "anna")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--annotator", "../me"], "annotator"),
        (["--export", "../me"], "annotator"),
        (["--delete", ""], "annotator"),
        (["--responses", "1"], "responses must be 2 to 9"),
        (["--responses", "10"], "responses must be 2 to 9"),
        (["--screens", "0"], "screens must be at least 1"),
        (["--temperature", "0"], "temperature must be positive"),
        (["--prompts", "none.jsonl"], "none.jsonl: cannot be read"),
    ],
)
def test_bad_options_are_one_line(
    options: LabelOptions, arguments: list[str], line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=line):
        main(monkeypatch, "--run", options.run, *arguments)


def test_a_run_without_sft_is_one_line(refused: Callable[..., str], tmp_path: Path) -> None:
    assert "python -m sft PRESET" in refused("reward.label", "--run", tmp_path)

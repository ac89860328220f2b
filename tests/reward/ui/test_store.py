"""What is said is on disk, once, and stays there: killed, undone, repeated, by several at once."""

import errno
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from data.console import UserError
from reward.screens import rankings_file
from reward.ui import store as module
from reward.ui.store import Store

REPLIES = 4


def screen(number: int, text: str = "reply") -> dict[str, Any]:
    return {
        "id": f"screen {number}",
        "prompt": f"prompt {number}",
        "completions": [f"{text} {number} {index}" for index in range(REPLIES)],
        "stopped": [True] * REPLIES,
        "policy": "sft 0123",
        "seed": 1,
        "prompt_ids": [1],
        "completion_ids": [[3, index] for index in range(REPLIES)],
    }


def opened(folder: Path, screens: int = 30) -> Store:
    store = Store(folder, goal=screens)
    for number in range(len(store.screens), screens):
        store.add_screen(screen(number))
    return store


def say(store: Store, annotator: str = "anna", number: int = 0, **changes: Any) -> dict[str, Any]:
    """Judge what is next for an annotator; `number` makes the id."""
    now = store.state({"annotator": annotator})
    values = {
        "annotator": annotator,
        "id": f"{number:032x}",
        "screen": now["screen"]["id"],
        "seconds": 1.0,
        "all_bad": False,
        "ranking": [[index] for index in now["order"]],
    }
    return store.judge(values | changes)


def lines(store: Store, annotator: str = "anna") -> list[dict[str, Any]]:
    content = rankings_file(store.folder, annotator).read_bytes()
    assert content.endswith(b"\n")
    return [json.loads(line) for line in content.split(b"\n")[:-1]]


def reopen(store: Store, screens: int = 30) -> Store:
    """As after a kill: nothing was closed, but the system takes back the lock."""
    store.lock.release()
    return opened(store.folder, screens)


def test_a_judgement_is_on_disk_before_it_is_confirmed(tmp_path: Path) -> None:
    store = opened(tmp_path)
    assert not list((tmp_path / "rankings").iterdir())
    after = say(store)
    assert (after["done"], after["goal"], after["last"]) == (1, 30, f"{0:032x}")
    assert [row["screen"] for row in lines(store)] == ["screen 0"]
    assert after["screen"]["id"] == "screen 1"
    assert sorted(after["order"]) == [0, 1, 2, 3]


def test_a_repeated_request_is_one_judgement(tmp_path: Path) -> None:
    store = opened(tmp_path)
    first = say(store, number=7)
    assert say(store, number=7) == first
    assert say(reopen(store), number=7) == first
    assert len(lines(store)) == 1


def test_a_screen_that_was_judged_in_another_tab_is_refused(tmp_path: Path) -> None:
    store = opened(tmp_path)
    say(store)
    with pytest.raises(UserError, match="judged elsewhere"):
        say(store, number=1, screen="screen 0")
    assert len(lines(store)) == 1


def test_a_store_that_was_killed_continues_where_it_was(tmp_path: Path) -> None:
    store = opened(tmp_path)
    for number in range(12):
        expected = say(store, number=number)
    assert reopen(store).state({"annotator": "anna"}) == expected


def test_half_a_line_is_no_judgement_and_is_not_glued_to_the_next(tmp_path: Path) -> None:
    store = opened(tmp_path)
    say(store, number=0)
    say(store, number=1)
    file = rankings_file(tmp_path, "anna")
    whole = file.read_bytes()
    for end in (1, 40, len(whole) // 2 - 1):  # bytes that are missing at the end
        file.write_bytes(whole[:-end])
        store = reopen(store)
        assert store.state({"annotator": "anna"})["done"] == 1
        say(store, number=1)
        assert [row["id"] for row in lines(store)] == [f"{0:032x}", f"{1:032x}"]
    screens = tmp_path / "screens.jsonl"
    screens.write_bytes(screens.read_bytes()[:-1])
    store.lock.release()
    assert len(Store(tmp_path, goal=30).screens) == 29


def test_undo_takes_back_the_last_judgement_and_shows_its_screen_as_it_was(tmp_path: Path) -> None:
    store = opened(tmp_path)
    before = store.state({"annotator": "anna"})
    after = say(store, ranking=[[2], [0, 1]])
    assert store.undo({"annotator": "anna", "id": after["last"]}) == before | {"restored": [[2], [0, 1]]}
    assert not rankings_file(tmp_path, "anna").exists()
    # The request comes again, or late: what was said since stays.
    say(store, number=1)
    assert store.undo({"annotator": "anna", "id": after["last"]})["done"] == 1
    assert len(lines(store)) == 1
    assert reopen(store).state({"annotator": "anna"})["done"] == 1


def test_undo_goes_back_over_a_screen_that_came_back(tmp_path: Path) -> None:
    store, seen = opened(tmp_path), []
    for number in range(12):
        seen.append(store.state({"annotator": "anna"}))
        say(store, number=number)
    for number in reversed(range(12)):
        restored = store.undo({"annotator": "anna", "id": f"{number:032x}"})
        del restored["restored"]
        assert restored == seen[number]


def test_a_skip_and_all_bad_count_as_done(tmp_path: Path) -> None:
    store = opened(tmp_path, 3)
    say(store, number=0, ranking=[])
    say(store, number=1, all_bad=True, ranking=[])
    done = say(store, number=2)
    assert (done["screen"], done["order"], done["done"], done["goal"]) == (None, [], 3, 3)
    assert [row["ranking"] for row in lines(store)[:2]] == [[], [[0, 1, 2, 3]]]


def test_agreement_counts_pairs_by_hand(tmp_path: Path) -> None:
    store = opened(tmp_path)
    for number in range(9):
        state = say(store, number=number, ranking=[[0], [1], [2], [3]])
    assert state["with_self"] == (0, 0)
    state = say(
        store, number=9, ranking=[[1], [0], [2, 3]]
    )  # the tenth comes back: 0-1 opposite, 2-3 tied, 4 as before
    assert state["with_self"] == (4.5, 6)
    assert state["with_others"] == (0, 0)
    state = say(store, "bert", 100, ranking=[[3], [0]])  # of the first screen one pair that anna saw the other way
    assert state["with_others"] == (0, 1)
    state = say(store, "bert", 101, ranking=[[0], [1, 2]])  # 0-1 and 0-2 as anna, 1-2 tied
    assert state["with_others"] == (2.5, 4)
    assert store.state({"annotator": "anna"})["with_others"] == (2.5, 4)
    assert state["with_self"] == (0, 0)


def test_annotators_have_files_of_their_own_that_can_be_deleted(tmp_path: Path) -> None:
    store = opened(tmp_path)
    for name in ("anna", "bert"):
        say(store, name)
    state = store.delete({"annotator": "anna"})
    assert (state["done"], state["last"], state["with_others"]) == (0, None, (0, 0))
    assert [file.name for file in (tmp_path / "rankings").iterdir()] == ["bert.jsonl"]
    assert store.delete({"annotator": "anna"}) == state
    assert reopen(store).state({"annotator": "bert"})["done"] == 1


@pytest.mark.parametrize(
    "name", ["", "..", "../anna", "a/b", "/etc/passwd", "a\\b", ".hidden", "a\0b", "a\nb", "x" * 65]
)
def test_a_name_writes_nowhere_else(name: str, tmp_path: Path) -> None:
    store = opened(tmp_path / "labels")
    for request in (store.state, store.judge, store.undo, store.delete):
        with pytest.raises(UserError, match="annotator"):
            request({"annotator": name, "id": "", "screen": "", "seconds": 0, "all_bad": False, "ranking": []})
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["labels", "lock", "rankings", "screens.jsonl"]


def test_texts_are_kept_as_they_are(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>\u202e\u2028\0\x1b[31m" + "x" * 1_000_000
    store = Store(tmp_path, goal=1)
    store.add_screen(screen(0, hostile))
    say(store, "zoë-字")
    [row] = lines(reopen(store, 1), "zoë-字")
    assert row["completions"][1] == f"{hostile} 0 1"


def test_a_full_disk_loses_nothing_and_doubles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(tmp_path)
    say(store)
    append = module.append_jsonl

    def full(written: bool) -> Any:
        def fail(path: Path, row: dict[str, Any]) -> None:
            if written:
                append(path, row)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        return fail

    for written in (False, True):
        monkeypatch.setattr(module, "append_jsonl", full(written))
        with pytest.raises(OSError, match="No space left"):
            say(store, number=1)
        monkeypatch.setattr(module, "append_jsonl", append)
    assert say(store, number=1)["done"] == 2
    assert [row["id"] for row in lines(store)] == [f"{0:032x}", f"{1:032x}"]


def test_a_second_server_is_refused_and_one_after_the_other_is_not(tmp_path: Path) -> None:
    store = opened(tmp_path)
    with pytest.raises(UserError, match="another server has"):
        Store(tmp_path, goal=3)
    reopen(store)


def test_several_at_once_lose_and_double_nothing(tmp_path: Path) -> None:
    store = opened(tmp_path, 20)

    def work(name: str) -> None:
        for number in range(20):
            say(store, name, number)
            say(store, name, number)

    names = [f"annotator {number}" for number in range(4)]
    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in names:
        assert [row["id"] for row in lines(store, name)] == [f"{number:032x}" for number in range(20)]
        assert reopen(store, 20).state({"annotator": name})["done"] == len(
            {row["screen"] for row in lines(store, name)}
        )

"""The run folder: whole or absent, its text kept in it, and its time counted over every process."""

import hashlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data.console import UserError
from data.corpus import Corpus
from data.run.folder import StageFolder, first_corpus, open_stage, run_corpus
from data.run.options import StageOptions
from data.run.record import StageRecord, read_metrics, read_parent, read_stage

WORDS = "MILLER:\nThe wheel\r stands still.\n"
TEXT = Corpus("x.txt", WORDS, hashlib.sha256(WORDS.encode()).hexdigest(), "made up", entropy_bits_per_char=1.5)


def finish(
    run: Path,
    stage: str = "pretrain",
    weights: bytes = b"weights",
    parent: StageRecord | None = None,
    corpus: Corpus | None = None,
) -> StageRecord:
    options = StageOptions(run=run, overwrite=True)
    with open_stage(stage, options, preset="smoke", parent=parent, corpus=corpus) as folder:
        (folder.path / "model.safetensors").write_bytes(weights)
        (folder.path / "tokenizer.json").write_text("{}")
    return read_stage(run / stage, stage)


def interrupt(options: StageOptions, stage: str = "pretrain", **given: object) -> StageFolder:
    """A stage that was opened and stopped."""
    with pytest.raises(KeyboardInterrupt), open_stage(stage, options, preset="smoke", **given) as folder:  # type: ignore[arg-type]
        raise KeyboardInterrupt
    return folder


def test_a_stage_is_absent_until_it_is_whole(tmp_path: Path) -> None:
    with open_stage("pretrain", StageOptions(run=tmp_path), preset="smoke") as folder:
        assert not (tmp_path / "pretrain").exists()
        with pytest.raises(UserError, match=r"unfinished.*--resume"):
            read_stage(tmp_path / "pretrain", "pretrain")
        folder.resume_path.mkdir()
        folder.results = {"loss": 1.0}
        folder.config["inherited"] = 3
    assert [path.name for path in tmp_path.iterdir()] == ["pretrain"]
    assert [path.name for path in (tmp_path / "pretrain").iterdir()] == ["stage.json"]
    record = read_stage(tmp_path / "pretrain")
    assert (record.results, record.config) == ({"loss": 1.0}, {"seed": 1, "inherited": 3})
    assert (record.preset, record.command) == ("smoke", "python -m pretrain smoke")


def test_the_line_at_the_end_says_what_came_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_stage("pretrain", StageOptions(run=tmp_path), preset="smoke") as folder:
        folder.summary = "loss 1.0"
    assert capsys.readouterr().err == f"pretrain  loss 1.0 · 0 s → {tmp_path / 'pretrain'}\n"


def test_what_cannot_be_resumed_leaves_nothing(tmp_path: Path) -> None:
    assert interrupt(StageOptions(run=tmp_path)).path.exists()
    assert not interrupt(StageOptions(run=tmp_path, overwrite=True), resumable=False).path.exists()


def test_finished_stage_needs_overwrite_and_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    first = finish(tmp_path)
    with pytest.raises(UserError, match="--overwrite"):
        interrupt(StageOptions(run=tmp_path))
    with pytest.raises(UserError, match=r"already finished: use --overwrite"):
        interrupt(StageOptions(run=tmp_path, resume=True))
    interrupt(StageOptions(run=tmp_path, overwrite=True))
    assert read_stage(tmp_path / "pretrain").weights_sha256 == first.weights_sha256
    assert finish(tmp_path, weights=b"others").weights_sha256 != first.weights_sha256


def test_unfinished_stage_needs_resume_or_overwrite_and_the_same_settings(tmp_path: Path) -> None:
    interrupt(StageOptions(run=tmp_path))
    with pytest.raises(UserError, match=r"--resume to continue it or --overwrite"):
        interrupt(StageOptions(run=tmp_path))
    assert interrupt(StageOptions(run=tmp_path, resume=True, device="cpu")).resuming
    with pytest.raises(UserError, match=r"other settings \(seed\)"):
        interrupt(StageOptions(run=tmp_path, resume=True, seed=2))
    with pytest.raises(UserError, match="exclude each other"):
        interrupt(StageOptions(run=tmp_path, resume=True, overwrite=True))
    settings = tmp_path / ".pretrain.partial" / "settings.json"
    settings.write_text('{"seed": 1}')  # as an older version wrote it
    with pytest.raises(UserError, match=r"other settings \(.*schema_version"):
        interrupt(StageOptions(run=tmp_path, resume=True))


def test_a_stage_cannot_go_on_from_another_parent(tmp_path: Path) -> None:
    interrupt(StageOptions(run=tmp_path), "sft", parent=finish(tmp_path, corpus=TEXT))
    again = finish(tmp_path, weights=b"others", corpus=TEXT)
    with pytest.raises(UserError, match=r"other settings \(parent\)"):
        interrupt(StageOptions(run=tmp_path, resume=True), "sft", parent=again)


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to resume"):
        interrupt(StageOptions(run=tmp_path, resume=True))
    assert list(tmp_path.iterdir()) == []


def test_run_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match="is a file"):
        interrupt(StageOptions(run=tmp_path / "run"))


# ---- metrics and time ----


def test_metrics_are_cut_where_the_state_was_saved_and_half_a_line_is_none(tmp_path: Path) -> None:
    with open_stage("rlhf", StageOptions(run=tmp_path), preset="smoke") as folder:
        for update in (1, 2, 3):
            folder.log(update=update)
        with (folder.path / "metrics.jsonl").open("a") as file:
            file.write('{"update": 4, "sc')
        folder.truncate_metrics(after=2, key="update")
        folder.log(update=3, score=1.0)
    lines = read_metrics(tmp_path / "rlhf")
    assert [line["update"] for line in lines] == [1, 2, 3]
    assert lines[-1]["score"] == 1.0
    assert all(line["seconds"] >= 0 for line in lines)
    assert read_metrics(tmp_path / "sft") == []


@pytest.mark.parametrize("how", ["interrupted", "killed"])
def test_time_counts_every_process_of_a_stage(tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    kept = ""

    def stopped() -> None:
        nonlocal kept
        with open_stage("reward", StageOptions(run=tmp_path), preset="smoke") as folder:
            clock[0] += 30
            folder.log(step=1)
            clock[0] += 5
            kept = (folder.path / "seconds").read_text()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    if how == "killed":  # without an ending of its own, it has what was last logged
        (tmp_path / ".reward.partial" / "seconds").write_text(kept)
    clock[0] += 1000
    with open_stage("reward", StageOptions(run=tmp_path, resume=True), preset="smoke") as folder:
        clock[0] += 7
        folder.log(step=2)
    total = 42 if how == "interrupted" else 37
    assert read_stage(tmp_path / "reward").wall_seconds == total
    assert [line["seconds"] for line in read_metrics(tmp_path / "reward")] == [30, total]


# ---- the text ----


def test_the_text_is_kept_once_and_found_wherever_the_run_lies(tmp_path: Path) -> None:
    pretrain = finish(tmp_path / "run", corpus=TEXT)
    sft = finish(tmp_path / "run", "sft", parent=pretrain)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"pretrain", "sft", "corpus.txt"}
    shutil.move(tmp_path / "run", tmp_path / "moved")
    assert run_corpus(tmp_path / "moved", read_parent(tmp_path / "moved", "sft")) == TEXT
    assert str(tmp_path) not in (tmp_path / "moved" / "sft" / "stage.json").read_text()
    assert sft.corpus == TEXT.entry == {
        "name": "x.txt", "sha256": TEXT.sha256, "notice": "made up", "entropy_bits_per_char": 1.5, "split": None
    }  # fmt: skip


def test_a_text_that_is_gone_or_another_is_one_line(tmp_path: Path) -> None:
    record, path = finish(tmp_path, corpus=TEXT), tmp_path / "corpus.txt"
    path.write_text("others")
    with pytest.raises(UserError, match=r"corpus.txt is not the text that .*pretrain learned from \(x.txt, SHA-256"):
        run_corpus(tmp_path, record)
    path.unlink()
    with pytest.raises(UserError, match=r"corpus.txt: No such file.*put back"):
        run_corpus(tmp_path, record)


def test_only_what_later_stages_build_on_changes_the_text_of_a_run(tmp_path: Path) -> None:
    record = finish(tmp_path, corpus=TEXT)
    other = Corpus("y.txt", "another", "1")
    with open_stage("study", StageOptions(run=tmp_path), preset="smoke", corpus=other):
        pass
    interrupt(StageOptions(run=tmp_path, overwrite=True), corpus=other)
    assert run_corpus(tmp_path, record) == TEXT
    assert not (tmp_path / "study" / "corpus.txt").exists()
    finish(tmp_path, corpus=other)
    assert (tmp_path / "corpus.txt").read_text() == "another"


def test_a_split_of_the_texts_own_is_found_again(tmp_path: Path) -> None:
    text = Corpus("complete", WORDS, TEXT.sha256, split=8)
    record = finish(tmp_path, corpus=text)
    assert run_corpus(tmp_path, record) == text
    assert run_corpus(tmp_path, finish(tmp_path, "sft", parent=record)).train == "MILLER:\n"
    interrupt(StageOptions(run=tmp_path, overwrite=True), corpus=text)
    assert first_corpus("pretrain", StageOptions(run=tmp_path, resume=True), "complete").validation == WORDS[8:]


def test_a_record_from_before_texts_had_splits_means_ninety_percent(tmp_path: Path) -> None:
    record = finish(tmp_path, corpus=TEXT)
    del record.corpus["split"]
    assert run_corpus(tmp_path, record).train == WORDS[: int(len(WORDS) * 0.9)]


def test_a_resumed_stage_goes_on_with_the_text_that_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`auto` may mean another text when the network is back."""
    found = [TEXT, Corpus("tinyshakespeare", "another", "1")]
    monkeypatch.setattr("data.run.folder.load_corpus", lambda spec: found.pop(0))
    assert first_corpus("pretrain", StageOptions(run=tmp_path), "auto") == TEXT
    interrupt(StageOptions(run=tmp_path), corpus=TEXT)
    resumed = StageOptions(run=tmp_path, resume=True)
    assert first_corpus("pretrain", resumed, "auto") == TEXT
    with pytest.raises(UserError, match=r"other settings \(text\)"):
        interrupt(resumed, corpus=found[0])
    interrupt(resumed, corpus=TEXT)


def test_the_ground_floor_needs_neither_torch_nor_accelerate(tmp_path: Path) -> None:
    program = f"""
import sys
from pathlib import Path
from data.run.folder import open_stage
from data.run.options import StageOptions
from data.run.plots import plot_curves
with open_stage("sft", StageOptions(run=Path({str(tmp_path)!r})), preset="smoke") as stage:
    plot_curves(stage.path / "loss.png", {{"loss": ([0, 1], [2, 1])}}, xlabel="x", ylabel="y")
loaded = {{"torch", "accelerate", "matplotlib.pyplot"}} & set(sys.modules)
assert not loaded, loaded
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "sft" / "stage.json").read_text())
    assert record["device"].startswith("cpu (")
    assert (tmp_path / "sft" / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_a_stage_can_stand_elsewhere_than_in_the_run(tmp_path: Path) -> None:
    options = StageOptions(run=tmp_path, into=tmp_path / "tastes" / "mine")
    with open_stage("pretrain", options, preset="smoke", corpus=TEXT) as folder:
        (folder.path / "model.safetensors").write_bytes(b"weights")
    assert read_stage(tmp_path / "tastes" / "mine" / "pretrain").config == {"seed": 1}
    assert not (tmp_path / "pretrain").exists()

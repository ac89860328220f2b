"""The run folder: whole or absent, and every mistake is one line that says what mends it."""

import json
from pathlib import Path

import pytest

from data.console import UserError
from data.run.stage import StageOptions, StageRecord, check_descends, open_stage, read_parent, read_stage


def finish(run: Path, stage: str = "pretrain", weights: bytes = b"weights", parent: dict | None = None) -> StageRecord:
    folder = open_stage(stage, StageOptions(run=run, overwrite=True))
    (folder.path / "model.safetensors").write_bytes(weights)
    (folder.path / "tokenizer.json").write_text("{}")
    corpus = {"name": "x", "sha256": "0", "spec": "x", "notice": None}
    folder.finish(StageRecord(stage=stage, preset="smoke", config={}, parent=parent, corpus=corpus, seed=1))
    return read_stage(run / stage, stage)


def test_a_stage_is_absent_until_it_is_whole(tmp_path: Path) -> None:
    folder = open_stage("pretrain", StageOptions(run=tmp_path))
    assert not (tmp_path / "pretrain").exists()
    with pytest.raises(UserError, match=r"unfinished.*--resume"):
        read_stage(tmp_path / "pretrain", "pretrain")
    folder.finish(StageRecord(stage="pretrain", preset="p", config={}, parent=None, corpus={}, seed=1))
    assert [path.name for path in tmp_path.iterdir()] == ["pretrain"]


def test_finished_stage_needs_overwrite_and_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    first = finish(tmp_path)
    with pytest.raises(UserError, match="--overwrite"):
        open_stage("pretrain", StageOptions(run=tmp_path))
    with pytest.raises(UserError, match="nothing to resume"):
        open_stage("pretrain", StageOptions(run=tmp_path, resume=True))
    open_stage("pretrain", StageOptions(run=tmp_path, overwrite=True))
    assert read_stage(tmp_path / "pretrain").weights_sha256 == first.weights_sha256
    assert finish(tmp_path, weights=b"others").weights_sha256 != first.weights_sha256


def test_unfinished_stage_needs_resume_or_overwrite_and_the_same_settings(tmp_path: Path) -> None:
    open_stage("pretrain", StageOptions(run=tmp_path))
    with pytest.raises(UserError, match=r"--resume to continue it or --overwrite"):
        open_stage("pretrain", StageOptions(run=tmp_path))
    assert open_stage("pretrain", StageOptions(run=tmp_path, resume=True)).resuming
    with pytest.raises(UserError, match=r"other settings \(seed\)"):
        open_stage("pretrain", StageOptions(run=tmp_path, resume=True, seed=2))
    with pytest.raises(UserError, match="exclude each other"):
        open_stage("pretrain", StageOptions(run=tmp_path, resume=True, overwrite=True))


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to resume"):
        open_stage("pretrain", StageOptions(run=tmp_path, resume=True))
    assert list(tmp_path.iterdir()) == []


def test_run_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match="is a file"):
        open_stage("pretrain", StageOptions(run=tmp_path / "run"))


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("harm", ["changed", "truncated", "missing"])
def test_a_harmed_parent_is_refused(tmp_path: Path, name: str, harm: str) -> None:
    finish(tmp_path)
    path = tmp_path / "pretrain" / name
    if harm == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1] + (b"?" if harm == "changed" else b""))
    with pytest.raises(UserError, match=f"{name} (was changed or truncated|is missing).*python -m pretrain"):
        read_parent(tmp_path, "pretrain")


def test_wrong_absent_unfinished_and_foreign_parents(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist: run `python -m sft"):
        read_parent(tmp_path, "sft")
    finish(tmp_path)
    (tmp_path / "pretrain").rename(tmp_path / "sft")
    with pytest.raises(UserError, match="holds the stage 'pretrain', not 'sft'"):
        read_parent(tmp_path, "sft")
    record = tmp_path / "sft" / "stage.json"
    record.write_text(record.read_text()[:-20])
    with pytest.raises(UserError, match="not a stage record"):
        read_parent(tmp_path, "sft")
    record.unlink()
    with pytest.raises(UserError, match=r"unfinished \(no stage.json\)"):
        read_parent(tmp_path, "sft")


def test_schema_of_another_version(tmp_path: Path) -> None:
    finish(tmp_path)
    path = tmp_path / "pretrain" / "stage.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 99}))
    with pytest.raises(UserError, match="schema 99"):
        read_stage(tmp_path / "pretrain")


def test_descent_and_tokenizer_are_checked(tmp_path: Path) -> None:
    parent = finish(tmp_path)
    child = finish(tmp_path, "sft", parent={"stage": "pretrain", "path": "", "sha256": parent.weights_sha256})
    check_descends(child, parent, tmp_path)
    other = finish(tmp_path, weights=b"other weights")
    with pytest.raises(UserError, match="made from another pretrain"):
        check_descends(child, other, tmp_path)
    with pytest.raises(UserError, match="another tokenizer"):
        read_parent(tmp_path, "pretrain", tokenizer_sha256="0" * 64)

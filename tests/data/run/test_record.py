"""Records: every way in which a stage is not what a later one needs is one line that says what mends it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from data.console import UserError
from data.run.folder import open_stage
from data.run.options import StageOptions
from data.run.record import StageRecord, check_descends, device_name, read_parent, read_stage


def finish(
    run: Path, stage: str = "pretrain", weights: bytes = b"weights", parent: StageRecord | None = None, **more: Any
) -> StageRecord:
    with open_stage(stage, StageOptions(run=run, overwrite=True), preset="smoke", parent=parent, **more) as folder:
        (folder.path / "model.safetensors").write_bytes(weights)
        (folder.path / "tokenizer.json").write_text("{}")
    return read_stage(run / stage, stage)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("harm", ["changed", "truncated", "missing"])
def test_a_harmed_parent_is_refused(tmp_path: Path, name: str, harm: str) -> None:
    finish(tmp_path)
    path = tmp_path / "pretrain" / name
    if harm == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1] + (b"?" if harm == "changed" else b""))
    with pytest.raises(UserError, match=f"{name} (was changed or truncated|is missing).*python -m pretrain smoke"):
        read_parent(tmp_path, "pretrain")


def test_wrong_absent_unfinished_and_foreign_parents(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist: run `python -m sft PRESET --run"):
        read_parent(tmp_path, "sft")
    with pytest.raises(UserError, match="does not exist: run `python -m rlhf PRESET --reward gold --run"):
        read_parent(tmp_path, "rlhf-gold", "python -m rlhf PRESET --reward gold")
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


@pytest.mark.parametrize("version", [1, 99])
def test_a_run_of_another_schema_is_refused_with_the_command_that_makes_it(tmp_path: Path, version: int) -> None:
    finish(tmp_path)
    path = tmp_path / "pretrain" / "stage.json"
    values = json.loads(path.read_text()) | {"schema_version": version}
    del values["command"]  # schema 1 has none
    path.write_text(json.dumps(values))
    again = f"run `python -m pretrain PRESET --run {tmp_path} --overwrite`"
    with pytest.raises(UserError, match=rf"schema {version}, .*reads 2: {re.escape(again)}") as caught:
        read_stage(tmp_path / "pretrain")
    assert "\n" not in str(caught.value)


def test_descent_and_tokenizer_are_checked(tmp_path: Path) -> None:
    parent = finish(tmp_path)
    child = finish(tmp_path, "rlhf-rloo", parent=parent, command="python -m rlhf PRESET --algorithm rloo")
    check_descends(child, parent, tmp_path)
    other = finish(tmp_path, weights=b"other weights")
    with pytest.raises(
        UserError, match=r"rlhf-rloo was made from another pretrain .*python -m rlhf smoke --algorithm rloo --run"
    ):
        check_descends(child, other, tmp_path)
    with pytest.raises(UserError, match="another tokenizer"):
        read_parent(tmp_path, "pretrain", tokenizer_sha256="0" * 64)


def test_the_device_is_the_one_that_was_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    assert device_name("auto") == device_name("cuda") == "a GPU"
    assert device_name("cpu").startswith(f"cpu ({torch.get_num_threads()} threads, ")
    assert device_name("mps").startswith("mps (")

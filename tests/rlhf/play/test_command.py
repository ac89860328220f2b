"""The command: what it refuses, in one line."""

import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Refused = Callable[..., str]


def test_a_run_without_sft_is_refused(refused: Refused, tmp_path: Path) -> None:
    assert "sft does not exist" in refused("rlhf.play", "--run", tmp_path, "--no-browser")


@pytest.mark.slow
def test_a_port_in_use_is_refused(refused: Refused, own_run: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port}" in refused("rlhf.play", "--run", own_run, "--no-browser", "--port", port)


def test_a_name_that_cannot_be_a_file_is_refused(refused: Refused, whole_run: Path) -> None:
    assert "annotator" in refused("rlhf.play", "--run", whole_run, "--annotator", "../me")


@pytest.mark.slow
def test_the_terminal_ends_with_its_input(
    whole_run: Path, tmp_path: Path, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    run = shutil.copytree(whole_run, tmp_path / "run")
    done = command("rlhf.play", "--run", run, "--terminal")
    assert "play, blind or quit" in done.stdout
    assert not done.stderr
    assert not (run / "labels").exists(), "without a server there is no store"


def test_what_only_the_labelling_page_does_is_no_option(
    whole_run: Path, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = command("rlhf.play", "--run", whole_run, "--delete", "me", check=False)
    assert done.returncode == 2
    assert "--delete" in done.stderr

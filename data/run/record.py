"""`stage.json`: what a stage was made from and with, and the checks of whoever builds on it."""

import hashlib
import json
import platform
import re
import subprocess
import sys
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from data.console import UserError
from data.jsonl import read_appended

SCHEMA_VERSION = 2
MODULES = {"following": "reward.following"}
"""Where a stage is not made by `python -m` and its name."""


@dataclass(kw_only=True)
class StageRecord:
    """`stage.json`: where a stage's weights come from and what came out."""

    stage: str
    preset: str
    command: str
    """What makes the stage, without its options."""
    config: dict[str, Any]
    parent: dict[str, str] | None
    """`stage` and `sha256` of the weights this stage started from."""
    corpus: dict[str, Any]
    """`name`, `sha256`, `notice` and `entropy_bits_per_char` of the text in RUN/corpus.txt."""
    seed: int
    weights_sha256: str = ""
    tokenizer_sha256: str = ""
    results: dict[str, Any] = field(default_factory=dict)
    wall_seconds: float = 0.0
    """Of every process that worked on the stage."""
    peak_memory_gib: float | None = None
    """Most memory that the (main) process held on the host; None where the system does not say."""
    versions: dict[str, str] = field(default_factory=dict)
    device: str = ""
    git_commit: str | None = None
    schema_version: int = SCHEMA_VERSION


def sha256_of(path: Path) -> str:
    """SHA-256 of a file; empty where there is none."""
    if not path.exists():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_stage(folder: Path, stage: str | None = None, command: str | None = None) -> StageRecord:
    """The record of a finished stage, after checking that the folder is whole and what it says it is.

    `command` makes the stage; default `python -m STAGE PRESET`, see `MODULES`. Raises UserError when the folder is
    missing, unfinished, of another stage or of an older version, or when its weights or tokenizer are not the ones that
    were written.
    """
    name = stage or folder.name
    module = name.partition("-")[0]
    command = command or f"python -m {MODULES.get(module, module)} PRESET"
    again = f"run `{command} --run {folder.parent} --overwrite`"
    if not folder.is_dir():
        if folder.with_name(f".{folder.name}.partial").exists():
            raise UserError(f"{folder} is unfinished: continue it with `{command} --run {folder.parent} --resume`")
        raise UserError(f"{folder} does not exist: run `{command} --run {folder.parent}` first")
    record = _read(folder, again)
    if stage is not None and record.stage != stage:
        raise UserError(f"{folder} holds the stage '{record.stage}', not '{stage}': {again}")
    again = f"run `{record.command} --run {folder.parent} --overwrite`"
    hashes = {"model.safetensors": record.weights_sha256, "tokenizer.json": record.tokenizer_sha256}
    for file_name, expected in hashes.items():
        if expected and (found := sha256_of(folder / file_name)) != expected:
            what = "was changed or truncated after the stage ended" if found else "is missing"
            raise UserError(f"{folder / file_name} {what}: {again}")
    return record


def _read(folder: Path, again: str) -> StageRecord:
    path = folder / "stage.json"
    try:
        values = json.loads(path.read_text("utf-8"))
        version = values["schema_version"]
        if version == SCHEMA_VERSION:
            return StageRecord(**values)
    except FileNotFoundError:
        raise UserError(f"{folder} is unfinished (no stage.json): {again}") from None
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{path} is not a stage record: {again}") from None
    raise UserError(f"{path} has schema {version}, and this version of the project reads {SCHEMA_VERSION}: {again}")


def read_parent(run: Path, parent: str, command: str | None = None, tokenizer_sha256: str | None = None) -> StageRecord:
    """`read_stage` of a stage's parent, made by `command`; with `tokenizer_sha256`, it must have that tokenizer."""
    record = read_stage(run / parent, parent, command)
    if tokenizer_sha256 is not None and record.tokenizer_sha256 != tokenizer_sha256:
        raise UserError(
            f"{run / parent} has another tokenizer than the stage it is used with: "
            f"run `{record.command} --run {run} --overwrite`"
        )
    return record


def check_descends(child: StageRecord, parent: StageRecord, run: Path) -> None:
    """Check that `child` was made from exactly these weights of `parent` (UserError)."""
    if child.parent is None or child.parent["sha256"] != parent.weights_sha256:
        raise UserError(
            f"{run / child.stage} was made from another {parent.stage} than the one in {run}: "
            f"run `{child.command} --run {run} --overwrite`"
        )


def parent_of(record: StageRecord) -> dict[str, str]:
    """The `parent` entry of a stage made from `record`."""
    return {"stage": record.stage, "sha256": record.weights_sha256}


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a stage's `metrics.jsonl`; none where there is no file. Half a line, left by a kill, is left out."""
    return read_appended(folder / "metrics.jsonl")


def peak_memory_gib() -> float | None:
    """Most memory that this process has held so far; None where the system does not say."""
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30, 2)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide what a stage makes."""
    found = {"python": platform.python_version()}
    for package in ("torch", "accelerate", "tiktoken", "tokenizers", "transformers", "trl"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def device_name(chosen: str) -> str:
    """The name of the device that a stage computed on which was started with `--device chosen`."""
    torch = sys.modules.get("torch")
    if torch is not None and chosen in ("auto", "cuda") and torch.cuda.is_initialized():  # what runs on a GPU has
        return str(torch.cuda.get_device_name())
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.+)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.exists() else None
    name = found[1] if found else platform.processor() or platform.machine()
    threads = f"{torch.get_num_threads()} threads, " if torch is not None else ""
    return f"{'mps' if chosen == 'mps' else 'cpu'} ({threads}{name})"


def git_commit() -> str | None:
    """The commit of this project's checkout, if it runs from one."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return None
    command = ["git", "-C", str(here), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None

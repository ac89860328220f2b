"""The run folder: how a stage is opened, finished, and read by the stage after it.

A stage works in `RUN/.STAGE.partial/` and is renamed to `RUN/STAGE/` when its record, `stage.json`, is
written, last; so a stage folder is whole or absent, and a killed one is continued from what lies in the
partial folder.
"""

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import PartialState

from data.console import UserError, console
from data.corpus import Corpus, load_corpus

SCHEMA_VERSION = 1
COMMANDS = (
    {stage: f"python -m {stage} PRESET" for stage in ("pretrain", "sft", "reward", "rlhf")}
    | {f"rlhf-{name}": f"python -m rlhf PRESET --algorithm {name}" for name in ("rloo", "grpo", "best-of-n")}
    | {"compare": "python -m rlhf.compare", "algorithms": "python -m rlhf.algorithms"}
)


@dataclass(kw_only=True)
class StageOptions:
    """What every stage's command takes."""

    run: Path = Path("runs/default")
    """Folder of the run; every stage has a folder in it."""
    seed: int = 1
    """Seed of everything random in this stage."""
    overwrite: bool = False
    """Replace a finished or unfinished stage of that name."""
    resume: bool = False
    """Continue a stage that was stopped, with the same settings."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto: on a GPU with CUDA where there is one, else on the CPU."""


@dataclass(kw_only=True)
class StageRecord:
    """`stage.json`: where a stage's weights come from and what came out."""

    stage: str
    preset: str
    config: dict[str, Any]
    parent: dict[str, str] | None
    """`stage`, `path` and `sha256` of the weights this stage started from."""
    corpus: dict[str, Any]
    """`name`, `sha256`, `spec` (what --corpus needs to find it again) and `notice`."""
    seed: int
    weights_sha256: str = ""
    tokenizer_sha256: str = ""
    results: dict[str, Any] = field(default_factory=dict)
    wall_seconds: float = 0.0
    peak_memory_gib: float | None = None
    """Most memory that the (main) process held on the host; None where the system does not say."""
    versions: dict[str, str] = field(default_factory=dict)
    device: str = ""
    git_commit: str | None = None
    schema_version: int = SCHEMA_VERSION


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class StageFolder:
    """An open stage: write into `path`, then call `finish` once."""

    def __init__(self, name: str, options: StageOptions) -> None:
        self.final, self.path = options.run / name, options.run / f".{name}.partial"
        self.resuming = options.resume
        self.resume_path = self.path / "resume"
        self.metrics_path = self.path / "metrics.jsonl"
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Wall seconds since this process opened the stage."""
        return time.monotonic() - self._started

    def log(self, **metrics: Any) -> None:
        """Append one line to `metrics.jsonl` (main process only)."""
        if PartialState().is_main_process:
            with self.metrics_path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(metrics) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        if not self.metrics_path.exists():
            return []
        return [json.loads(line) for line in self.metrics_path.read_text("utf-8").splitlines()]

    def keep_metrics(self, keep: Any) -> None:
        """On resume, drop the lines for which `keep(line)` is false: they will be made again."""
        if PartialState().is_main_process:
            lines = [json.dumps(line) for line in self.read_metrics() if keep(line)]
            self.metrics_path.write_text("".join(line + "\n" for line in lines), "utf-8")

    def finish(self, record: StageRecord) -> None:
        """Write `stage.json` and put the folder in its place (main process; the others wait)."""
        state = PartialState(cpu=share_cpus())
        state.wait_for_everyone()
        if state.is_main_process:
            weights = self.path / "model.safetensors"
            tokenizer = self.path / "tokenizer.json"
            record.weights_sha256 = sha256_of(weights) if weights.exists() else ""
            record.tokenizer_sha256 = sha256_of(tokenizer) if tokenizer.exists() else ""
            record.wall_seconds = round(record.wall_seconds + self.seconds, 2)
            record.peak_memory_gib = _peak_memory_gib()
            record.versions = _versions()
            record.device = _device()
            record.git_commit = _git_commit()
            shutil.rmtree(self.resume_path, ignore_errors=True)
            (self.path / "settings.json").unlink(missing_ok=True)
            text = json.dumps(asdict(record), indent=2, default=str)
            (self.path / "stage.json").write_text(text + "\n", "utf-8")
            retired = self.final.with_name(f".{self.final.name}.replaced")
            shutil.rmtree(retired, ignore_errors=True)
            if self.final.exists():
                self.final.rename(retired)
            self.path.rename(self.final)
            shutil.rmtree(retired, ignore_errors=True)
        state.wait_for_everyone()


def share_cpus() -> bool:
    """Whether accelerate must be told to stay on the CPU: processes that were launched together without a GPU.

    Untold, accelerate would let each of them work for itself, all on the same files.
    """
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.cuda.is_available()


def open_stage(name: str, options: StageOptions) -> StageFolder:
    """Claim the place of the folder `name` in the run, or say in one line why not (UserError).

    A finished stage needs --overwrite; what a killed one left needs --resume or --overwrite.
    """
    final, partial = options.run / name, options.run / f".{name}.partial"
    chosen = json.dumps(settings(options), indent=2)
    if options.resume and options.overwrite:
        raise UserError("--resume and --overwrite exclude each other: choose one")
    if final.exists() and not options.overwrite:
        if options.resume and not partial.exists():
            raise UserError(f"{final} is finished, there is nothing to resume: --overwrite makes it anew")
        if not options.resume:
            raise UserError(f"{final} exists already: choose another --run, or add --overwrite to replace it")
    if options.resume and not partial.exists():
        raise UserError(f"nothing to resume in {options.run}: run the same command without --resume")
    if partial.exists() and not (options.resume or options.overwrite):
        raise UserError(
            f"{partial} holds an unfinished {name}: add --resume to continue it or --overwrite to start again"
        )
    if options.resume:
        _check_same_settings(partial, chosen)
    if options.run.exists() and not options.run.is_dir():
        raise UserError(f"--run {options.run} is a file: name a folder")
    state = PartialState(cpu=share_cpus())
    state.wait_for_everyone()  # every process has looked before one of them changes anything
    if state.is_main_process:
        if options.overwrite:
            shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir(parents=True, exist_ok=True)
            (partial / "settings.json").write_text(chosen, "utf-8")
        except OSError as error:
            raise UserError(f"cannot write {partial}: {error.strerror}: choose another --run") from None
    state.wait_for_everyone()
    return StageFolder(name, options)


def read_stage(folder: Path, stage: str | None = None) -> StageRecord:
    """The record of a finished stage, after checking that the folder is whole and what it says it is.

    Raises UserError when the folder is missing, unfinished, of another stage, or when its weights or
    tokenizer are not the ones that were written.
    """
    name = stage or folder.name
    command = COMMANDS.get(name, "its command")
    again = f"run `{command} --run {folder.parent}`"
    if not folder.is_dir():
        partial = folder.with_name(f".{folder.name}.partial")
        if partial.exists():
            raise UserError(f"{folder} is unfinished: continue it with `{command} --run {folder.parent} --resume`")
        raise UserError(f"{folder} does not exist: {again} first")
    path = folder / "stage.json"
    try:
        values = json.loads(path.read_text("utf-8"))
        record = StageRecord(**values)
    except FileNotFoundError:
        raise UserError(f"{folder} is unfinished (no stage.json): {again} with --overwrite") from None
    except (ValueError, TypeError):
        raise UserError(f"{path} is not a stage record of this version: {again} with --overwrite") from None
    if stage is not None and record.stage != stage:
        raise UserError(f"{folder} holds the stage '{record.stage}', not '{stage}': {again} with --overwrite")
    if record.schema_version != SCHEMA_VERSION:
        raise UserError(f"{path} has schema {record.schema_version}, not {SCHEMA_VERSION}: {again} with --overwrite")
    for file_name, expected in (
        ("model.safetensors", record.weights_sha256),
        ("tokenizer.json", record.tokenizer_sha256),
    ):
        if not expected:
            continue
        file = folder / file_name
        if not file.exists():
            raise UserError(f"{file} is missing: {again} with --overwrite")
        if sha256_of(file) != expected:
            raise UserError(f"{file} was changed or truncated after the stage ended: {again} with --overwrite")
    return record


def read_parent(run: Path, parent: str, tokenizer_sha256: str | None = None) -> StageRecord:
    """`read_stage` of a stage's parent; with `tokenizer_sha256`, it must have that tokenizer."""
    record = read_stage(run / parent, parent)
    if tokenizer_sha256 is not None and record.tokenizer_sha256 != tokenizer_sha256:
        raise UserError(
            f"{run / parent} has another tokenizer than the stage it is used with: "
            f"run `{COMMANDS[parent]} --run {run} --overwrite`"
        )
    return record


def check_descends(child: StageRecord, parent: StageRecord, run: Path) -> None:
    """Both are of one line: `child` was made from exactly these weights of `parent` (UserError)."""
    if child.parent is None or child.parent["sha256"] != parent.weights_sha256:
        raise UserError(
            f"{run / child.stage} was made from another {parent.stage} than the one in {run}: "
            f"run `{COMMANDS[child.stage]} --run {run} --overwrite`"
        )


def parent_of(record: StageRecord, run: Path) -> dict[str, str]:
    """The `parent` entry of a stage made from `record`."""
    return {"stage": record.stage, "path": str(run / record.stage), "sha256": record.weights_sha256}


def settings(options: StageOptions) -> dict[str, Any]:
    """A stage's configuration without what only says where and how it runs."""
    values = asdict(options)
    for name in ("run", "overwrite", "resume", "workers", "device", "cpu"):
        values.pop(name, None)
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


def corpus_entry(corpus: Corpus, spec: str) -> dict[str, Any]:
    """The `corpus` entry of a record. What `auto` found is named, so that later stages find the same."""
    if spec == "auto":
        spec = corpus.name
    elif spec != corpus.name:
        spec = str(Path(spec).expanduser().resolve())
    return {"name": corpus.name, "sha256": corpus.sha256, "spec": spec, "notice": corpus.notice}


def parent_corpus(record: StageRecord) -> Corpus:
    """The corpus that a parent learned from, loaded again and checked (UserError if it is another now)."""
    corpus = load_corpus(record.corpus["spec"])
    check_corpus(corpus, record)
    return replace(corpus, notice=record.corpus["notice"])


def check_corpus(corpus: Corpus, record: StageRecord) -> None:
    """The corpus at hand is the one the parent learned from (UserError)."""
    if corpus.sha256 != record.corpus["sha256"]:
        raise UserError(
            f"the corpus is not the one that {record.stage} learned from "
            f"({record.corpus['name']}, SHA-256 {record.corpus['sha256'][:12]}…): give the same --corpus"
        )


def announce(stage: str, line: str) -> None:
    """One line about what a stage starts with (main process)."""
    if PartialState().is_main_process:
        console.print(f"[bold]{stage}[/bold]  {line}", soft_wrap=True)


def _check_same_settings(partial: Path, chosen: str) -> None:
    try:
        begun = json.loads((partial / "settings.json").read_text("utf-8"))
    except (OSError, ValueError):
        raise UserError(f"{partial} cannot be resumed (no readable settings.json): use --overwrite") from None
    now = json.loads(chosen)
    differing = sorted(name for name in begun | now if begun.get(name) != now.get(name))
    if differing:
        raise UserError(
            f"{partial} was begun with other settings ({', '.join(differing)}): "
            "give the same ones to resume, or --overwrite to start again"
        )


def _peak_memory_gib() -> float | None:
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30, 2)


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in ("torch", "accelerate", "tiktoken", "tokenizers", "transformers", "trl"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _device() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.+)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.exists() else None
    name = found[1] if found else platform.processor() or platform.machine()
    return f"cpu ({torch.get_num_threads()} threads, {name})"


def _git_commit() -> str | None:
    """The commit of this project's checkout, if it runs from one."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return None
    try:
        found = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()

"""The run folder: how a stage is opened and finished, and the text that a run learns from.

A stage works in `RUN/.STAGE.partial/` and is renamed to `RUN/STAGE/` when its record, `stage.json`, is
written, last; so a stage folder is whole or absent, and a killed one is continued from what lies in the
partial folder. The text is kept in `RUN/corpus.txt`, so a run can be moved, and no later stage looks for it.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data.console import UserError, console, is_main_process, main_process_first, wait_for_everyone
from data.corpus import Corpus, load_corpus
from data.jsonl import write_whole
from data.run.card import Card, write_card
from data.run.options import StageOptions, settings
from data.run.record import (
    SCHEMA_VERSION,
    StageRecord,
    device_name,
    git_commit,
    parent_of,
    peak_memory_gib,
    read_metrics,
    sha256_of,
    versions,
)

CORPUS = "corpus.txt"


class StageFolder:
    """An open stage: write into `path`; `results` and `config` go into the record."""

    def __init__(self, options: StageOptions, record: StageRecord) -> None:
        self.options, self.record = options, record
        self.final, self.path = _places(options, record.stage)
        self.resuming = options.resume
        self.resume_path = self.path / "resume"
        self.config, self.results = record.config, record.results
        self.summary = ""
        """What the stage came to, in a few words, for the line that it ends with."""
        self.card: Card | None = None
        """What README.md says of the stage's model (main process); without it the folder gets none."""
        self._seconds_path = self.path / "seconds"
        self._earlier = self._earlier_seconds()
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Wall seconds since the stage was opened, those of earlier processes included."""
        return self._earlier + time.monotonic() - self._started

    def log(self, **metrics: Any) -> None:
        """Append one line, with the stage's `seconds`, to `metrics.jsonl` (main process only)."""
        if is_main_process():
            with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(metrics | {"seconds": round(self.seconds, 2)}) + "\n")
            self.save_seconds()

    def read_metrics(self) -> list[dict[str, Any]]:
        return read_metrics(self.path)

    def truncate_metrics(self, after: int, key: str = "step") -> None:
        """Drop the lines whose `key` is greater than `after`, which will be made again; every process calls it."""
        if is_main_process():
            lines = [json.dumps(line) + "\n" for line in self.read_metrics() if line[key] <= after]
            write_whole(self.path / "metrics.jsonl", "".join(lines).encode())
        wait_for_everyone()

    def save_seconds(self) -> None:
        """Remember the time so far for a process that resumes (main process; `log` does it too)."""
        if is_main_process():
            self._seconds_path.write_text(f"{self.seconds:.2f}", "utf-8")

    def announce(self, line: str) -> None:
        """One line about the stage on the terminal (main process)."""
        announce(self.record.stage, line)

    def finish(self) -> None:
        """Write `stage.json` and put the folder in its place (main process; the others wait)."""
        wait_for_everyone()
        if is_main_process():
            record = self.record
            record.config, record.results = self.config, self.results
            record.weights_sha256 = sha256_of(self.path / "model.safetensors")
            record.tokenizer_sha256 = sha256_of(self.path / "tokenizer.json")
            record.wall_seconds = round(self.seconds, 2)
            record.peak_memory_gib = peak_memory_gib()
            record.versions = versions()
            record.device = device_name(self.options.device)
            record.git_commit = git_commit()
            if self.card is not None:
                write_card(self.path, record, self.card)
            self._put_in_place()
            self.announce(f"{self.summary and f'{self.summary} · '}{record.wall_seconds:.0f} s → {self.final}")
        wait_for_everyone()

    def _put_in_place(self) -> None:
        shutil.rmtree(self.resume_path, ignore_errors=True)
        for path in (self.path / "settings.json", self._seconds_path):
            path.unlink(missing_ok=True)
        text = json.dumps(asdict(self.record), indent=2, default=str)
        (self.path / "stage.json").write_text(text + "\n", "utf-8")
        if (self.path / CORPUS).exists():
            if self.record.weights_sha256:  # only what has weights is built on by later stages, which need its text
                (self.path / CORPUS).replace(self.options.run / CORPUS)
            else:
                (self.path / CORPUS).unlink()
        retired = self.final.with_name(f".{self.final.name}.replaced")
        shutil.rmtree(retired, ignore_errors=True)
        if self.final.exists():
            self.final.rename(retired)
        self.path.rename(self.final)
        shutil.rmtree(retired, ignore_errors=True)

    def _earlier_seconds(self) -> float:
        try:
            return float(self._seconds_path.read_text("utf-8"))
        except (OSError, ValueError):
            return 0.0


@contextmanager
def open_stage(
    name: str,
    options: StageOptions,
    *,
    preset: str,
    command: str | None = None,
    parent: StageRecord | None = None,
    corpus: Corpus | None = None,
    resumable: bool = True,
) -> Iterator[StageFolder]:
    """Claim the place of the folder `name` in the run for a `with` block, or say in one line why not (UserError).

    A finished stage needs --overwrite; what a killed one left needs --resume or --overwrite. `command` makes the
    stage (default `python -m NAME PRESET`); `parent` is the stage whose weights it starts from, and a stage without
    one gives the `corpus` that it learns from. Where the block ends, the record is written and the folder put in its
    place; where it raises, the partial folder stays, or, if the stage is not `resumable`, nothing.
    """
    record = StageRecord(
        stage=name,
        preset=preset,
        command=(command or f"python -m {name} PRESET").replace("PRESET", preset),
        config=settings(options),
        parent=parent_of(parent) if parent else None,
        corpus=corpus.entry if corpus else parent.corpus if parent else {},
        seed=options.seed,
    )
    begun = {"schema_version": SCHEMA_VERSION, "parent": record.parent, "text": record.corpus} | record.config
    _check_claim(name, options, begun)
    wait_for_everyone()  # every process has looked before one of them changes anything
    if is_main_process():
        _claim(name, options, begun, corpus)
    wait_for_everyone()
    stage = StageFolder(options, record)
    try:
        yield stage
    except BaseException:
        if resumable:
            stage.save_seconds()
        elif is_main_process():
            shutil.rmtree(stage.path, ignore_errors=True)
        raise
    stage.finish()


def first_corpus(name: str, options: StageOptions, spec: str) -> Corpus:
    """The text of `--corpus spec` for a stage without a parent; on --resume the one that it began with."""
    _, partial = _places(options, name)
    if options.resume and (partial / CORPUS).exists():
        entry = _settings_of(partial)["text"]
        return Corpus(text=(partial / CORPUS).read_bytes().decode("utf-8"), **entry)
    with main_process_first():
        return load_corpus(spec)


def run_corpus(run: Path, record: StageRecord) -> Corpus:
    """The text in RUN/corpus.txt, checked to be the one that the stage of `record` learned from (UserError)."""
    path, name, sha256 = run / CORPUS, record.corpus["name"], record.corpus["sha256"]
    wanted = f"the text that {run / record.stage} learned from ({name}, SHA-256 {sha256[:12]}…)"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; put back {wanted}, or make the run again") from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UserError(f"{path} is not {wanted}: put that back, or run `{record.command} --run {run} --overwrite`")
    return Corpus(text=content.decode("utf-8"), **record.corpus)


def announce(stage: str, line: str) -> None:
    """One line about a stage on the terminal (main process)."""
    if is_main_process():
        console.print(f"[bold]{stage}[/bold]  {line}", soft_wrap=True)


def _places(options: StageOptions, name: str) -> tuple[Path, Path]:
    """(finished folder, unfinished folder) of a stage."""
    parent = options.into or options.run
    return parent / name, parent / f".{name}.partial"


def _check_claim(name: str, options: StageOptions, begun: dict[str, Any]) -> None:
    final, partial = _places(options, name)
    if options.resume and options.overwrite:
        raise UserError("--resume and --overwrite exclude each other: choose one")
    if final.exists() and not options.overwrite:
        if options.resume and not partial.exists():
            raise UserError(f"{final} is already finished: use --overwrite to run it again")
        if not options.resume:
            raise UserError(f"{final} exists already: choose another --run, or add --overwrite to replace it")
    if options.resume and not partial.exists():
        raise UserError(f"nothing to resume in {options.run}: run the same command without --resume")
    if partial.exists() and not (options.resume or options.overwrite):
        raise UserError(
            f"{partial} holds an unfinished {name}: add --resume to continue it or --overwrite to start again"
        )
    if options.resume:
        before, now = _settings_of(partial), json.loads(json.dumps(begun))
        if differing := sorted(key for key in before | now if before.get(key) != now.get(key)):
            raise UserError(
                f"{partial} was begun with other settings ({', '.join(differing)}): "
                "give the same ones to resume, or --overwrite to start again"
            )
    if options.run.exists() and not options.run.is_dir():
        raise UserError(f"--run {options.run} is a file: name a folder")


def _claim(name: str, options: StageOptions, begun: dict[str, Any], corpus: Corpus | None) -> None:
    _, partial = _places(options, name)
    if options.overwrite:
        shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True, exist_ok=True)
        if corpus is not None:
            write_whole(partial / CORPUS, corpus.text.encode("utf-8"))
        write_whole(partial / "settings.json", json.dumps(begun, indent=2).encode())
    except OSError as error:
        raise UserError(f"cannot write {partial}: {error.strerror}: choose another --run") from None


def _settings_of(partial: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads((partial / "settings.json").read_text("utf-8"))
    except (OSError, ValueError):
        raise UserError(f"{partial} cannot be resumed (no readable settings.json): use --overwrite") from None
    return values

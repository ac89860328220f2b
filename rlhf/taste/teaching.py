"""Teaching a taste: `python -m rlhf.taste` in a process of its own, seen through the files that it writes."""

import _thread
import contextlib
import json
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.console import UserError
from data.jsonl import read_appended, write_jsonl
from data.run.options import check_name
from data.run.record import read_metrics

GRACE = 8.0
"""Seconds that a taste has to end when the server does."""
PROGRAM = (sys.executable, "-c", "from rlhf.taste.teaching import be_taught; be_taught('rlhf.taste')")
MODES = {"new": (), "again": ("--again",), "resume": ("--resume",), "overwrite": ("--overwrite",)}


def be_taught(module: str) -> None:
    """Run a command in this process, which a `Teaching` started, and end with that one: stdin says that it is there."""

    def follow() -> None:
        os.read(0, 1)
        _thread.interrupt_main()
        time.sleep(GRACE)
        os._exit(130)

    threading.Thread(target=follow, daemon=True).start()
    runpy.run_module(module, run_name="__main__", alter_sys=True)


class Teaching:
    """The tastes of a run, and the one that is being taught, or was the last."""

    def __init__(self, run: Path, program: Sequence[str] = PROGRAM) -> None:
        self.run, self.program, self.name, self.mode = run, program, "", ""
        self._process: subprocess.Popen[bytes] | None = None
        self._started, self._lock = 0.0, threading.Lock()

    @property
    def annotators(self) -> dict[str, int]:
        """How many judgements each annotator has made, what was skipped aside."""
        files = sorted(self.run.glob("labels/rankings/*.jsonl"))
        return {path.stem: sum(bool(row["ranking"]) for row in read_appended(path)) for path in files}

    @property
    def tastes(self) -> dict[str, bool]:
        """The tastes of the run by name, and whether each is finished."""
        return {path.name: _finished(path) for path in sorted(self.run.glob("tastes/[!.]*")) if path.is_dir()}

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(
        self,
        name: str,
        mode: str,
        annotators: Sequence[str],
        craft: float | None,
        watch: Sequence[str],
    ) -> dict[str, Any]:
        """Begin, with the judgements of all where `annotators` is empty; the state then. UserError where it cannot."""
        if mode not in MODES:
            raise UserError(f"the mode is {mode!r:.20}: choose one of {', '.join(MODES)}")
        command = [*self.program, "--run", str(self.run), "--name", check_name("taste", name), *MODES[mode]]
        with self._lock:
            if self.running:
                raise UserError(f"{self.name} is being taught: stop it first")
            if mode == "new" and name in self.tastes:
                raise UserError(f"the taste {name} exists: continue it, or choose another name")
            self.close()  # its pipe, at least
            counts = self.annotators
            if not (chosen := [who for who in annotators or counts if counts.get(who)]):
                raise UserError("nothing has been ranked yet: rank a few replies first")
            (self.run / "tastes").mkdir(exist_ok=True)
            self.name, self.mode, self._started = name, mode, time.time()
            if mode != "resume":  # which has these settings
                command += ["--rankings", *(str(self.run / "labels" / "rankings" / f"{who}.jsonl") for who in chosen)]
                command += [] if craft is None else ["--craft", str(craft)]
                write_jsonl(self._beside("watch.jsonl"), ({"prompt": prompt.strip() + "\n"} for prompt in watch))
                command += ["--watch", str(self._beside("watch.jsonl"))] if watch else []
            with self._beside("log").open("wb") as log:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
                )
        return self.state()

    def stop(self) -> dict[str, Any]:
        """Ask the taste that is being taught to end with what it has; the state then."""
        if self.running and self._folder.is_dir():
            (self._folder / "stop").touch()
        return self.state()

    def close(self) -> None:
        """End the process, if there is one, and all that it started."""
        if (process := self._process) and process.stdin:
            process.stdin.close()
            try:
                process.wait(2 * GRACE)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def state(self) -> dict[str, Any]:
        """All that a page shows, from what is on disk: whoever opens it late sees the same.

        "reward": [step, accuracy, loss] and "rlhf": [episode, score, KL] per line of their metrics; "watched":
        [prompt, reply before, reply now].
        """
        found = {"name": self.name, "running": self.running, "annotators": self.annotators, "tastes": self.tastes}
        if self._process is None:
            return found
        error = ""
        if code := self._process.poll():
            lines = self._beside("log").read_text("utf-8", "replace").strip().splitlines()
            error = lines[-1].removeprefix("error: ") if lines else f"it ended with code {code}"
        reward, rlhf = (read_metrics(self._place(stage)) for stage in ("reward", "rlhf"))
        before: list[str] = next((line["watched_before"] for line in rlhf if "watched_before" in line), [])
        now = next((line["watched"] for line in reversed(rlhf) if "watched" in line), before)
        prompts = [row["prompt"] for row in read_appended(self._beside("watch.jsonl"))]
        with contextlib.suppress(OSError, ValueError):  # PPO has not begun, or has ended
            settings = json.loads((self._folder / ".rlhf.partial" / "settings.json").read_text("utf-8"))
            found["episodes"] = settings["total_episodes"]
        return found | {
            "error": error,
            "stage": self._stage(),
            "reward": [[line["step"], line["accuracy"], line["loss"]] for line in reward if "accuracy" in line],
            "rlhf": [[line["episode"], line["objective/scores"], line["objective/kl"]] for line in rlhf],
            "watched": [*map(list, zip(prompts, before, now, strict=False))],
            "seconds": round(time.time() - self._started),
        }

    @property
    def _folder(self) -> Path:
        return self.run / "tastes" / self.name

    def _beside(self, what: str) -> Path:
        """A file next to the taste's folder, which the command makes."""
        return self._folder.with_name(f".{self.name}.{what}")

    def _stage(self) -> str:
        """reward, rlhf or compare: which has begun last; "" before the first."""
        if self._place("rlhf").name == "rlhf":
            return "compare"
        return next((stage for stage in ("rlhf", "reward") if self._place(stage).is_dir()), "")

    def _place(self, stage: str) -> Path:
        """Where the stage of this teaching is, or will be. A finished one from before is another's."""
        partial, made = self._folder / f".{stage}.partial", self._folder / stage
        with contextlib.suppress(OSError):
            if (made / "stage.json").stat().st_mtime > self._started or (self.mode, stage) == ("resume", "reward"):
                return partial if partial.is_dir() else made
        return partial


def _finished(taste: Path) -> bool:
    """Whether a taste is whole: its policy is there, and not older than its reward model."""
    with contextlib.suppress(OSError):
        reward, rlhf = ((taste / stage / "stage.json").stat().st_mtime for stage in ("reward", "rlhf"))
        return reward <= rlhf and not any(taste.glob(".*.partial"))
    return False

"""A command that writes what `python -m rlhf.taste` writes, without learning anything: see test_teaching.py."""

import argparse
import json
import sys
import time
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--run", type=Path)
parser.add_argument("--name")
parser.add_argument("--rankings", nargs="*")
parser.add_argument("--craft")
parser.add_argument("--watch", type=Path)
for flag in ("--again", "--resume", "--overwrite"):
    parser.add_argument(flag, action="store_true")
options = parser.parse_args()
folder = options.run / "tastes" / options.name
if options.name == "refused":
    print("working", file=sys.stderr)
    sys.exit("error: no ranking says anything: rank replies without ties")
if options.name == "silent":
    sys.exit(3)
folder.mkdir(parents=True, exist_ok=True)
(folder / "arguments.json").write_text(json.dumps(sys.argv[1:]))


def stage(name: str, lines: list[dict], wait: bool = False) -> None:
    partial = folder / f".{name}.partial"
    partial.mkdir(exist_ok=True)
    (partial / "settings.json").write_text('{"total_episodes": 64}')
    with (partial / "metrics.jsonl").open("a") as file:
        for line in lines:
            file.write(json.dumps(line) + "\n")
            file.flush()
    while wait and not (folder / "stop").exists():
        time.sleep(0.01)
    (folder / "stop").unlink(missing_ok=True)
    (partial / "stage.json").write_text("{}")
    target = folder / name
    if target.exists():
        target.rename(folder / f".{name}.replaced")
    partial.rename(target)


stage("reward", [{"step": 1, "loss": 0.7, "accuracy": 0.5}, {"step": 2, "loss": 0.2, "accuracy": 0.75}])
replies = {"watched_before": ["old one", "old two"]}
lines = [
    {"update": n, "episode": 16 * n, "objective/scores": n / 2, "objective/kl": n / 4} | (replies if n == 1 else {})
    for n in (1, 2)
]
stage("rlhf", [*lines[:1], lines[1] | {"watched": ["new one", "new two"]}], wait="slow" in options.name)

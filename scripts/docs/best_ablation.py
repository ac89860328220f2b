"""What each ingredient of preset `laptop-best` is worth: one thing changed at a time, measured on held-out text.

    python scripts/docs/best_ablation.py                                # every row, one after another
    python scripts/docs/best_ablation.py --rows "no teachers"           # some

The validation split has no part in this: a row learns from nine tenths of the training split and is measured on its
last tenth. Finished rows are kept; the same command continues with the others. Prints the rows of docs/results.md.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

from data.corpus import load_corpus
from data.run.record import read_stage
from data.tokenizers import Tokenizer
from pretrain.checkpoint import load_model
from pretrain.evaluate import evaluate_split

BASE = "laptop-best"
ROWS = {
    BASE: "",
    "no teachers": "--teachers 0",
    "no teachers, dropout .2": "--teachers 0 --dropout 0.2",
    "one teacher": "--teachers 1",
    "as narrow as a teacher": "--width 128 --heads 2 --feed-forward 344",
    "… and 1,500 steps": "--width 128 --heads 2 --feed-forward 344 --steps 1500",
    "half the steps": "--steps 650",
    "five teachers": "--teachers 5",
}
STRIDE = 32


def train(row: str, run: Path, text: Path) -> str:
    """The row's line of the table, after training it if it is not there yet."""
    folder = run / row.replace(" ", "-")
    if not (folder / "pretrain").exists():
        learned = run / BASE / "teachers"
        if row != BASE and learned.exists() and not (folder / "teachers").exists():
            shutil.copytree(learned, folder / "teachers")  # the same for every row that has any
        resume = ["--resume"] if folder.exists() and any(folder.rglob(".pretrain.partial")) else []
        command = [sys.executable, "-m", "pretrain", "laptop-best", "--run", str(folder), "--corpus", str(text)]
        subprocess.run([*command, *ROWS[row].split(), *resume], check=True)
    record = read_stage(folder / "pretrain")
    model, tokenizer, corpus = (
        load_model(folder / "pretrain"),
        Tokenizer.load(folder / "pretrain"),
        load_corpus(str(text)),
    )
    sliding = evaluate_split(model, tokenizer, corpus.validation, corpus.train, stride=STRIDE)["nats_per_char"]
    metrics = (folder / "pretrain" / "metrics.jsonl").read_text("utf-8").splitlines()
    return (
        f"| {row} | {record.results['nats_per_char']:.4f} | {sliding:.4f} | "
        f"{json.loads(metrics[-1])['train_nats_per_token']:.3f} | {record.wall_seconds:.0f} s |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/best-ablation"))
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    chosen = parser.parse_args()
    chosen.run.mkdir(parents=True, exist_ok=True)
    text = chosen.run / "text.txt"
    text.write_text(load_corpus("auto").train, "utf-8")
    print(f"| row | held-out nats/char | sliding by {STRIDE} | training nats/token | its own seconds |")
    print("|---|---|---|---|---|", flush=True)
    for row in chosen.rows:
        print(train(row, chosen.run, text), flush=True)


if __name__ == "__main__":
    main()

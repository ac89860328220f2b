"""The pretraining loop."""

import math
import shutil
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed
from torch import Tensor

from data.console import UserError
from data.corpus import Corpus, load_corpus
from data.run.card import Card
from data.run.folder import StageFolder, first_corpus, open_stage
from data.run.plots import plot_curves
from data.run.progress import progress_bar
from data.run.writing import write_samples
from data.tokenizers import Tokenizer, build_tokenizer
from pretrain.checkpoint import new_model, save_model
from pretrain.config import PretrainConfig
from pretrain.evaluate import evaluate_split
from pretrain.machine import OwnPrecision, choose_device, compute_dtype, process_state, seeded, short_seed
from pretrain.sample import sample_texts
from pretrain.training.optim import build_optimizers, set_schedule
from pretrain.training.schedules import lr_factor
from pretrain.training.teachers import load_teachers, mean_prediction, teacher_configs

CARD = Card(
    what="A small language model trained from scratch on one text. It continues text; it was not taught to answer "
    "or to stop.",
    metrics={
        "bits_per_char": "bits per character, whole validation split",
        "nats_per_char": "nats per character, whole validation split",
        "training_tokens": "tokens trained on",
    },
    limits="A model of this size that has read one text imitates its form and not its sense. It is for study.",
    prompt='"\\n"',
)


class Windows:
    """The training text as windows of `context` + 1 tokens, in a new order and phase every epoch.

    Which windows a step sees depends on the seed and the step alone, so resuming needs no more than the
    step, and any number of processes sees the same batch.
    """

    def __init__(self, ids: Tensor, context: int, batch_size: int, seed: int) -> None:
        self.ids, self.context, self.batch_size, self.seed = ids, context, batch_size, seed
        # The last window of every phase must fit: one window fewer than the text could hold.
        self.per_epoch = (len(ids) - 1) // context - 1
        self._epoch, self._starts = -1, torch.empty(0, dtype=torch.long)

    def batch(self, step: int) -> Tensor:
        """Windows (batch_size, context + 1) of a step."""
        starts = [self._start(step * self.batch_size + row) for row in range(self.batch_size)]
        return torch.stack([self.ids[start : start + self.context + 1] for start in starts])

    def _start(self, index: int) -> int:
        epoch, position = divmod(index, self.per_epoch)
        if epoch != self._epoch:
            generator = seeded(self.seed * 1_000_003 + epoch)
            phase = int(torch.randint(self.context, (), generator=generator))
            self._starts = torch.randperm(self.per_epoch, generator=generator) * self.context + phase
            self._epoch = epoch
        return int(self._starts[position])


def encode_corpus(corpus: Corpus, config: PretrainConfig) -> tuple[Tokenizer, Tensor]:
    """The tokenizer and the training split's ids (N,); UserError where the text is too short."""
    # Characters are an alphabet, not something learned: the course takes them from the whole text.
    text = corpus.text if config.tokenizer == "char" else corpus.train
    tokenizer = build_tokenizer(config.tokenizer, text, config.vocab_size)
    ids = torch.tensor(tokenizer.encode(corpus.train), dtype=torch.long)
    need = 2 * config.context_length + 1
    if len(ids) < need or not corpus.validation:
        raise UserError(
            f"corpus '{corpus.name}' is too short: its training split has {len(ids)} tokens, "
            f"context_length {config.context_length} needs at least {need}"
        )
    return tokenizer, ids


@dataclass
class Progress:
    """Where the training stands; with the weights, the optimizers and the RNGs, all that resume needs."""

    step: int = 0
    best_nats_per_char: float = math.inf
    best_step: int = 0
    loss_sum: float = 0.0
    """Training loss in nats per token, summed over the steps since the last evaluation."""
    loss_steps: int = 0


class Pretraining:
    """One run: the model, what it learns from, and how far it has come."""

    def __init__(self, config: PretrainConfig, corpus: Corpus | None = None) -> None:
        """`corpus` is the text of `config.corpus`, if it is at hand."""
        config.validate()
        self.config = config
        self.accelerator = OwnPrecision(choose_device(config.device))
        self.micro, self.accumulation = config.micro_batches(self.accelerator.num_processes)
        with self.accelerator.main_process_first():
            self.corpus = corpus or load_corpus(config.corpus)
        self.tokenizer, ids = encode_corpus(self.corpus, config)
        self.windows = Windows(ids, config.context_length, config.batch_size, config.seed)
        set_seed(short_seed(config.seed))
        self.model = new_model(config.model_config(self.tokenizer.vocab_size))
        self.model.compute_dtype = compute_dtype(config.precision, self.accelerator.device)
        prepared = self.accelerator.prepare(self.model, *build_optimizers(self.model, config))
        self.parallel, self.optimizers = prepared[0], list(prepared[1:])
        self.trained = torch.compile(self.parallel) if config.compile else self.parallel
        self.teachers = load_teachers(config, self.corpus, self.accelerator.device, self.model.compute_dtype)
        set_seed(short_seed(config.seed + self.accelerator.process_index))  # dropout differs between processes
        self.progress = Progress()

    def describe(self) -> str:
        config, tokens = self.config, self.config.steps * self.config.batch_size * self.config.context_length
        parameters = self.model.parameter_count()
        size = f"{parameters / 1e6:.2f} M" if parameters > 100_000 else f"{parameters:,}"
        return (
            f"{size} parameters · {self.corpus.name} · {self.tokenizer.kind} "
            f"vocabulary {self.tokenizer.vocab_size} · {config.steps} steps, "
            f"{tokens / len(self.windows.ids):.1f} epochs · "
            f"{str(self.model.compute_dtype).removeprefix('torch.')} on {self.accelerator.device}"
            + (f" in {self.accelerator.num_processes} processes" if self.accelerator.num_processes > 1 else "")
        )

    def train(self, folder: StageFolder) -> None:
        """Train to the last step, from the saved state if the folder has one."""
        if folder.resuming:
            self._load(folder)
        with progress_bar("pretrain", self.config.steps, self.progress.step) as bar:
            if self.config.eval_first and self.progress.step == 0:
                self._evaluate(folder)
            while self.progress.step < self.config.steps:
                self.step()
                bar.advance()
                ended = self.progress.step == self.config.steps
                if ended or self.progress.step % self.config.eval_every == 0:
                    loss = self._evaluate(folder)
                    best = self.progress.best_nats_per_char / math.log(2)
                    bar.advance(0, f"training loss {loss:.3f} · best {best:.4f} bits/char")
                if not ended and self.progress.step % self.config.save_every == 0:
                    self._save(folder)

    def step(self) -> None:
        """Learn from the next batch."""
        config, step = self.config, self.progress.step
        set_schedule([optimizer.optimizer for optimizer in self.optimizers], self.lr_factor(step), step / config.steps)
        share = self.micro * self.accumulation
        first = self.accelerator.process_index * share
        batch = self.windows.batch(step)[first : first + share].to(self.accelerator.device)
        for number, part in enumerate(batch.split(self.micro)):
            last = number == self.accumulation - 1
            ids, targets = part[:, :-1], part[:, 1:]
            if self.teachers:
                targets = mean_prediction(self.teachers, ids)
            with nullcontext() if last else self.accelerator.no_sync(self.parallel):
                loss = self.trained(ids, targets) / self.accumulation
                self.accelerator.backward(loss)
            self.progress.loss_sum += loss.item()
        if config.max_grad_norm is not None:
            self.accelerator.clip_grad_norm_(self.model.parameters(), config.max_grad_norm)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()  # of every optimizer, or Muon's gradients would accumulate
        self.progress.step += 1
        self.progress.loss_steps += 1

    def lr_factor(self, step: int) -> float:
        """The share of the peak learning rate that a step takes."""
        return lr_factor(step, self.config)

    def _evaluate(self, folder: StageFolder) -> float:
        """Validate on the whole split, keep the weights if they are the best so far; the training loss."""
        progress = self.progress
        train_loss = progress.loss_sum / max(1, progress.loss_steps)
        progress.loss_sum, progress.loss_steps = 0.0, 0
        if not self.accelerator.is_main_process:
            return train_loss
        metrics = evaluate_split(self.model, self.tokenizer, self.corpus.validation, self.corpus.train)
        nats = metrics["nats_per_char"]
        if not (math.isfinite(nats) and math.isfinite(train_loss)):
            raise UserError(
                f"the loss is no longer a number at step {progress.step}: lower the learning rate or set max_grad_norm"
            )
        if nats < progress.best_nats_per_char:
            progress.best_nats_per_char, progress.best_step = nats, progress.step
            save_model(self.model, self.tokenizer, folder.path)
            self.tokenizer.save(folder.path, self.model.context_length)
        [sample] = sample_texts(
            self.model, self.tokenizer, ["\n"], max_new_tokens=self.config.sample_tokens, seed=self.config.seed
        )
        folder.log(
            step=progress.step,
            train_nats_per_token=round(train_loss, 5) if progress.step else None,
            bits_per_char=round(metrics["bits_per_char"], 5),
            nats_per_char=round(nats, 5),
            nats_per_token=round(nats * metrics["chars"] / metrics["tokens"], 5),
            lr_factor=round(self.lr_factor(progress.step), 5),
            sample=sample,
        )
        return train_loss

    def _save(self, folder: StageFolder) -> None:
        """The state in `resume/`, put in its place by a rename."""
        fresh = folder.path / "resume.new"
        self.accelerator.save_state(str(fresh / "accelerate"))
        if self.accelerator.is_main_process:
            torch.save(asdict(self.progress), fresh / "progress.pt")
            shutil.rmtree(folder.resume_path, ignore_errors=True)
            fresh.rename(folder.resume_path)
        self.accelerator.wait_for_everyone()

    def _load(self, folder: StageFolder) -> None:
        """Go back to the saved state; what was logged after it will be made again."""
        if (folder.resume_path / "progress.pt").exists():
            self.accelerator.load_state(str(folder.resume_path / "accelerate"))
            self.progress = Progress(**torch.load(folder.resume_path / "progress.pt"))
            folder.truncate_metrics(after=self.progress.step)
        else:
            folder.truncate_metrics(after=-1)


def pretrain(config: PretrainConfig, preset: str, corpus: Corpus | None = None) -> Path:
    """Train a GPT from scratch and leave it in RUN/pretrain; returns that folder. Its teachers, if any, come first.

    `corpus` is the text of `config.corpus`, if it is at hand.
    """
    config.validate()
    process_state(choose_device(config.device))
    corpus = corpus or first_corpus("pretrain", config, config.corpus)
    for teacher in teacher_configs(config):
        if config.overwrite or not (teacher.run / "pretrain").exists():
            started = (teacher.run / ".pretrain.partial").exists()
            pretrain(replace(teacher, resume=config.resume and started), config.teacher_preset, corpus)
    if config.teachers and config.resume and not (config.run / ".pretrain.partial").exists():
        config = replace(config, resume=False)  # it was a teacher that was interrupted
    run = Pretraining(config, corpus)
    with open_stage("pretrain", config, preset=preset, corpus=corpus) as stage:
        stage.announce(run.describe())
        run.train(stage)
        if run.accelerator.is_main_process:
            conclude(run, stage)
    return stage.final


def conclude(run: Pretraining, stage: StageFolder) -> None:
    """Results, plot and samples of a run that has ended."""
    config, metrics, floor = run.config, stage.read_metrics(), run.corpus.entropy_bits_per_char
    best = min(metrics, key=lambda line: line["nats_per_char"])
    stage.results = {
        "bits_per_char": best["bits_per_char"],
        "nats_per_char": best["nats_per_char"],
        "best_step": best["step"],
        "entropy_bits_per_char": floor,
        "parameters": run.model.parameter_count(),
        "training_tokens": config.steps * config.batch_size * config.context_length,
    }
    stage.summary = (
        f"{best['bits_per_char']:.4f} bits per character ({best['nats_per_char']:.4f} nats) on the whole "
        f"validation split{f', where the grammar itself has {floor:.4f} bits' if floor else ''}"
    )
    stage.card = CARD
    write_plot(stage.path / "loss.png", metrics, run)
    samples = (
        (f"Step {line['step']}, {line['bits_per_char']:.3f} bits per character", [("", line["sample"])])
        for line in reversed(metrics)
    )
    write_samples(stage.path / "samples.md", "Samples while training", samples)


def write_plot(path: Path, metrics: list[dict[str, Any]], run: Pretraining) -> None:
    """Validation and training loss in bits per character over the steps, without the untrained model's."""
    metrics = [line for line in metrics if line["step"]]
    chars_per_token = len(run.corpus.train) / len(run.windows.ids)
    steps = [line["step"] for line in metrics]
    training = [line["train_nats_per_token"] / math.log(2) / chars_per_token for line in metrics]
    validation = [line["bits_per_char"] for line in metrics]
    floor = run.corpus.entropy_bits_per_char
    plot_curves(
        path,
        {"training (dropout on)": (steps, training), "validation, whole split": (steps, validation)},
        xlabel="optimizer step",
        ylabel="bits per character",
        title=f"Pretraining on {run.corpus.name}",
        floor=("entropy of the grammar", floor) if floor else None,
    )

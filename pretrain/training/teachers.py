"""Learning from other models' predictions: what several know, in one (Hinton et al., arXiv 1503.02531)."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from data.console import UserError
from data.corpus import Corpus
from data.run.options import settings
from data.run.record import read_stage
from pretrain.checkpoint import load_model
from pretrain.config import PretrainConfig
from pretrain.model import GPT
from pretrain.presets import PRESETS


def teacher_configs(config: PretrainConfig) -> list[PretrainConfig]:
    """The runs that come before a run of `config`, in RUN/teachers/1, 2, …; UserError if they could not teach it."""
    if not config.teachers:
        return []
    if config.family not in ("gpt2", "modern"):
        raise UserError(f"a model of the ladder ({config.family}) learns without teachers: set teachers to 0")
    if config.teacher_preset not in PRESETS:
        raise UserError(f"no preset is called {config.teacher_preset}: --teacher-preset is one of {', '.join(PRESETS)}")
    preset = PRESETS[config.teacher_preset][1]
    if preset.teachers or preset.context_length < config.context_length:
        raise UserError(f"preset {config.teacher_preset} cannot teach: it has teachers itself or a shorter context")
    return [
        replace(
            preset,
            corpus=config.corpus,
            tokenizer=config.tokenizer,
            vocab_size=config.vocab_size,
            run=config.run / "teachers" / str(number),
            seed=(config.seed + 1000 * number) % 2**64,
            overwrite=config.overwrite,
        )
        for number in range(1, config.teachers + 1)
    ]


def load_teachers(config: PretrainConfig, corpus: Corpus, device: torch.device, dtype: torch.dtype) -> list[GPT]:
    """The finished models of `teacher_configs`, in evaluation mode; `dtype` is what they compute in.

    UserError where one was made with other settings or has learned from another text than `corpus`.
    """
    teachers = []
    for teacher_config in teacher_configs(config):
        folder = teacher_config.run / "pretrain"
        record = read_stage(folder)
        if record.config != settings(teacher_config):
            raise UserError(f"{folder} was made with other settings: add --overwrite to make it again")
        if record.corpus["sha256"] != corpus.sha256:
            raise UserError(f"{folder} learned from another text ({record.corpus['name']}): add --overwrite")
        teacher = load_model(folder, device)
        teacher.compute_dtype = dtype
        teachers.append(teacher)
    return teachers


@torch.no_grad()
def mean_prediction(teachers: Sequence[GPT], ids: Tensor) -> Tensor:
    """The mean of the teachers' distributions over the next token, (B, T, V) float32, for ids (B, T)."""
    return torch.stack([teacher(ids).softmax(-1) for teacher in teachers]).mean(0)

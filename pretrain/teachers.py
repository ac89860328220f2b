"""Learning from other models' predictions: what several know, in one (Hinton et al., arXiv 1503.02531)."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from data.console import UserError
from pretrain.checkpoint import load_model
from pretrain.config import PretrainConfig
from pretrain.model import GPT
from pretrain.presets import PRESETS
from pretrain.stage import read_stage, settings

TABLE_LIMIT = 8 * 2**30
"""Bytes of the teachers' predictions of the whole training text."""
WINDOWS_AT_ONCE = 16


def teacher_configs(config: PretrainConfig) -> list[PretrainConfig]:
    """The runs that come before a run of `config`, in RUN/teachers/1, 2, …; UserError if they could not teach it."""
    if not config.teachers:
        return []
    if config.family not in ("gpt2", "modern"):
        raise UserError(f"a model of the ladder ({config.family}) learns without teachers: set teachers to 0")
    if config.teacher_preset not in PRESETS:
        raise UserError(f"no preset is called {config.teacher_preset}: --teacher-preset is one of {', '.join(PRESETS)}")
    preset = PRESETS[config.teacher_preset][1]
    if preset.teachers or preset.padded_vocab_size or config.padded_vocab_size:
        raise UserError(f"preset {config.teacher_preset} cannot teach: it has teachers itself, or a padded vocabulary")
    return [
        replace(
            preset,
            corpus=config.corpus,
            tokenizer=config.tokenizer,
            vocab_size=config.vocab_size,
            run=config.run / "teachers" / str(number),
            seed=config.seed + 1000 * number,
            overwrite=config.overwrite,
        )
        for number in range(1, config.teachers + 1)
    ]


def load_teachers(config: PretrainConfig, device: torch.device, dtype: torch.dtype) -> list[GPT]:
    """The finished models of `teacher_configs`, in evaluation mode; `dtype` is what they compute in."""
    teachers = []
    for teacher_config in teacher_configs(config):
        folder = teacher_config.run / "pretrain"
        if read_stage(folder).config != settings(teacher_config):
            raise UserError(f"{folder} was made with other settings: add --overwrite to make it anew")
        teacher = load_model(folder, device)
        teacher.compute_dtype = dtype
        teachers.append(teacher)
    return teachers


@torch.inference_mode()
def mean_predictions(teachers: Sequence[GPT], ids: Tensor) -> Tensor:
    """What the teachers expect after every token of a text, on average: (N, V) float16 for ids (N,).

    Every prediction but the first ones is made from at least half a context: more than a pupil sees who reads the
    text in windows. UserError where the table would not fit into TABLE_LIMIT bytes.
    """
    length, vocabulary = teachers[0].context_length, teachers[0].config.vocab_size
    if 2 * len(ids) * vocabulary > TABLE_LIMIT:
        raise UserError(
            f"what teachers expect of {len(ids):,} tokens with a vocabulary of {vocabulary:,} takes "
            f"{2 * len(ids) * vocabulary / 2**30:.0f} GiB: use a smaller --vocab-size, or no teachers"
        )
    device, half = teachers[0].device, length // 2
    table = torch.empty(len(ids), vocabulary, dtype=torch.float16)
    # The first window is taken whole, of the others the second half.
    starts = torch.arange(0, max(len(ids) - length, 0) + half, half).clamp(max=max(len(ids) - length, 0)).unique()
    places = torch.arange(min(length, len(ids)))
    for chunk in starts.split(WINDOWS_AT_ONCE):
        windows = ids[chunk[:, None] + places].to(device)
        expected = torch.stack([teacher(windows).softmax(-1) for teacher in teachers]).mean(0).half().cpu()
        for start, rows in zip(chunk.tolist(), expected, strict=True):
            kept = half if start else 0
            table[start + kept : start + len(rows)] = rows[kept:]
    return table

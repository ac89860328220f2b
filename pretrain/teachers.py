"""Learning from other models' predictions: what several know, in one (Hinton et al., arXiv 1503.02531)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from data.console import UserError
from pretrain.checkpoint import load_model
from pretrain.config import PretrainConfig
from pretrain.model import GPT
from pretrain.stage import read_stage, settings


def load_teachers(config: PretrainConfig, pupil: GPT) -> list[GPT]:
    """The finished models of `config.teacher_configs()`, in evaluation mode, where and as the pupil computes."""
    teachers = []
    for teacher_config in config.teacher_configs():
        folder = teacher_config.run / "pretrain"
        if read_stage(folder).config != settings(teacher_config):
            raise UserError(f"{folder} was made with other settings: add --overwrite to make it anew")
        teacher = load_model(folder, pupil.device)
        teacher.compute_dtype = pupil.compute_dtype
        teachers.append(teacher)
    return teachers


@torch.no_grad()
def mean_prediction(teachers: Sequence[GPT], ids: Tensor) -> Tensor:
    """The mean of the teachers' distributions over the next token, (B, T, V) float32, for ids (B, T)."""
    return torch.stack([teacher(ids).softmax(-1) for teacher in teachers]).mean(0)

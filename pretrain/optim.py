"""The optimizers: AdamW alone, or torch's Muon on the hidden matrices with AdamW on the rest."""

import torch
from torch import nn

from pretrain.config import PretrainConfig


def build_optimizers(model: nn.Module, config: PretrainConfig) -> list[torch.optim.Optimizer]:
    """The optimizers of every parameter, each exactly once; groups keep their peak in `peak_lr`.

    Muon (Jordan, 2024) takes the matrices inside the blocks and decays them; embeddings and the head stay with
    AdamW, undecayed. Alone, AdamW decays the matrices (norms, gains and biases not), or everything.
    """
    hidden, matrices, rest = [], [], []
    for name, parameter in model.named_parameters():
        if config.optimizer == "muon" and parameter.ndim == 2 and name.startswith("blocks."):
            hidden.append(parameter)
        elif parameter.ndim == 2:
            matrices.append(parameter)
        else:
            rest.append(parameter)
    muon = config.optimizer == "muon"
    adamw = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": 0.0 if muon else config.weight_decay},
            {"params": rest, "weight_decay": config.weight_decay if config.decay == "all" and not muon else 0.0},
        ],
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_eps,
        fused=True,
    )
    optimizers: list[torch.optim.Optimizer] = [adamw]
    if hidden:
        optimizers.append(
            torch.optim.Muon(
                hidden,
                lr=config.muon_learning_rate,
                momentum=0.95,
                weight_decay=config.weight_decay,
                adjust_lr_fn="original",
            )
        )
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def set_schedule(optimizers: list[torch.optim.Optimizer], scale: float, progress: float) -> None:
    """Learning rates at `scale` of their peaks; Muon's momentum rises from .85 to .95 in the first tenth."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * scale
            if "momentum" in group:
                group["momentum"] = 0.85 + 0.1 * min(1.0, progress / 0.1)

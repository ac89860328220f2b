"""The optimizers: AdamW alone, or Muon on the hidden matrices with AdamW on the rest."""

import math
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn

from pretrain.config import PretrainConfig


class Muon(torch.optim.Muon):
    """torch's Muon (Jordan, 2024), with matrices of one shape, or its transpose, orthogonalised at once.

    torch takes the matrices one after the other, which at the widths of this course is mostly waiting.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update, as `torch.optim.Muon.step` with the learning rate adjusted for shape as in the original."""
        for group in self.param_groups:
            decay, momentum = 1 - group["lr"] * group["weight_decay"], group["momentum"]
            alike: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                if "momentum_buffer" not in self.state[weight]:
                    self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
                average = self.state[weight]["momentum_buffer"]
                average.lerp_(weight.grad, 1 - momentum)
                nesterov = weight.grad.lerp(average, momentum)
                wide = nesterov if len(nesterov) <= nesterov.shape[1] else nesterov.T
                alike[wide.shape[0], wide.shape[1]].append((weight, wide))
            for matrices in alike.values():
                updates = orthogonalise(torch.stack([wide for _, wide in matrices]), group)
                for (weight, _), update in zip(matrices, updates, strict=True):
                    tall = len(weight) > weight.shape[1]
                    shape_factor = math.sqrt(len(weight) / weight.shape[1]) if tall else 1.0
                    weight.mul_(decay).add_(update.T if tall else update, alpha=-group["lr"] * shape_factor)


def orthogonalise(matrices: Tensor, group: dict[str, Any]) -> Tensor:
    """The nearest semi-orthogonal matrices, roughly, of (n, rows ≤ columns): a Newton–Schulz iteration in bfloat16."""
    a, b, c = group["ns_coefficients"]
    x = matrices.bfloat16()
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=group["eps"])
    for _ in range(group["ns_steps"]):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


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
            Muon(
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


def set_schedule(optimizers: list[torch.optim.Optimizer], lr_factor: float, progress: float) -> None:
    """Learning rates at `lr_factor` of their peaks; Muon's momentum rises from .85 to .95 in the first tenth."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * lr_factor
            if "momentum" in group:
                group["momentum"] = 0.85 + 0.1 * min(1.0, progress / 0.1)

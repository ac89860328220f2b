"""The end token's row of the embedding, made ready before fine-tuning.

No text of pretraining holds `<|endoftext|>`, so its row is noise. From noise, or from the mean of all rows, one
epoch does not teach the model to stop.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sft.pairs import Example

PROBED = 512
"""Examples that the row is fitted on."""
PULL = 1e-4
"""Minimum L2 penalty towards the initial row."""


def start_end_row(model: Any, newline_id: int, eos_id: int) -> None:
    """Set the end token's rows of both embeddings to those of the newline, which ended a speech until now."""
    with torch.no_grad():
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            layer.weight[eos_id] = layer.weight[newline_id]  # one tensor where they are tied


def fit_end_row(model: Any, examples: Sequence[Example], eos_id: int) -> None:
    """Fit the end token's row of the output embedding to the ends of completions, all else frozen.

    A linear probe before fine-tuning (Kumar et al., arXiv 2202.10054): it says in the terms of the model as it
    is where a reply ends. Left to fine-tuning, the row stays close to the newline's for an epoch, and replies
    end wherever a line of verse does.
    """
    hidden, rest, ends = _end_features(model, examples[:PROBED], eos_id)
    head = model.get_output_embeddings().weight
    start = head[eos_id].detach().clone()
    row = start.clone().requires_grad_(True)
    pull = max(PULL, 1 / len(ends))  # few examples could not tell where other replies end, and may not try
    optimizer = torch.optim.LBFGS([row], max_iter=60, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.binary_cross_entropy_with_logits(hidden @ row - rest, ends)
        value = value + pull * (row - start).square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad():
        head[eos_id] = row
        model.get_input_embeddings().weight[eos_id] = row  # one tensor where they are tied


@torch.no_grad()
def _end_features(model: Any, examples: Sequence[Example], eos_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """For the N completion tokens: the states (N, C) that predict them, the log-sum-exp (N,) of all other tokens'
    logits, and whether (N,) the token is the end."""
    hidden, rest, ends = [], [], []
    head = model.get_output_embeddings()
    for example in examples:
        ids = torch.tensor([example.ids], device=model.device)
        states = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0, len(example.prompt) - 1 : -1]
        logits = head(states)
        logits[:, eos_id] = -torch.inf
        hidden.append(states)
        rest.append(logits.logsumexp(-1))
        ends.append(ids[0, len(example.prompt) :] == eos_id)
    return torch.cat(hidden), torch.cat(rest), torch.cat(ends).float()

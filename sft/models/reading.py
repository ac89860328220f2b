"""How a model of transformers is called so that every row of a padded batch is read as if it stood alone.

Models differ in where their positions begin, in whether they take any, and in what they make of a mask. So the ways of
calling one are tried against what it says of single texts without padding; the first that says the same is used.

B: sequences, T: longest of them, C: width of what is read.
"""

import inspect
from typing import Any, Literal

import torch
from torch import Tensor

from data.console import UserError
from pretrain.machine import full_precision_matmul
from sft.models.batch import Batch, Ids, Padded, position_ids
from sft.models.loading import context_length, first_line, first_position, is_quantised

Way = Literal["positions", "mask", "ids", "rows"]
WAYS: tuple[Way, ...] = ("positions", "mask", "ids", "rows")
"""With a mask and positions; with a mask, positions being the model's affair; with the ids alone; a row at a time."""


class Reader:
    """One output of a model for padded batches, in the first way of calling it that padding does not disturb."""

    def __init__(
        self, model: Any, output: str, role: str = "model", *, causal: bool = True, known: Way | None = None
    ) -> None:
        """output: `last_hidden_state` or `logits`. role: what errors call the model, which is in evaluation mode.

        causal: whether a token must not be read with those after it. known: the way, where it need not be looked for.
        UserError where the model cannot read text, reads it from both sides, or draws random numbers.
        """
        self.model, self.output = model, output
        self.first = first_position(model)
        self.way: Way = known or self._find(role, causal)

    @property
    def device(self) -> torch.device:
        """Where the model is now."""
        weight = next(self.model.parameters(), None)
        return torch.device("cpu") if weight is None else weight.device

    def __call__(self, padded: Padded) -> Tensor:
        """(B, T, C); of no interest where `padded.mask` is False."""
        return self._read(padded, self.way)

    def alone(self, row: Ids | Tensor) -> Tensor:
        """(len(row), C), of one text without padding: the truth."""
        ids = torch.as_tensor(row, device=self.device)[None]
        read: Tensor = self._call(input_ids=ids)[0]
        return read

    def _call(self, **inputs: Any) -> Tensor:
        output: Tensor = getattr(self.model(**accepted(self.model, use_cache=False), **inputs), self.output)
        return output

    def _read(self, padded: Padded, way: Way) -> Tensor:
        if way == "rows":
            rows = [self.alone(ids[real]) for ids, real in zip(padded.ids, padded.mask, strict=True)]
            states = padded.mask.new_zeros(*padded.mask.shape, rows[0].shape[-1], dtype=rows[0].dtype)
            return states.masked_scatter(padded.mask[..., None], torch.cat(rows))
        inputs: dict[str, Any] = {"input_ids": padded.ids}
        if way != "ids":
            inputs["attention_mask"] = padded.mask.long()
        if way == "positions":
            inputs["position_ids"] = position_ids(padded.mask) + self.first
        return self._call(**inputs)

    @torch.no_grad()
    def _find(self, role: str, causal: bool) -> Way:
        kind, rows = type(self.model).__name__, probe_rows(self.model)
        with full_precision_matmul():
            try:
                truth = [self.alone(row) for row in rows]
                self._learn(rows[0])
            except Exception as error:  # whatever a model may raise that lacks something
                raise UserError(
                    f"the {role} ({kind}) cannot read or learn plain text ({first_line(error)}): give another model"
                ) from error
            if causal and not close(self.model, truth[0][: len(rows[1])], truth[1]):
                raise UserError(
                    f"the {role} ({kind}) says something else of a token when others follow, so it cannot continue a "
                    "text: give a causal model, or set is_decoder (XLNet: attn_type) in its configuration if it is one"
                )
            padded = Batch(rows, [[] for _ in rows], self.device).padded
            for way in WAYS:
                try:
                    states = self._read(padded, way)
                except Exception:  # not a way to call this model
                    continue
                if all(close(self.model, s[: len(t)], t) for s, t in zip(states, truth, strict=True)):
                    return way
        raise UserError(
            f"the {role} ({kind}) says different things of the same text, so something in it is random: give another "
            "model"
        )

    @torch.enable_grad()
    def _learn(self, row: Ids) -> None:
        """Compute a gradient, which some models refuse to in evaluation mode (Reformer); nothing is kept of it."""
        weight = next((weight for weight in self.model.parameters() if weight.requires_grad), None)
        if weight is not None:
            torch.autograd.grad(self.alone(row).float().sum(), weight, allow_unused=True)


def accepted(model: Any, **arguments: Any) -> dict[str, Any]:
    """Those of the arguments that the model's `forward` takes."""
    parameters = inspect.signature(model.forward).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return arguments
    return {name: value for name, value in arguments.items() if name in parameters}


def body_of(model: Any) -> Any:
    """A model without its head. UserError where it has no such part."""
    if model.base_model is not model:
        return model.base_model
    # Llama 4's class names another part than it has.
    parts = [part for name in ("model", "transformer") if (part := getattr(model, name, None)) is not None]
    if not parts:
        raise UserError(f"a {type(model).__name__} has no body apart from its head: give another model")
    return parts[0]


def probe_rows(model: Any) -> list[list[int]]:
    """Token ids of three texts to try a model with: the second is the beginning of the first, the third another one.

    None holds PAD, to which some models give a position of its own.
    """
    config = model.config.get_text_config()
    ids = [i for i in range(min(config.vocab_size, 12)) if i != getattr(config, "pad_token_id", None)] or [0]
    long = [ids[i % len(ids)] for i in range(max(1, min(9, context_length(model) - 2)))]
    return [long, long[: max(1, len(long) // 2)], long[1:-2][::-1] or long[:1]]


def close(model: Any, ours: Tensor, theirs: Tensor) -> bool:
    """Whether two tensors are the same but for rounding, which quantised weights do more of."""
    share = 5e-2 if is_quantised(model) else 1e-4
    atol = share * theirs.abs().max().item()
    return ours.shape == theirs.shape and torch.allclose(ours.float(), theirs.float(), atol=atol, rtol=0)

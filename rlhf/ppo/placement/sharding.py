"""Weights, gradients and optimizer state divided among processes, by torch's `fully_shard` (FSDP2).

Each transformer layer is gathered while it computes. References: ZeRO (Rajbhandari et al., arXiv 1910.02054),
PyTorch FSDP (Zhao et al., arXiv 2304.11277).
"""

import copy
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from data.console import UserError
from pretrain.sampling import CachedModel
from rlhf.ppo.adapters import trainable
from rlhf.ppo.placement.precision import layers_of
from sft.models.forward import LogProbs
from sft.models.sampling import HFCachedModel, sampler

DONE = sys.maxsize
"""In `Lockstep`, what a process announces that needs nothing more."""


def divide(
    modules: Sequence[nn.Module], processes: int, device: torch.device, computes_in: torch.dtype | None, frozen: bool
) -> None:
    """Divide the weights of modules among all processes, in place; each must then be called as a module.

    computes_in: data type of gathered weights, if not their own. frozen: whether weights that do not learn are divided
    too; otherwise each process has all of them. Frozen weights that several modules share are kept once in any case.
    """
    mesh = init_device_mesh(device.type, (processes,))
    names = [dict(module.named_parameters(remove_duplicate=False)) for module in modules]
    first = {id(weight): (at, name) for at in reversed(range(len(names))) for name, weight in names[at].items()}
    shared = [{name: first[id(weight)] for name, weight in own.items() if not weight.requires_grad} for own in names]
    for module in modules:
        whole = set() if frozen else {weight for weight in module.parameters() if not weight.requires_grad}
        for weight in whole:
            weight.data = weight.data.to(device)
        settings: dict[str, Any] = {"mesh": mesh, "ignored_params": whole, "reshard_after_forward": True}
        if isinstance(head := getattr(module, "score", None), nn.Linear):
            fully_shard(head, **settings)  # of one row: it stays in float32
        learns = any(weight.requires_grad for weight in module.parameters())
        settings["mp_policy"] = MixedPrecisionPolicy(computes_in if learns else None, reduce_dtype=torch.float32)
        for part in [*layers_of(module), module]:
            fully_shard(part, **settings)
    if frozen:
        for at, places in enumerate(shared):
            theirs = {
                name: modules[other].get_parameter(there) for name, (other, there) in places.items() if other != at
            }
            modules[at].load_state_dict(theirs, strict=False, assign=True)


class Lockstep:
    """What sharded modules do outside of training, which takes all processes: passes, and gathering them.

    How many of them a process needs depends on its prompts, on how long its responses are, and on what fails. So
    within `with lockstep:` each is announced, and a process that is done, or has failed, joins in those of the others
    until all are done.
    """

    def __init__(self, device: torch.device, gathers: bool = True) -> None:
        """gathers: whether `sampler` gathers a policy once. Nothing is done until there is a sharded module."""
        self.device, self.gathers = device, gathers
        self._operations: list[Callable[[], Any]] = []
        self._numbers: dict[nn.Module, int] = {}
        self._open = False

    def add(self, module: nn.Module, call: Callable[[], Any]) -> None:
        """Announce the passes of a module that was divided; `call` makes one."""
        self._numbers[module] = number = len(self._operations)
        self._operations += [call, lambda: _divide_again(_gather(module))]
        module.register_forward_pre_hook(lambda *_: self._announce(number), prepend=True)  # before FSDP's own
        if isinstance(module, LogProbs):
            register_fsdp_forward_method(module, "outputs")
        with torch.no_grad():
            call()  # tells FSDP that this is the module which is called from outside

    def __enter__(self) -> None:
        self._open = bool(self._operations)

    def __exit__(self, *unused: object) -> None:
        try:
            self._announce(DONE)
        finally:
            self._open = False

    @contextmanager
    def gathered(self, module: nn.Module) -> Iterator[None]:
        """Give every process all weights of a module while this lasts; nothing happens to one that is not divided."""
        if module not in self._numbers:
            yield
            return
        self._announce(self._numbers[module] + 1)
        before, self._open = self._open, False  # what it has it need not wait for
        parts = _gather(module)
        try:
            yield
        finally:
            _divide_again(parts)
            self._open = before

    @contextmanager
    def sampler(self, model: LogProbs, dtype: torch.dtype) -> Iterator[CachedModel]:
        """A policy to sample from, see `sft.models.sampling.sampler`: gathered, or layer by layer for every token."""
        if self.gathers or model not in self._numbers:
            with self.gathered(model):
                yield sampler(model, dtype)
            return
        cached, number = HFCachedModel(model.lm), self._numbers[model]

        def call(**inputs: Any) -> Any:
            self._announce(number)
            return model.outputs(**inputs)

        cached.call = call
        yield cached

    def _announce(self, number: int) -> None:
        """Join in what the others need until it is this process's turn, or until all are done."""
        while self._open and (chosen := self._least(number)) != number:
            self._open = False
            with torch.no_grad():
                self._operations[chosen]()
            self._open = True

    def _least(self, number: int) -> int:
        least = torch.tensor(number, device=self.device)
        torch.distributed.all_reduce(least, torch.distributed.ReduceOp.MIN)
        return int(least)


def _gather(module: nn.Module) -> list[FSDPModule]:
    """Gather all parts of a module, and return them."""
    parts: list[FSDPModule] = [part for part in module.modules() if isinstance(part, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    return parts


def _divide_again(parts: list[FSDPModule]) -> None:
    for part in parts:
        part.reshard()
        part.set_reshard_after_forward(True, recurse=False)


def blank(module: nn.Module) -> Any:
    """A copy of a module without the numbers, to be filled by `filled`."""
    return copy.deepcopy(
        module, {id(w): nn.Parameter(w.detach().to("meta"), w.requires_grad) for w in module.parameters()}
    )


def filled(empty: nn.Module, module: nn.Module, keep: bool) -> Any:
    """A `blank` copy with the weights of its sharded original, on the CPU. Every process must call it.

    keep: whether this process wants it; None for others.
    """
    weights: dict[str, Tensor] = {}
    for name, weight in module.named_parameters():
        full = full_tensor(weight.detach())
        if keep:
            weights[name] = full.cpu()
    if not keep:
        return None
    memo = {id(w): nn.Parameter(weights[name], w.requires_grad) for name, w in empty.named_parameters()}
    return copy.deepcopy(empty, memo)


def full_tensor(tensor: Tensor) -> Tensor:
    """All of a tensor, of which each process has a part; one that is whole as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def state_of(modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """What sharded modules have learned, and what Adam knows of it, by name: each process its part."""
    found: dict[str, Any] = {}
    for role, module in modules.items():
        for name, weight in trainable(module).items():
            known = optimizer.state[weight]
            if not known:  # before the first step
                known |= {"step": torch.zeros(()), "exp_avg": torch.zeros_like(weight)}
                known["exp_avg_sq"] = torch.zeros_like(weight)
            found[f"{role}.{name}"] = {"weight": weight.detach(), **known}
    return found


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write what `state_of` gave, each process its part."""
    dcp.save(state, checkpoint_id=folder)


def load_state(folder: Path, state: dict[str, Any]) -> None:
    """Read into the very tensors that `state_of` gave, whatever the number of processes that wrote them."""
    try:
        dcp.load(state, checkpoint_id=folder)
    except Exception as error:  # of torch's checkpoints, pickle and the file system; each process's in one
        raise UserError(
            f"the sharded weights in {folder} are damaged or of another model: start without resuming"
        ) from error
